//! Taking an exception to EL1, as `AArch64.TakeException` does (Arm ARM J1.1).

use arm_sysregs::el1::registers::{IdAa64mmfr1El1, IdAa64pfr1El1, SctlrEl1};

use super::ProgramState;
use crate::identification::IdRegisters;
use crate::syndrome::{ExceptionClass, FaultStatus, Syndrome};
use crate::system_register::Encoding;

/// An exception for the guest's EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// The instruction is UNDEFINED.
    Undefined,
    /// A data abort without a syndrome of the instruction.
    DataAbort {
        /// The virtual address.
        address: u64,
        /// What went wrong.
        status: FaultStatus,
        /// The access was a write.
        write: bool,
    },
    /// An instruction abort.
    InstructionAbort {
        /// The virtual address.
        address: u64,
        /// What went wrong.
        status: FaultStatus,
    },
    /// Another synchronous exception. A class that says "from a lower level" becomes that "from the current level" if
    /// the guest was at EL1, so a syndrome taken to EL2 can be handed on as it is.
    Synchronous {
        /// The syndrome.
        syndrome: Syndrome,
        /// The value for `FAR_EL1`, for the classes that have one.
        address: Option<u64>,
    },
    /// An SError with this instruction-specific syndrome (25 bits). The guest's mask, `PSTATE.A`, is for the caller
    /// to respect.
    SError {
        /// `ISS` for `ESR_EL1`.
        iss: u32,
    },
    /// An IRQ. The guest's mask, `PSTATE.I`, is for the caller to respect.
    Irq,
    /// An FIQ. The guest's mask, `PSTATE.F`, is for the caller to respect.
    Fiq,
}

impl Exception {
    /// What the guest meets where no device and no memory is: a synchronous external abort.
    #[must_use]
    pub const fn external_abort(address: u64, write: bool) -> Self {
        Self::DataAbort { address, status: FaultStatus::EXTERNAL, write }
    }

    /// The same for an instruction fetch.
    #[must_use]
    pub const fn external_instruction_abort(address: u64) -> Self {
        Self::InstructionAbort { address, status: FaultStatus::EXTERNAL }
    }
}

/// The registers of the guest that decide how it takes an exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `VBAR_EL1`.
    pub vbar_el1: u64,
    /// `SCTLR_EL1`.
    pub sctlr_el1: u64,
}

/// The extensions of the processor, hidden from the guest or not, that exception entry changes program state for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FEAT_PAN (`ID_AA64MMFR1_EL1.PAN`).
    pub pan: bool,
    /// FEAT_SSBS (`ID_AA64PFR1_EL1.SSBS`).
    pub ssbs: bool,
    /// FEAT_MTE2 (`ID_AA64PFR1_EL1.MTE` of 2 or more).
    pub mte: bool,
}

impl Features {
    /// The extensions of a processor with the raw identification registers `host`.
    #[must_use]
    pub fn new(host: &IdRegisters) -> Self {
        Self {
            pan: host.field(Encoding::ID_AA64MMFR1_EL1, IdAa64mmfr1El1::PAN_SHIFT) >= 1,
            ssbs: host.field(Encoding::ID_AA64PFR1_EL1, IdAa64pfr1El1::SSBS_SHIFT) >= 1,
            mte: host.field(Encoding::ID_AA64PFR1_EL1, IdAa64pfr1El1::MTE_SHIFT) >= 2,
        }
    }
}

/// The state of the guest after it took an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The PC: an entry of the vector table.
    pub pc: u64,
    /// The program state.
    pub state: ProgramState,
    /// The value for `ELR_EL1`.
    pub elr_el1: u64,
    /// The value for `SPSR_EL1`.
    pub spsr_el1: u64,
    /// The value for `ESR_EL1`; interrupts leave the register alone.
    pub esr_el1: Option<u64>,
    /// The value for `FAR_EL1`; most exceptions leave the register alone.
    pub far_el1: Option<u64>,
}

/// The offset of synchronous exceptions within a group of four vectors.
const SYNCHRONOUS: u64 = 0x000;
/// The offset of IRQs.
const IRQ: u64 = 0x080;
/// The offset of FIQs.
const FIQ: u64 = 0x100;
/// The offset of SErrors.
const SERROR: u64 = 0x180;

/// The offset of the group of vectors for exceptions from `state`.
const fn vector_group(state: ProgramState) -> u64 {
    if state.is_aarch32() {
        0x600
    } else if state.is_el0() {
        0x400
    } else if state.bits() & 1 == 0 {
        0x000
    } else {
        0x200
    }
}

/// The class for EL1 of a class that distinguishes the level from which the exception was taken.
const fn reclass(class: ExceptionClass, from_el0: bool) -> ExceptionClass {
    use ExceptionClass as Class;
    let (lower, current) = match class {
        Class::INSTRUCTION_ABORT_LOWER | Class::INSTRUCTION_ABORT_CURRENT => {
            (Class::INSTRUCTION_ABORT_LOWER, Class::INSTRUCTION_ABORT_CURRENT)
        }
        Class::DATA_ABORT_LOWER | Class::DATA_ABORT_CURRENT => {
            (Class::DATA_ABORT_LOWER, Class::DATA_ABORT_CURRENT)
        }
        Class::BREAKPOINT_LOWER | Class::BREAKPOINT_CURRENT => {
            (Class::BREAKPOINT_LOWER, Class::BREAKPOINT_CURRENT)
        }
        Class::STEP_LOWER | Class::STEP_CURRENT => (Class::STEP_LOWER, Class::STEP_CURRENT),
        Class::WATCHPOINT_LOWER | Class::WATCHPOINT_CURRENT => {
            (Class::WATCHPOINT_LOWER, Class::WATCHPOINT_CURRENT)
        }
        other => return other,
    };
    if from_el0 { lower } else { current }
}

/// The state of a guest at `pc` in `state` after it took `exception` to EL1.
///
/// `pc` is the preferred return address: that of the instruction for faults and traps.
#[must_use]
pub fn take(
    pc: u64,
    state: ProgramState,
    exception: Exception,
    target: Target,
    features: Features,
) -> Taken {
    let from_el0 = state.is_el0();
    let abort = |lower, iss: u64| {
        let syndrome = Syndrome::of(reclass(lower, from_el0), iss as u32);
        Some(syndrome.bits())
    };
    /// `WnR` of a data abort.
    const WRITE: u64 = 1 << 6;
    let (vector, esr_el1, far_el1) = match exception {
        Exception::Undefined => {
            (SYNCHRONOUS, Some(Syndrome::of(ExceptionClass::UNKNOWN, 0).bits()), None)
        }
        Exception::DataAbort { address, status, write } => {
            let iss = u64::from(status.bits()) | if write { WRITE } else { 0 };
            (SYNCHRONOUS, abort(ExceptionClass::DATA_ABORT_LOWER, iss), Some(address))
        }
        Exception::InstructionAbort { address, status } => {
            let iss = u64::from(status.bits());
            (SYNCHRONOUS, abort(ExceptionClass::INSTRUCTION_ABORT_LOWER, iss), Some(address))
        }
        Exception::Synchronous { syndrome, address } => {
            let class = reclass(syndrome.class(), from_el0);
            (SYNCHRONOUS, Some(syndrome.with_class(class).bits()), address)
        }
        Exception::SError { iss } => {
            (SERROR, Some(Syndrome::of(ExceptionClass::SERROR, iss).bits()), None)
        }
        Exception::Irq => (IRQ, None, None),
        Exception::Fiq => (FIQ, None, None),
    };
    let base = target.vbar_el1 & !0x7ff;
    Taken {
        pc: base.wrapping_add(vector_group(state)).wrapping_add(vector),
        state: state_at_entry(state, SctlrEl1::from_bits_retain(target.sctlr_el1), features),
        elr_el1: pc,
        spsr_el1: state.bits(),
        esr_el1,
        far_el1,
    }
}

/// The program state in which the handler starts.
fn state_at_entry(state: ProgramState, sctlr: SctlrEl1, features: Features) -> ProgramState {
    // Kept: the condition flags, DIT, and PAN unless it is set. Cleared: UAO, SS, IL and BTYPE.
    let mut bits = state.bits() & (ProgramState::NZCV | ProgramState::DIT | ProgramState::PAN);
    bits |=
        ProgramState::D | ProgramState::A | ProgramState::I | ProgramState::F | ProgramState::EL1H;
    if features.pan && !sctlr.contains(SctlrEl1::SPAN) {
        bits |= ProgramState::PAN;
    }
    if features.ssbs && sctlr.contains(SctlrEl1::DSSBS) {
        bits |= ProgramState::SSBS;
    }
    if features.mte {
        bits |= ProgramState::TCO;
    }
    ProgramState::new(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target { vbar_el1: 0xffff_8000_0801_0000, sctlr_el1: 0 };
    const USER32: u64 = 0b1_0000;

    fn take_plain(state: u64, exception: Exception) -> Taken {
        take(0x1000, ProgramState::new(state), exception, TARGET, Features::default())
    }

    #[test]
    fn the_vector_depends_on_the_source_and_the_kind() {
        let sources = [(0b0100, 0), (0b0101, 0x200), (0b0000, 0x400), (USER32, 0x600)];
        let kinds = [
            (Exception::Undefined, 0),
            (Exception::external_abort(0, false), 0),
            (Exception::Irq, 0x80),
            (Exception::Fiq, 0x100),
            (Exception::SError { iss: 0 }, 0x180),
        ];
        for (state, group) in sources {
            for (kind, offset) in kinds {
                assert_eq!(
                    take_plain(state, kind).pc,
                    TARGET.vbar_el1 + group + offset,
                    "{state:#b} {kind:?}"
                );
            }
        }
    }

    #[test]
    fn the_low_bits_of_the_vector_base_are_ignored() {
        let target = Target { vbar_el1: TARGET.vbar_el1 | 0x7ff, ..TARGET };
        let taken = take(0, ProgramState::RESET, Exception::Undefined, target, Features::default());
        assert_eq!(taken.pc, TARGET.vbar_el1 + 0x200);
    }

    #[test]
    fn the_return_address_and_state_are_saved_as_they_were() {
        let state = ProgramState::SS | ProgramState::IL | ProgramState::BTYPE | ProgramState::NZCV;
        let taken = take_plain(state, Exception::Undefined);
        assert_eq!((taken.elr_el1, taken.spsr_el1), (0x1000, state));
        assert_eq!(taken.state.bits(), ProgramState::NZCV | 0x3c5);
        assert_eq!(taken.esr_el1, Some(0x0200_0000));
        assert_eq!(taken.far_el1, None);
    }

    #[test]
    fn aborts_say_whether_they_come_from_el0() {
        let data = Exception::external_abort(0xdead_0000, true);
        let fetch = Exception::external_instruction_abort(0xdead_0000);
        assert_eq!(take_plain(0b0101, data).esr_el1, Some(0x9600_0050));
        assert_eq!(take_plain(0b0000, data).esr_el1, Some(0x9200_0050));
        assert_eq!(take_plain(USER32, data).esr_el1, Some(0x9200_0050));
        assert_eq!(take_plain(0b0100, fetch).esr_el1, Some(0x8600_0010));
        assert_eq!(take_plain(0b0000, fetch).esr_el1, Some(0x8200_0010));
        assert_eq!(take_plain(0b0000, fetch).far_el1, Some(0xdead_0000));
    }

    #[test]
    fn a_debug_exception_taken_to_el2_is_handed_on_with_the_class_of_its_source() {
        let step = Exception::Synchronous {
            syndrome: Syndrome::of(ExceptionClass::STEP_LOWER, 0x22),
            address: None,
        };
        let class = |state| Syndrome::new(take_plain(state, step).esr_el1.unwrap()).class();
        assert_eq!(class(0b0101), ExceptionClass::STEP_CURRENT);
        assert_eq!(class(0b0000), ExceptionClass::STEP_LOWER);
        let brk = Exception::Synchronous {
            syndrome: Syndrome::of(ExceptionClass::BRK64, 0xabc),
            address: None,
        };
        assert_eq!(take_plain(0b0101, brk).esr_el1, Some(0xf200_0abc));
    }

    #[test]
    fn interrupts_leave_the_syndrome_alone() {
        let taken = take_plain(0b0101, Exception::Irq);
        assert_eq!((taken.esr_el1, taken.far_el1), (None, None));
        assert_eq!(take_plain(0, Exception::SError { iss: 0x1ff_ffff }).esr_el1, Some(0xbfff_ffff));
    }

    #[test]
    fn features_are_read_from_the_identification_registers() {
        let of = |encoding, value| {
            let mut host = IdRegisters::ZERO;
            host.set(encoding, value);
            Features::new(&host)
        };
        let none = Features::default();
        assert_eq!(of(Encoding::ID_AA64MMFR1_EL1, 1 << 20), Features { pan: true, ..none });
        assert_eq!(of(Encoding::ID_AA64PFR1_EL1, 1 << 4), Features { ssbs: true, ..none });
        assert_eq!(of(Encoding::ID_AA64PFR1_EL1, 1 << 8), none, "FEAT_MTE has instructions only");
        assert_eq!(of(Encoding::ID_AA64PFR1_EL1, 2 << 8), Features { mte: true, ..none });
    }

    #[test]
    fn features_decide_the_new_program_state() {
        let all = Features { pan: true, ssbs: true, mte: true };
        let (span, dssbs) = (1 << 23, 1 << 44);
        let of = |sctlr_el1, features, state| {
            take(
                0,
                ProgramState::new(state),
                Exception::Undefined,
                Target { vbar_el1: 0, sctlr_el1 },
                features,
            )
            .state
            .bits()
                & !0x3c5
        };
        use ProgramState as P;
        let table = [
            (0, Features::default(), 0, 0),
            (0, all, 0, P::PAN | P::TCO),
            (span, all, 0, P::TCO),
            (span, all, P::PAN, P::TCO | P::PAN),
            (span | dssbs, all, 0, P::TCO | P::SSBS),
            (dssbs, Features::default(), P::SSBS | P::UAO, 0),
            (0, Features::default(), P::DIT | P::PAN, P::DIT | P::PAN),
        ];
        for (sctlr, features, state, expected) in table {
            assert_eq!(of(sctlr, features, state), expected, "{sctlr:#x} {features:?} {state:#x}");
        }
    }
}
