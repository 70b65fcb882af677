//! VT-x (SDM volume 3, chapters 25 to 30): extended page tables, one control
//! structure a virtual CPU.

mod exit;
mod msrs;
mod processor;
mod switch;
mod vmcs;

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU16, Ordering};

use bunshin::exit::RawExit;
use spin::Once;
use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Efer};
use x86_64::registers::model_specific::{GsBase, Msr};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment as _};
use x86_backend::event::{self, Event};
use x86_backend::machine::registers::{Attributes, InitialState, RFLAGS_FIXED, Segment};
use x86_backend::state::{
    CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, RSP, Registers, SegmentName,
};

use crate::engine::{Cause, Engine, Features, Field};
use crate::host::timer::{self, NEVER};
use crate::host::{self, PerCpu};
use msrs::LazyMsrs;
use processor::{Controls, entry, pin, primary, secondary};
pub(crate) use processor::{Processor, enable, huge_pages, probe};
use vmcs::{SEGMENTS, VmcsField as F};

/// IA32_PAT.
const PAT: u32 = 0x277;
/// IA32_PAT after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// DR7 after reset.
const DR7_RESET: u64 = 0x400;
/// DR6 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;
/// EPT pointer: write-back tables, four levels.
const EPT_POINTER: u64 = 6 | (4 - 1) << 3;
/// Exceptions in whose delivery a guest can keep the processor for ever
/// (CVE-2015-5307, CVE-2015-8104), and the host's own.
const EXCEPTIONS: u64 = 1 << event::DEBUG | 1 << event::ALIGNMENT_CHECK | 1 << event::MACHINE_CHECK;
/// Bits of CR0 that guests change without an exit: MP, EM, TS, WP, AM.
const CR0_GUEST: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18;
/// Bits of CR4 that guests may set if the processor has them: VME to UMIP,
/// FSGSBASE, PCIDE, OSXSAVE, SMEP and SMAP.
const CR4_GUEST: u64 = 0x37_0fff;
/// All others do not exist in guests.
const CR4_HIDDEN: u64 = !CR4_GUEST;
/// Longest time between two PAUSE of one loop, and time after which the loop
/// exits, in ticks.
const PAUSE_GAP: u64 = 128;
const PAUSE_WINDOW: u64 = 4096;

/// Activity states: it executes instructions, or waits in HLT.
const ACTIVITY_ACTIVE: u64 = 0;
const ACTIVITY_HLT: u64 = 1;

/// Bits of the interruptibility state.
mod interruptibility {
    pub(super) const STI: u64 = 1 << 0;
    pub(super) const MOV_SS: u64 = 1 << 1;
    pub(super) const SMI: u64 = 1 << 2;
    pub(super) const NMI: u64 = 1 << 3;
}

/// Identifiers of virtual processors; 0 is the host's.
static NEXT_VPID: AtomicU16 = AtomicU16::new(1);

fn controls() -> &'static Result<Controls, &'static str> {
    static CONTROLS: Once<Result<Controls, &'static str>> = Once::new();
    CONTROLS.call_once(Controls::choose)
}

/// A virtual CPU on VT-x.
pub(crate) struct Vmx {
    vmcs: u64,
    controls: Controls,
    tables: u64,
    vpid: u16,
    launched: bool,
    /// The host part is that of this virtual CPU's home.
    at_home: bool,
    stale: bool,
    pin: u32,
    primary: u32,
    task_priority: u8,
    lazy: LazyMsrs,
    dr6: u64,
    cr2: u64,
    loaded: bool,
    /// The last entry failed before the guest ran.
    failed: bool,
}

impl Vmx {
    /// Makes the structure current; every access to its fields begins here.
    #[inline]
    fn attach(&self) {
        let current = &PerCpu::current().vmx.current;
        if current.get() != self.vmcs {
            vmcs::make_current(self.vmcs);
            current.set(self.vmcs);
        }
    }

    #[inline]
    fn get(&self, field: F) -> u64 {
        self.attach();
        vmcs::read(field)
    }

    #[inline]
    fn set(&mut self, field: F, value: u64) {
        self.attach();
        vmcs::write(field, value);
    }

    fn set_segment(&mut self, name: SegmentName, segment: &Segment) {
        let fields = SEGMENTS[name as usize];
        self.set(fields.selector, u64::from(segment.selector));
        self.set(fields.base, segment.base);
        self.set(fields.limit, u64::from(segment.limit));
        self.set(fields.rights, u64::from(segment.attributes.access_rights()));
    }

    fn set_primary(&mut self, bit: u32, value: bool) {
        let new = if value { self.primary | bit } else { self.primary & !bit };
        if new != self.primary {
            self.primary = new;
            self.set(F::ProcessorControls, u64::from(new));
        }
    }

    /// Bits of CR0 that must be one and guests need not see.
    fn cr0_ones(&self) -> u64 {
        // Unrestricted guests may do without protection and paging.
        self.controls.cr0.ones & !(CR0_PE | CR0_PG)
    }

    fn set_cr0(&mut self, value: u64) {
        // Caches stay on, whatever the guest says: EPT gives the memory types.
        let real = (value & !(CR0_CD | CR0_NW) | self.cr0_ones()) & self.controls.cr0.zeros;
        self.set(F::GuestCr0, real);
        self.set(F::Cr0Shadow, value);
    }

    fn set_cr4(&mut self, value: u64) {
        self.set(F::GuestCr4, self.controls.cr4.apply(value));
        self.set(F::Cr4Shadow, value);
    }

    fn set_efer(&mut self, value: u64) {
        self.set(F::GuestEfer, value);
        let base = u64::from(self.controls.entry);
        let long = if value & EFER_LMA != 0 { u64::from(entry::GUEST_64) } else { 0 };
        self.set(F::EntryControls, base | long);
    }

    fn write_cr0(&mut self, value: u64) -> bool {
        let old = self.read(Field::Cr0);
        let paging = value & CR0_PG != 0;
        let invalid = value >> 32 != 0
            || (paging && value & CR0_PE == 0)
            || (value & CR0_NW != 0 && value & CR0_CD == 0);
        if invalid {
            return false;
        }
        let efer = self.read(Field::Efer);
        let was_paging = old & CR0_PG != 0;
        if paging && !was_paging && efer & EFER_LME != 0 {
            if self.read(Field::Cr4) & CR4_PAE == 0 {
                return false;
            }
            self.set_efer(efer | EFER_LMA);
        } else if !paging && was_paging {
            self.set_efer(efer & !EFER_LMA);
        }
        self.set_cr0(value);
        if paging != was_paging {
            self.stale = true;
        }
        true
    }

    fn write_cr4(&mut self, value: u64) -> bool {
        let long = self.read(Field::Efer) & EFER_LMA != 0;
        if value & CR4_HIDDEN != 0 || (long && value & CR4_PAE == 0) {
            return false;
        }
        self.set_cr4(value);
        self.stale = true;
        true
    }

    /// Has the guest exit at the deadline of this host CPU's timer: by the preemption timer, or by
    /// the local APIC where the processor has none.
    #[inline]
    fn watch_deadline(&mut self) {
        let timer = &PerCpu::current().timer;
        let Some(counter) = self.controls.preemption_timer else { return timer.arm() };
        timer.disarm();
        let deadline = timer.deadline();
        let pin = if deadline == NEVER {
            self.controls.pin
        } else {
            self.controls.pin | pin::PREEMPTION_TIMER
        };
        if pin != self.pin {
            self.pin = pin;
            vmcs::write(F::PinControls, u64::from(pin));
        }
        if deadline != NEVER {
            vmcs::write(F::PreemptionTimer, counter.count(timer::now().0, deadline).into());
        }
    }

    /// Everything that is the same for all guests on all processors.
    fn initialise(&mut self) {
        let controls = self.controls;
        self.set(F::PinControls, u64::from(self.pin));
        self.set(F::ProcessorControls, u64::from(self.primary));
        self.set(F::SecondaryControls, u64::from(controls.secondary));
        self.set(F::ExitControls, u64::from(controls.exit));
        self.set(F::EntryControls, u64::from(controls.entry));
        self.set(F::ExceptionBitmap, EXCEPTIONS);
        for field in [
            F::PageFaultMask,
            F::PageFaultMatch,
            F::Cr3TargetCount,
            F::ExitMsrStoreCount,
            F::ExitMsrLoadCount,
            F::EntryMsrLoadCount,
            F::EntryInterruption,
            F::EntryErrorCode,
            F::EntryInstructionLength,
        ] {
            self.set(field, 0);
        }
        self.set(F::MsrBitmap, msrs::bitmap());
        self.set(F::EptPointer, self.tables | EPT_POINTER);
        self.set(F::LinkPointer, u64::MAX);
        self.set(F::Cr0Mask, !CR0_GUEST);
        self.set(F::Cr4Mask, CR4_HIDDEN | controls.cr4.ones | !controls.cr4.zeros);
        if controls.has(secondary::VPID) {
            self.set(F::Vpid, u64::from(self.vpid));
        }
    }

    /// The state of the processor that runs this, to which exits return.
    fn write_host(&mut self) {
        // SAFETY: the register exists.
        let pat = unsafe { Msr::new(PAT).read() };
        let (gdt, idt) = (sgdt(), sidt());
        let (root, flags) = Cr3::read_raw();
        for (field, value) in [
            (F::HostCr0, Cr0::read_raw()),
            (F::HostCr3, root.start_address().as_u64() | u64::from(flags)),
            (F::HostCr4, Cr4::read_raw()),
            (F::HostCs, u64::from(CS::get_reg().0)),
            (F::HostSs, u64::from(SS::get_reg().0)),
            (F::HostDs, u64::from(DS::get_reg().0)),
            (F::HostEs, u64::from(ES::get_reg().0)),
            (F::HostFs, 0),
            (F::HostGs, 0),
            (F::HostTr, u64::from(PerCpu::current().task.get().0)),
            (F::HostFsBase, 0),
            (F::HostGsBase, GsBase::read().as_u64()),
            (F::HostTrBase, PerCpu::current().task.get().1),
            (F::HostGdtrBase, gdt.base.as_u64()),
            (F::HostIdtrBase, idt.base.as_u64()),
            (F::HostSysenterCs, 0),
            (F::HostSysenterEsp, 0),
            (F::HostSysenterEip, 0),
            (F::HostPat, pat),
            (F::HostEfer, Efer::read_raw()),
            (F::HostRip, switch::exit_address()),
        ] {
            self.set(field, value);
        }
    }
}

impl Engine for Vmx {
    const NAME: &'static str = "VT-x";

    fn features() -> Features {
        let has = |bit| controls().as_ref().is_ok_and(|controls| controls.has(bit));
        Features { rdtscp: has(secondary::RDTSCP), invpcid: has(secondary::INVPCID) }
    }

    fn options() -> Vec<&'static str> {
        controls().as_ref().map_or_else(|_| Vec::new(), Controls::options)
    }

    fn new(tables: u64) -> Result<Self, &'static str> {
        let controls = *controls().as_ref().map_err(|missing| *missing)?;
        let vpid = NEXT_VPID.fetch_add(1, Ordering::Relaxed);
        if vpid == 0 {
            return Err("more virtual CPUs than VT-x has identifiers");
        }
        Ok(Vmx {
            vmcs: processor::region(),
            controls,
            tables,
            vpid,
            launched: false,
            at_home: false,
            stale: true,
            pin: controls.pin,
            primary: controls.primary,
            task_priority: 0,
            lazy: LazyMsrs::default(),
            dr6: DR6_RESET,
            cr2: 0,
            loaded: false,
            failed: false,
        })
    }

    fn load(&mut self) {
        self.attach();
        self.lazy.load();
        host::write_cr2(self.cr2);
        self.loaded = true;
        // SAFETY: the hypervisor uses no breakpoints.
        unsafe { asm!("mov dr6, {}", in(reg) self.dr6, options(nomem, nostack)) }
    }

    fn unload(&mut self) {
        self.lazy.save();
        self.cr2 = host::read_cr2();
        self.loaded = false;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, dr6", out(reg) self.dr6, options(nomem, nostack)) }
    }

    fn trap_idle(&mut self, halt: bool, pause: bool) {
        self.set_primary(primary::HLT, halt || !self.controls.hlt_state);
        let pause = if pause { secondary::PAUSE_LOOP } else { 0 };
        self.set(F::PauseGap, PAUSE_GAP);
        self.set(F::PauseWindow, PAUSE_WINDOW);
        let pause = pause & processor::allowed_secondary();
        self.set(F::SecondaryControls, u64::from(self.controls.secondary | pause));
    }

    fn take_halt(&mut self) -> bool {
        let halted = self.get(F::ActivityState) == ACTIVITY_HLT;
        if halted {
            self.set(F::ActivityState, ACTIVITY_ACTIVE);
        }
        halted
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.set_primary(primary::TSC_OFFSETTING, offset != 0);
        self.set(F::TscOffset, offset);
    }

    fn start(&mut self, state: &InitialState) {
        if !self.at_home {
            // The first start happens on the host CPU that runs it for ever.
            vmcs::clear(self.vmcs);
            // That leaves no structure current, if it was this one.
            PerCpu::current().vmx.current.set(0);
            self.initialise();
            self.write_host();
            processor::invalidate_tables(&self.controls, self.tables | EPT_POINTER);
            self.at_home = true;
        }
        self.set_cr0(state.cr0.bits());
        self.set_cr4(state.cr4.bits());
        self.set_efer(state.efer.bits());
        for name in SegmentName::ALL {
            let segment = match name {
                SegmentName::Cs => &state.cs,
                SegmentName::Ldtr => &state.ldtr,
                SegmentName::Tr => &state.tr,
                _ => &state.data,
            };
            self.set_segment(name, segment);
        }
        for (field, value) in [
            (F::GuestGdtrBase, state.gdtr.base),
            (F::GuestGdtrLimit, u64::from(state.gdtr.limit)),
            (F::GuestIdtrBase, state.idtr.base),
            (F::GuestIdtrLimit, u64::from(state.idtr.limit)),
            (F::GuestCr3, state.cr3),
            (F::GuestRip, state.rip),
            (F::GuestRsp, state.rsp),
            (F::GuestRflags, RFLAGS_FIXED),
            (F::GuestDr7, DR7_RESET),
            (F::GuestDebugControl, 0),
            (F::GuestPat, PAT_RESET),
            (F::GuestSysenterCs, 0),
            (F::GuestSysenterEsp, 0),
            (F::GuestSysenterEip, 0),
            (F::Interruptibility, 0),
            (F::ActivityState, ACTIVITY_ACTIVE),
            (F::PendingDebug, 0),
            (F::EntryInterruption, 0),
        ] {
            self.set(field, value);
        }
        self.set_primary(primary::INTERRUPT_WINDOW | primary::NMI_WINDOW, false);
        for field in [Field::Star, Field::Lstar, Field::Cstar, Field::SyscallMask] {
            self.write(field, 0);
        }
        self.write(Field::KernelGsBase, 0);
        self.write(Field::Cr2, 0);
        self.dr6 = DR6_RESET;
        self.task_priority = 0;
        self.stale = true;
    }

    fn forget_tables(&mut self) {
        processor::invalidate_tables(&self.controls, self.tables | EPT_POINTER);
    }

    fn run(&mut self, registers: &mut Registers) -> Cause {
        self.attach();
        if core::mem::take(&mut self.stale) {
            processor::invalidate_vpid(&self.controls, self.vpid);
        }
        self.watch_deadline();
        vmcs::write(F::GuestRsp, registers.get(RSP));
        let entered = switch::enter(registers, self.launched);
        self.launched |= entered;
        self.failed = !entered;
        registers.set(RSP, vmcs::read(F::GuestRsp));
        vmcs::write(F::EntryInterruption, 0);
        if !entered {
            return Cause::InvalidState;
        }
        let cause = self.cause();
        match cause {
            Cause::HostInterrupt => host::serve_interrupts(),
            Cause::HostNmi => host::serve_nmi(),
            _ => {}
        }
        cause
    }

    fn read(&self, field: Field) -> u64 {
        match field {
            Field::Rip => self.get(F::GuestRip),
            Field::Rflags => self.get(F::GuestRflags),
            Field::Cr0 => self.get(F::GuestCr0) & CR0_GUEST | self.get(F::Cr0Shadow) & !CR0_GUEST,
            Field::Cr2 if self.loaded => host::read_cr2(),
            Field::Cr2 => self.cr2,
            Field::Cr3 => self.get(F::GuestCr3),
            Field::Cr4 => {
                let mask = self.get(F::Cr4Mask);
                self.get(F::GuestCr4) & !mask | self.get(F::Cr4Shadow) & mask
            }
            Field::Efer => self.get(F::GuestEfer),
            Field::PageAttributes => self.get(F::GuestPat),
            Field::SysenterCs => self.get(F::GuestSysenterCs),
            Field::SysenterEsp => self.get(F::GuestSysenterEsp),
            Field::SysenterEip => self.get(F::GuestSysenterEip),
            Field::FsBase => self.get(F::GuestFsBase),
            Field::GsBase => self.get(F::GuestGsBase),
            Field::Star => self.lazy.read(0xc000_0081),
            Field::Lstar => self.lazy.read(0xc000_0082),
            Field::Cstar => self.lazy.read(0xc000_0083),
            Field::SyscallMask => self.lazy.read(0xc000_0084),
            Field::KernelGsBase => self.lazy.read(0xc000_0102),
        }
    }

    fn write(&mut self, field: Field, value: u64) {
        match field {
            Field::Rip => self.set(F::GuestRip, value),
            Field::Rflags => self.set(F::GuestRflags, value),
            Field::Cr0 => self.set_cr0(value),
            Field::Cr2 if self.loaded => host::write_cr2(value),
            Field::Cr2 => self.cr2 = value,
            Field::Cr3 => self.set(F::GuestCr3, value),
            Field::Cr4 => self.set_cr4(value),
            Field::Efer => self.set_efer(value),
            Field::PageAttributes => self.set(F::GuestPat, value),
            Field::SysenterCs => self.set(F::GuestSysenterCs, value),
            Field::SysenterEsp => self.set(F::GuestSysenterEsp, value),
            Field::SysenterEip => self.set(F::GuestSysenterEip, value),
            Field::FsBase => self.set(F::GuestFsBase, value),
            Field::GsBase => self.set(F::GuestGsBase, value),
            Field::Star => self.lazy.write(0xc000_0081, value),
            Field::Lstar => self.lazy.write(0xc000_0082, value),
            Field::Cstar => self.lazy.write(0xc000_0083, value),
            Field::SyscallMask => self.lazy.write(0xc000_0084, value),
            Field::KernelGsBase => self.lazy.write(0xc000_0102, value),
        }
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let fields = SEGMENTS[name as usize];
        let rights = self.get(fields.rights);
        // Access rights keep bits 8 to 11 of the packed form at 12 to 15.
        let packed = rights & 0xff | rights >> 4 & 0xf00;
        Segment {
            selector: self.get(fields.selector) as u16,
            base: self.get(fields.base),
            limit: self.get(fields.limit) as u32,
            attributes: Attributes::from_bits_retain(packed as u16),
        }
    }

    fn privilege(&self) -> u8 {
        (self.get(F::GuestSsRights) >> 5 & 3) as u8
    }

    fn instruction_length(&self) -> Option<u8> {
        u8::try_from(self.get(F::ExitInstructionLength)).ok()
    }

    fn interrupted(&self) -> Option<Event> {
        let information = self.get(F::VectoringInformation);
        let event = Event::decode(information)?;
        let error = event.error.map(|_| self.get(F::VectoringErrorCode) as u32);
        // What an instruction raised is raised again by that instruction.
        (!event.source.is_software()).then_some(Event { error, ..event })
    }

    fn inject(&mut self, event: Event) {
        // Exceptions in real mode have no error code (SDM 27.2.1.3).
        let real_mode = self.read(Field::Cr0) & CR0_PE == 0;
        let event = Event { error: event.error.filter(|_| !real_mode), ..event };
        let encoded = event.encode();
        self.set(F::EntryInterruption, encoded & 0xffff_ffff);
        self.set(F::EntryErrorCode, encoded >> 32);
        if event.source == event::Source::Nmi {
            // An NMI whose delivery was interrupted has set the blocking that its delivery needs
            // clear.
            let state = self.get(F::Interruptibility);
            self.set(F::Interruptibility, state & !interruptibility::NMI);
        }
    }

    fn in_shadow(&self) -> bool {
        self.get(F::Interruptibility) & (interruptibility::STI | interruptibility::MOV_SS) != 0
    }

    fn clear_shadow(&mut self) {
        let state = self.get(F::Interruptibility);
        let clear = interruptibility::STI | interruptibility::MOV_SS | interruptibility::SMI;
        if state & clear != 0 {
            self.set(F::Interruptibility, state & !clear);
        }
    }

    fn want_interrupt_window(&mut self, class: Option<u8>) {
        // Writes of CR8 exit, so that the task priority needs no window of its own.
        let want = class.is_some_and(|class| class > self.task_priority);
        self.set_primary(primary::INTERRUPT_WINDOW, want);
    }

    fn want_nmi_window(&mut self, want: bool) {
        self.set_primary(primary::NMI_WINDOW, want);
    }

    fn task_priority(&self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.task_priority = priority;
    }

    fn write_control(&mut self, control: u8, value: u64) -> bool {
        match control {
            0 => self.write_cr0(value),
            3 => {
                self.set(F::GuestCr3, value & !(1 << 63));
                self.stale = true;
                true
            }
            4 => self.write_cr4(value),
            _ => false,
        }
    }

    fn set_directory_pointers(&mut self, entries: [u64; 4]) {
        let fields = [F::GuestPdpte0, F::GuestPdpte1, F::GuestPdpte2, F::GuestPdpte3];
        for (field, entry) in fields.into_iter().zip(entries) {
            self.set(field, entry);
        }
    }

    fn raw(&self) -> RawExit {
        let (cause, detail) = if self.failed {
            (self.get(F::InstructionError), 0)
        } else {
            (self.get(F::ExitReason), self.get(F::Qualification))
        };
        RawExit { cause, detail, address: self.get(F::GuestPhysicalAddress) }
    }
}
