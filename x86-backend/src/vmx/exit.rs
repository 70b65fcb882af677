//! From basic exit reasons (SDM appendix C) to causes. Fields are read only
//! for the reasons that need them.

use bunshin::bus::Width;
use x86_backend::event::{self, Event, Source};
use x86_backend::machine::registers::Attributes;
use x86_backend::restricted::Mode;
use x86_backend::state::{EFER_LMA, SegmentName};

use super::vmcs::VmcsField as F;
use super::{Vmx, interruptibility};
use crate::engine::{Cause, ControlAccess, Engine, NestedFault, PortAccess, StringAccess};
use crate::host::PerCpu;

/// Basic reasons.
mod reason {
    pub(super) const EXCEPTION_OR_NMI: u32 = 0;
    pub(super) const EXTERNAL_INTERRUPT: u32 = 1;
    pub(super) const TRIPLE_FAULT: u32 = 2;
    pub(super) const INTERRUPT_WINDOW: u32 = 7;
    pub(super) const NMI_WINDOW: u32 = 8;
    pub(super) const TASK_SWITCH: u32 = 9;
    pub(super) const CPUID: u32 = 10;
    pub(super) const GETSEC: u32 = 11;
    pub(super) const HLT: u32 = 12;
    pub(super) const INVD: u32 = 13;
    pub(super) const RDPMC: u32 = 15;
    pub(super) const VMCALL: u32 = 18;
    pub(super) const VMCLEAR: u32 = 19;
    pub(super) const VMXON: u32 = 27;
    pub(super) const CONTROL_REGISTER: u32 = 28;
    pub(super) const IO: u32 = 30;
    pub(super) const RDMSR: u32 = 31;
    pub(super) const WRMSR: u32 = 32;
    pub(super) const INVALID_STATE: u32 = 33;
    pub(super) const MSR_LOADING: u32 = 34;
    pub(super) const MWAIT: u32 = 36;
    pub(super) const MONITOR: u32 = 39;
    pub(super) const PAUSE: u32 = 40;
    pub(super) const TABLE_REGISTER: u32 = 46;
    pub(super) const PREEMPTION_TIMER: u32 = 52;
    pub(super) const EPT_VIOLATION: u32 = 48;
    pub(super) const INVEPT: u32 = 50;
    pub(super) const RDTSCP: u32 = 51;
    pub(super) const INVVPID: u32 = 53;
    pub(super) const WBINVD: u32 = 54;
    pub(super) const XSETBV: u32 = 55;
    pub(super) const INVPCID: u32 = 58;
    pub(super) const VMFUNC: u32 = 59;
    pub(super) const XSAVES: u32 = 63;
    pub(super) const XRSTORS: u32 = 64;
}

/// Bits of the reason that name it; bit 31 marks a failed entry.
const BASIC: u64 = 0xffff;

impl Vmx {
    /// The table from reasons to causes.
    pub(super) fn cause(&mut self) -> Cause {
        let reason = (self.get(F::ExitReason) & BASIC) as u32;
        match reason {
            reason::EXCEPTION_OR_NMI => self.exception(),
            reason::EXTERNAL_INTERRUPT => Cause::HostInterrupt,
            reason::TRIPLE_FAULT => Cause::TripleFault,
            reason::INTERRUPT_WINDOW => Cause::InterruptWindow,
            reason::NMI_WINDOW => Cause::NmiWindow,
            reason::TASK_SWITCH => Cause::TaskSwitch,
            reason::CPUID => Cause::Cpuid,
            reason::HLT => Cause::Halt,
            reason::INVD | reason::WBINVD => Cause::CacheControl,
            reason::VMCALL => Cause::Hypercall,
            reason::CONTROL_REGISTER => self.control_register(),
            reason::IO => self.port(),
            reason::RDMSR => Cause::ReadMsr,
            reason::WRMSR => Cause::WriteMsr,
            reason::PAUSE => Cause::Pause,
            // The host looks for its interrupts, of which the guest may not have been interrupted.
            reason::PREEMPTION_TIMER if self.mode == Mode::Real => {
                // The core hears of it; a deadline of its own that has passed must not end the next
                // run at once.
                PerCpu::current().timer.take_core();
                Cause::HostInterrupt
            }
            reason::PREEMPTION_TIMER => Cause::Deadline,
            reason::EPT_VIOLATION => self.nested_fault(),
            reason::TABLE_REGISTER => Cause::Refused,
            reason::XSETBV => Cause::SetExtendedControl,
            reason::RDPMC => Cause::Forbidden,
            reason::GETSEC
            | reason::VMCLEAR..=reason::VMXON
            | reason::MWAIT
            | reason::MONITOR
            | reason::INVEPT
            | reason::RDTSCP
            | reason::INVVPID
            | reason::INVPCID
            | reason::VMFUNC
            | reason::XSAVES
            | reason::XRSTORS => Cause::Undefined,
            reason::INVALID_STATE | reason::MSR_LOADING => Cause::InvalidState,
            _ => Cause::Unknown,
        }
    }

    fn exception(&mut self) -> Cause {
        let Some(event) = Event::decode(self.get(F::ExitInterruption)) else {
            return Cause::Unknown;
        };
        if event.source.is_software() {
            // A trap: the handler returns to the next instruction.
            let length = self.instruction_length().unwrap_or(0);
            let next = self.get(F::GuestRip).wrapping_add(length.into());
            // The processor refuses more than 32 bits of it outside 64-bit code (SDM 27.3.1.4).
            let mask = if self.in_64_bit_code() { u64::MAX } else { u32::MAX.into() };
            self.set(F::GuestRip, next & mask);
        }
        match (event.source, event.vector) {
            (Source::Nmi, _) => Cause::HostNmi,
            (_, event::MACHINE_CHECK) => Cause::Unknown,
            (_, event::GENERAL_PROTECTION) if self.mode == Mode::Real => Cause::Refused,
            (_, event::DEBUG) => {
                // The processor leaves DR6 alone; the qualification has its low bits (SDM 28.2.1).
                const CAUSES: u64 = 0x600f;
                // Its delivery ends what STI or MOV SS put off. An entry that still had that would need,
                // with TF set, a pending step, which the processor notes at all exits but these
                // (SDM 27.3.1.5).
                self.clear_shadow();
                self.add_debug_causes(self.get(F::Qualification) & CAUSES);
                Cause::Exception(Event::exception(event::DEBUG))
            }
            _ => {
                let error = event.error.map(|_| self.get(F::ExitErrorCode) as u32);
                Cause::Exception(Event { error, source: Source::Exception, ..event })
            }
        }
    }

    fn in_64_bit_code(&self) -> bool {
        self.held.efer & EFER_LMA != 0
            && self.segment(SegmentName::Cs).attributes.contains(Attributes::LONG)
    }

    fn control_register(&self) -> Cause {
        let qualification = self.get(F::Qualification);
        let control = (qualification & 0xf) as u8;
        let register = (qualification >> 8 & 0xf) as u8;
        Cause::ControlRegister(match qualification >> 4 & 3 {
            0 => ControlAccess::Write { control, register },
            1 => ControlAccess::Read { control, register },
            2 => ControlAccess::ClearTaskSwitched,
            _ => ControlAccess::LoadStatusWord((qualification >> 16) as u16),
        })
    }

    fn port(&self) -> Cause {
        const INPUT: u64 = 1 << 3;
        const STRING: u64 = 1 << 4;
        const REPEAT: u64 = 1 << 5;
        let qualification = self.get(F::Qualification);
        let string = (qualification & STRING != 0).then(|| {
            let information = self.get(F::InstructionInformation);
            StringAccess {
                repeat: qualification & REPEAT != 0,
                address_bits: match information >> 7 & 0b111 {
                    0 => 16,
                    1 => 32,
                    _ => 64,
                },
                segment: SegmentName::from_number((information >> 15 & 0b111) as u8),
            }
        });
        Cause::Port(PortAccess {
            port: (qualification >> 16) as u16,
            width: match qualification & 0b111 {
                0 => Width::Byte,
                1 => Width::Half,
                _ => Width::Word,
            },
            input: qualification & INPUT != 0,
            string,
            length: self.instruction_length(),
        })
    }

    fn nested_fault(&mut self) -> Cause {
        const WRITE: u64 = 1 << 1;
        const EXECUTE: u64 = 1 << 2;
        const UNBLOCKED_NMI: u64 = 1 << 12;
        let qualification = self.get(F::Qualification);
        // An IRET that faulted has unblocked NMIs although it will be executed again.
        if qualification & UNBLOCKED_NMI != 0 && self.interrupted().is_none() {
            let state = self.get(F::Interruptibility);
            self.set(F::Interruptibility, state | interruptibility::NMI);
        }
        Cause::NestedFault(NestedFault {
            address: self.get(F::GuestPhysicalAddress),
            write: qualification & WRITE != 0,
            execute: qualification & EXECUTE != 0,
        })
    }
}
