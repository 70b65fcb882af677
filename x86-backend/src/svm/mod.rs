//! AMD-V (APM volume 2, chapter 15): nested paging, one control block a
//! virtual CPU.
#![deny(clippy::arithmetic_side_effects)]

mod permissions;
mod processor;
mod switch;
mod vmcb;

use alloc::boxed::Box;
use alloc::vec::Vec;

use bunshin::bus::Width;
use bunshin::exit::RawExit;
use x86_backend::asid::Asid;
use x86_backend::event::{self, Event, Source};
use x86_backend::machine::registers::{InitialState, RFLAGS_FIXED, Segment};
use x86_backend::state::{EFER_SVME, RAX, RSP, Registers, SegmentName};

use crate::engine::{Cause, Engine, Features, Field, NestedFault, PortAccess, StringAccess};
use crate::host::{self, PerCpu};
pub(crate) use processor::{Processor, enable, probe};
use vmcb::{Vmcb, clean, exit, intercept_1, intercept_2, interrupt_control, tlb_control};

/// Iterations of a `PAUSE` loop before it exits, where the processor counts them.
const PAUSE_COUNT: u16 = 3000;
/// Cycles between `PAUSE` that end a loop.
const PAUSE_THRESHOLD: u16 = 128;
/// DR6 and DR7 after reset (APM table 14-1).
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// IA32_PAT after reset.
const PAGE_ATTRIBUTES_RESET: u64 = 0x0007_0406_0007_0406;

/// What every guest's control block intercepts.
const INTERCEPT_1: u32 = intercept_1::INTR
    | intercept_1::NMI
    | intercept_1::SMI
    | intercept_1::INIT
    | intercept_1::RDPMC
    | intercept_1::CPUID
    | intercept_1::RSM
    | intercept_1::INVD
    | intercept_1::INVLPGA
    | intercept_1::IO
    | intercept_1::MSR
    | intercept_1::TASK_SWITCH
    | intercept_1::SHUTDOWN;
const INTERCEPT_2: u32 = intercept_2::VMRUN
    | intercept_2::VMMCALL
    | intercept_2::VMLOAD
    | intercept_2::VMSAVE
    | intercept_2::STGI
    | intercept_2::CLGI
    | intercept_2::SKINIT
    | intercept_2::WBINVD
    | intercept_2::MONITOR
    | intercept_2::MWAIT
    | intercept_2::MWAIT_ARMED
    | intercept_2::XSETBV
    | intercept_2::RDPRU;
/// Exceptions in whose delivery a guest can keep the processor for ever
/// (CVE-2015-5307, CVE-2015-8104), and the host's own.
const INTERCEPT_EXCEPTIONS: u32 =
    1 << event::DEBUG | 1 << event::ALIGNMENT_CHECK | 1 << event::MACHINE_CHECK;

/// A virtual CPU on AMD-V.
pub(crate) struct Svm {
    vmcb: Box<Vmcb>,
    asid: Option<Asid>,
    flush: bool,
}

impl Svm {
    /// Says that fields of the group `bit` of the control block changed.
    fn dirty(&mut self, bit: u32) {
        self.vmcb.control.clean &= !bit;
    }

    fn port(&self) -> Cause {
        const INPUT: u64 = 1 << 0;
        const STRING: u64 = 1 << 2;
        const REPEAT: u64 = 1 << 3;
        let info = self.vmcb.control.exit_info_1;
        let width = match info >> 4 & 0b111 {
            0b001 => Width::Byte,
            0b010 => Width::Half,
            _ => Width::Word,
        };
        let string = (info & STRING != 0).then(|| StringAccess {
            repeat: info & REPEAT != 0,
            address_bits: match info >> 7 & 0b111 {
                0b001 => 16,
                0b010 => 32,
                _ => 64,
            },
            segment: SegmentName::from_number((info >> 10 & 0b111) as u8),
        });
        let length = self.vmcb.control.exit_info_2.wrapping_sub(self.vmcb.save.rip);
        Cause::Port(PortAccess {
            port: (info >> 16) as u16,
            width,
            input: info & INPUT != 0,
            string,
            length: u8::try_from(length).ok(),
        })
    }

    fn nested_fault(&self) -> Cause {
        const WRITE: u64 = 1 << 1;
        const EXECUTE: u64 = 1 << 4;
        let info = self.vmcb.control.exit_info_1;
        Cause::NestedFault(NestedFault {
            address: self.vmcb.control.exit_info_2,
            write: info & WRITE != 0,
            execute: info & EXECUTE != 0,
        })
    }

    fn exception(&self, vector: u8) -> Cause {
        if vector == event::MACHINE_CHECK {
            return Cause::Unknown;
        }
        let error = (self.vmcb.control.exit_info_1 & 0xffff_ffff) as u32;
        Cause::Exception(Event {
            error: Event::fault(vector).error.map(|_| error),
            ..Event::fault(vector)
        })
    }

    /// The table from exit codes to causes.
    fn cause(&self) -> Cause {
        // Emulators have been seen to store only the low half of "invalid".
        let code = self.vmcb.control.exit_code as u32;
        match code {
            exit::INTR | exit::NMI | exit::SMI | exit::INIT => Cause::HostInterrupt,
            exit::VINTR => Cause::InterruptWindow,
            exit::IRET => Cause::NmiReturn,
            exit::CPUID => Cause::Cpuid,
            exit::HLT => Cause::Halt,
            exit::PAUSE => Cause::Pause,
            exit::VMMCALL => Cause::Hypercall,
            exit::XSETBV => Cause::SetExtendedControl,
            exit::INVD | exit::WBINVD => Cause::CacheControl,
            exit::MSR if self.vmcb.control.exit_info_1 == 0 => Cause::ReadMsr,
            exit::MSR => Cause::WriteMsr,
            exit::IO => self.port(),
            exit::NESTED_PAGE_FAULT => self.nested_fault(),
            exit::WRITE_CR4 => Cause::UnknownControlRegister,
            exit::EXCEPTION_FIRST..=exit::EXCEPTION_LAST => {
                self.exception(code.wrapping_sub(exit::EXCEPTION_FIRST) as u8)
            }
            exit::VMRUN
            | exit::INVLPGA..=exit::INVLPGA
            | 0x82..=exit::SKINIT
            | exit::RSM
            | exit::MONITOR..=exit::MWAIT_CONDITIONAL
            | exit::RDPRU => Cause::Undefined,
            exit::RDPMC => Cause::Forbidden,
            exit::SHUTDOWN => Cause::TripleFault,
            exit::TASK_SWITCH => Cause::TaskSwitch,
            exit::INVALID => Cause::InvalidState,
            _ => Cause::Unknown,
        }
    }
}

impl Engine for Svm {
    const NAME: &'static str = "AMD-V";
    const HAS_NMI_WINDOW: bool = false;

    fn features() -> Features {
        Features { rdtscp: host::msr::has_tsc_aux(), invpcid: true }
    }

    fn options() -> Vec<&'static str> {
        processor::options()
    }

    fn new(tables: u64) -> Result<Self, &'static str> {
        // SAFETY: the control block consists of integers, for which zero is a value.
        let mut vmcb: Box<Vmcb> = unsafe { Box::new_zeroed().assume_init() };
        let permissions = permissions::get();
        let control = &mut vmcb.control;
        control.intercept_cr = vmcb::INTERCEPT_WRITE_CR4;
        control.intercept_exceptions = INTERCEPT_EXCEPTIONS;
        control.intercept_1 = INTERCEPT_1;
        control.intercept_2 = INTERCEPT_2;
        control.io_permissions = permissions.io();
        control.msr_permissions = permissions.msr();
        control.interrupt_control = interrupt_control::MASKING;
        control.nested_paging = 1;
        control.nested_cr3 = tables;
        Ok(Svm { vmcb, asid: None, flush: true })
    }

    fn load(&mut self) {
        let (asid, fresh) = PerCpu::current().svm.assign(self.asid);
        if self.asid != Some(asid) {
            self.asid = Some(asid);
            self.vmcb.control.asid = asid.number();
            self.flush |= fresh;
        }
        // Another guest may have run here since.
        self.vmcb.control.clean = 0;
    }

    fn unload(&mut self) {}

    fn trap_idle(&mut self, halt: bool, pause: bool) {
        let control = &mut self.vmcb.control;
        control.pause_count = PAUSE_COUNT;
        control.pause_threshold = PAUSE_THRESHOLD;
        control.intercept_1 &= !(intercept_1::HLT | intercept_1::PAUSE);
        if halt {
            control.intercept_1 |= intercept_1::HLT;
        }
        // Without the counter every PAUSE would exit.
        if pause && PerCpu::current().svm.counts_pauses() {
            control.intercept_1 |= intercept_1::PAUSE;
        }
        self.dirty(clean::INTERCEPTS);
    }

    fn take_halt(&mut self) -> bool {
        // The control block has no such state, and RIP is behind the instruction.
        false
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
        self.dirty(clean::INTERCEPTS);
    }

    fn start(&mut self, state: &InitialState) {
        let save = &mut self.vmcb.save;
        save.segments = [state.data.into(); 6];
        *save.segment_mut(SegmentName::Cs) = state.cs.into();
        save.ldtr = state.ldtr.into();
        save.tr = state.tr.into();
        save.gdtr = state.gdtr.into();
        save.idtr = state.idtr.into();
        save.cpl = 0;
        save.cr0 = state.cr0.bits();
        save.cr2 = 0;
        save.cr3 = state.cr3;
        save.cr4 = state.cr4.bits();
        save.efer = state.efer.bits() | EFER_SVME;
        save.rip = state.rip;
        save.rsp = 0;
        save.rax = 0;
        save.rflags = RFLAGS_FIXED;
        save.dr6 = DR6_RESET;
        save.dr7 = DR7_RESET;
        save.star = 0;
        save.lstar = 0;
        save.cstar = 0;
        save.syscall_mask = 0;
        save.kernel_gs_base = 0;
        save.sysenter_cs = 0;
        save.sysenter_esp = 0;
        save.sysenter_eip = 0;
        save.page_attributes = PAGE_ATTRIBUTES_RESET;
        let control = &mut self.vmcb.control;
        control.interrupt_state = 0;
        control.interrupt_control = interrupt_control::MASKING;
        control.event_injection = 0;
        control.exit_interrupted = 0;
        control.intercept_1 &= !(intercept_1::VINTR | intercept_1::IRET);
        control.clean = 0;
        self.flush = true;
    }

    fn forget_tables(&mut self) {
        self.flush = true;
    }

    fn run(&mut self, registers: &mut Registers) -> Cause {
        let processor = &PerCpu::current().svm;
        let control = &mut self.vmcb.control;
        control.tlb_control = match (self.flush, processor.flushes_by_asid()) {
            (false, _) => tlb_control::KEEP,
            (true, true) => tlb_control::FLUSH_ASID,
            (true, false) => tlb_control::FLUSH_ALL,
        };
        self.flush = false;
        self.vmcb.save.rax = registers.get(RAX);
        self.vmcb.save.rsp = registers.get(RSP);
        PerCpu::current().timer.arm();
        switch::enter(registers, &mut self.vmcb, processor);
        registers.set(RAX, self.vmcb.save.rax);
        registers.set(RSP, self.vmcb.save.rsp);
        self.vmcb.control.event_injection = 0;
        self.vmcb.control.clean = clean::ALL;
        let cause = self.cause();
        if cause == Cause::HostInterrupt {
            host::serve_interrupts();
        }
        cause
    }

    fn read(&self, field: Field) -> u64 {
        let save = &self.vmcb.save;
        match field {
            Field::Rip => save.rip,
            Field::Rflags => save.rflags,
            Field::Cr0 => save.cr0,
            Field::Cr2 => save.cr2,
            Field::Cr3 => save.cr3,
            Field::Cr4 => save.cr4,
            Field::Efer => save.efer & !EFER_SVME,
            Field::PageAttributes => save.page_attributes,
            Field::SysenterCs => save.sysenter_cs,
            Field::SysenterEsp => save.sysenter_esp,
            Field::SysenterEip => save.sysenter_eip,
            Field::Star => save.star,
            Field::Lstar => save.lstar,
            Field::Cstar => save.cstar,
            Field::SyscallMask => save.syscall_mask,
            Field::KernelGsBase => save.kernel_gs_base,
            Field::FsBase => save.segment(SegmentName::Fs).base(),
            Field::GsBase => save.segment(SegmentName::Gs).base(),
        }
    }

    fn write(&mut self, field: Field, value: u64) {
        let save = &mut self.vmcb.save;
        match field {
            Field::Rip => save.rip = value,
            Field::Rflags => save.rflags = value,
            Field::Cr0 => save.cr0 = value,
            Field::Cr2 => save.cr2 = value,
            Field::Cr3 => save.cr3 = value,
            Field::Cr4 => save.cr4 = value,
            Field::Efer => save.efer = value | EFER_SVME,
            Field::PageAttributes => save.page_attributes = value,
            Field::SysenterCs => save.sysenter_cs = value,
            Field::SysenterEsp => save.sysenter_esp = value,
            Field::SysenterEip => save.sysenter_eip = value,
            Field::Star => save.star = value,
            Field::Lstar => save.lstar = value,
            Field::Cstar => save.cstar = value,
            Field::SyscallMask => save.syscall_mask = value,
            Field::KernelGsBase => save.kernel_gs_base = value,
            Field::FsBase => save.segment_mut(SegmentName::Fs).set_base(value),
            Field::GsBase => save.segment_mut(SegmentName::Gs).set_base(value),
        }
        match field {
            Field::Cr2 => self.dirty(clean::CR2),
            Field::Cr0 | Field::Cr3 | Field::Cr4 | Field::Efer => {
                self.dirty(clean::CONTROL_REGISTERS);
            }
            Field::PageAttributes => self.dirty(clean::NESTED_PAGING),
            _ => {}
        }
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.vmcb.save.segment(name).into()
    }

    fn privilege(&self) -> u8 {
        self.vmcb.save.cpl
    }

    fn instruction_length(&self) -> Option<u8> {
        // Valid for instruction intercepts, and zero where the processor has no such field.
        let next = self.vmcb.control.next_rip;
        (next != 0).then(|| u8::try_from(next.wrapping_sub(self.vmcb.save.rip)).ok()).flatten()
    }

    fn add_debug_causes(&mut self, causes: u64) {
        self.vmcb.save.dr6 |= causes;
        self.dirty(clean::DEBUG_REGISTERS);
    }

    fn interrupted(&self) -> Option<Event> {
        let event = Event::decode(self.vmcb.control.exit_interrupted)?;
        // What an instruction raised is raised again by that instruction.
        let by_instruction = event.source.is_software()
            || (event.source == Source::Exception
                && matches!(event.vector, event::BREAKPOINT | event::OVERFLOW));
        (!by_instruction).then_some(event)
    }

    fn inject(&mut self, event: Event) {
        self.vmcb.control.event_injection = event.encode();
    }

    fn in_shadow(&self) -> bool {
        self.vmcb.control.interrupt_state & vmcb::INTERRUPT_SHADOW != 0
    }

    fn clear_shadow(&mut self) {
        self.vmcb.control.interrupt_state &= !vmcb::INTERRUPT_SHADOW;
    }

    fn want_interrupt_window(&mut self, class: Option<u8>) {
        let control = &mut self.vmcb.control;
        let old = (control.intercept_1, control.interrupt_control);
        control.interrupt_control &=
            !(interrupt_control::VIRTUAL_IRQ | interrupt_control::PRIORITY);
        match class {
            Some(class) => {
                control.intercept_1 |= intercept_1::VINTR;
                control.interrupt_control |= interrupt_control::VIRTUAL_IRQ
                    | u64::from(class & 0xf) << interrupt_control::PRIORITY_SHIFT;
            }
            None => control.intercept_1 &= !intercept_1::VINTR,
        }
        if old != (control.intercept_1, control.interrupt_control) {
            self.dirty(clean::INTERCEPTS | clean::INTERRUPTS);
        }
    }

    fn want_nmi_window(&mut self, want: bool) {
        if want {
            self.vmcb.control.intercept_1 |= intercept_1::IRET;
        } else {
            self.vmcb.control.intercept_1 &= !intercept_1::IRET;
        }
        self.dirty(clean::INTERCEPTS);
    }

    fn task_priority(&self) -> u8 {
        (self.vmcb.control.interrupt_control & interrupt_control::TASK_PRIORITY) as u8
    }

    fn set_task_priority(&mut self, priority: u8) {
        let control = &mut self.vmcb.control.interrupt_control;
        *control = *control & !interrupt_control::TASK_PRIORITY
            | u64::from(priority) & interrupt_control::TASK_PRIORITY;
        self.dirty(clean::INTERRUPTS);
    }

    fn write_control(&mut self, control: u8, value: u64) -> bool {
        // Guests write the others themselves: nothing of them is hidden.
        if control != 4 {
            return false;
        }
        self.write(Field::Cr4, value);
        // A change of most bits ends all translations; that of the others is rare.
        self.flush = true;
        true
    }

    fn set_directory_pointers(&mut self, _: [u64; 4]) {
        // Nested walks read them from the guest's memory.
    }

    fn raw(&self) -> RawExit {
        let control = &self.vmcb.control;
        RawExit {
            cause: control.exit_code,
            detail: control.exit_info_1,
            address: control.exit_info_2,
        }
    }
}
