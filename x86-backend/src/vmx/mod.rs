//! VT-x (SDM volume 3, chapters 25 to 30): extended page tables, one control
//! structure a virtual CPU.
#![deny(clippy::arithmetic_side_effects)]

mod control;
mod exit;
mod fields;
mod msrs;
mod processor;
mod restricted;
mod setup;
mod switch;
mod vmcs;

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU16, Ordering};

use bunshin::exit::RawExit;
use spin::Once;
use x86_backend::event::{self, Event};
use x86_backend::machine::registers::{InitialState, RFLAGS_FIXED, Segment};
use x86_backend::restricted::{Mode, segments};
use x86_backend::state::{CR0_PE, RSP, Registers, SegmentName};

use crate::engine::{Cause, Engine, Features, Field, GuestPage, RealMode};
use crate::host::timer::{self, NEVER};
use crate::host::{self, PerCpu};
use control::CR0_GUEST;
use msrs::LazyMsrs;
use processor::{Controls, pin, primary, secondary};
pub(crate) use processor::{Processor, enable, huge_pages, probe};
use restricted::Held;
use vmcs::VmcsField as F;

/// IA32_PAT after reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// DR7 after reset.
const DR7_RESET: u64 = 0x400;
/// DR6 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;
/// EPT pointer: write-back tables, four levels.
const EPT_POINTER: u64 = 6 | (4 - 1) << 3;
/// Longest time between two PAUSE of one loop, and time after which the loop
/// exits, in ticks.
const PAUSE_GAP: u64 = 128;
const PAUSE_WINDOW: u64 = 4096;

/// Nanoseconds after which the host looks for its interrupts although a guest runs whose real mode is
/// virtual-8086 mode: Bochs 2.7 ends that with interrupts off for no interrupt of the host, which
/// processors do (SDM 26.2).
const REAL_MODE_RUN: u64 = 1_000_000;

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
    secondary: u32,
    /// How the guest runs.
    mode: Mode,
    /// What the processor has instead of the guest's registers, where that differs.
    held: Held,
    task_priority: u8,
    lazy: LazyMsrs,
    dr6: u64,
    cr2: u64,
    loaded: bool,
    /// When the guest's real mode has to end for the host's interrupts; none since they were served.
    real_mode_end: Option<u64>,
    /// The last entry failed before the guest ran.
    failed: bool,
}

impl Vmx {
    /// Has the guest exit at the deadline of this host CPU's timer: by the preemption timer, or by
    /// the local APIC where the processor has none.
    #[inline]
    fn watch_deadline(&mut self) {
        let timer = &PerCpu::current().timer;
        let Some(counter) = self.controls.preemption_timer else { return timer.arm() };
        timer.disarm();
        let mut deadline = timer.deadline();
        if self.mode == Mode::Real {
            // However often it exits meanwhile.
            let end = self
                .real_mode_end
                .get_or_insert_with(|| timer::now().0.saturating_add(timer::ticks(REAL_MODE_RUN)));
            deadline = deadline.min(*end);
        }
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
}

impl Engine for Vmx {
    const NAME: &'static str = "VT-x";
    const HAS_NMI_WINDOW: bool = true;

    fn features() -> Features {
        let has = |bit| controls().as_ref().is_ok_and(|controls| controls.has(bit));
        Features { rdtscp: has(secondary::RDTSCP), invpcid: has(secondary::INVPCID) }
    }

    fn options() -> Vec<&'static str> {
        controls().as_ref().map_or_else(|_| Vec::new(), Controls::options)
    }

    fn guest_page() -> Option<GuestPage> {
        let restricted = !controls().as_ref().is_ok_and(|it| it.has(secondary::UNRESTRICTED));
        restricted.then(restricted::guest_page)
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
            secondary: controls.secondary,
            mode: Mode::Native,
            held: Held::default(),
            task_priority: 0,
            lazy: LazyMsrs::default(),
            dr6: DR6_RESET,
            cr2: 0,
            loaded: false,
            real_mode_end: None,
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
        if processor::allowed_secondary() & secondary::PAUSE_LOOP != 0 {
            self.set(F::PauseGap, PAUSE_GAP);
            self.set(F::PauseWindow, PAUSE_WINDOW);
            self.set_secondary(secondary::PAUSE_LOOP, pause);
        }
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
        self.set_native();
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
        // Changes what others say, where the processor cannot do without protection and paging.
        self.set_cr0(state.cr0.bits());
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
            Cause::HostInterrupt => {
                host::serve_interrupts();
                self.real_mode_end = None;
            }
            Cause::HostNmi => host::serve_nmi(),
            _ => {}
        }
        cause
    }

    fn read(&self, field: Field) -> u64 {
        match field {
            Field::Rip => self.get(F::GuestRip),
            Field::Rflags if self.mode == Mode::Real => self.real_mode_flags(),
            Field::Rflags => self.get(F::GuestRflags),
            Field::Cr0 if self.mode == Mode::Real => self.get(F::Cr0Shadow),
            Field::Cr0 => self.get(F::GuestCr0) & CR0_GUEST | self.get(F::Cr0Shadow) & !CR0_GUEST,
            Field::Cr2 if self.loaded => host::read_cr2(),
            Field::Cr2 => self.cr2,
            Field::Cr3 if self.mode != Mode::Native => self.held.cr3,
            Field::Cr3 => self.get(F::GuestCr3),
            Field::Cr4 => {
                let mask = self.get(F::Cr4Mask);
                self.get(F::GuestCr4) & !mask | self.get(F::Cr4Shadow) & mask
            }
            Field::Efer => self.held.efer,
            Field::PageAttributes => self.get(F::GuestPat),
            Field::SysenterCs if self.mode == Mode::Real => self.held.sysenter_cs,
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
            Field::Rflags if self.mode == Mode::Real => self.set_real_mode_flags(value),
            Field::Rflags => self.set(F::GuestRflags, value),
            Field::Cr0 => self.set_cr0(value),
            Field::Cr2 if self.loaded => host::write_cr2(value),
            Field::Cr2 => self.cr2 = value,
            Field::Cr3 => self.set_cr3(value),
            Field::Cr4 => self.set_cr4(value),
            Field::Efer => self.set_efer(value),
            Field::PageAttributes => self.set(F::GuestPat, value),
            Field::SysenterCs if self.mode == Mode::Real => self.held.sysenter_cs = value,
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
        match (self.mode, name) {
            (Mode::Real, SegmentName::Tr) => self.held.task,
            (Mode::Real, SegmentName::Ldtr) | (Mode::Native | Mode::Unpaged, _) => {
                self.raw_segment(name)
            }
            (Mode::Real, _) => segments::real(&self.raw_segment(name)),
        }
    }

    fn privilege(&self) -> u8 {
        match self.mode {
            Mode::Real => 0,
            Mode::Native | Mode::Unpaged => (self.get(F::GuestSsRights) >> 5 & 3) as u8,
        }
    }

    fn instruction_length(&self) -> Option<u8> {
        u8::try_from(self.get(F::ExitInstructionLength)).ok()
    }

    fn add_debug_causes(&mut self, causes: u64) {
        if !self.loaded {
            self.dr6 |= causes;
            return;
        }
        // SAFETY: DR6 is the guest's while its virtual CPU is loaded.
        unsafe {
            let mut dr6: u64;
            asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack));
            dr6 |= causes;
            asm!("mov dr6, {}", in(reg) dr6, options(nomem, nostack));
        }
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
        if self.primary & primary::HLT == 0 {
            // A guest that waits in HLT goes on with the event; RIP is behind the instruction.
            self.set(F::ActivityState, ACTIVITY_ACTIVE);
        }
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
                self.set_cr3(value & !(1 << 63));
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

    #[inline]
    fn real_mode(&mut self) -> Option<&mut dyn RealMode> {
        if self.mode == Mode::Real { Some(self) } else { None }
    }

    fn refusal(&self) -> Option<&'static str> {
        self.unrepresentable()
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
