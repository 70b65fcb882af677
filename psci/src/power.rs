//! The Power State Coordination Interface (DEN0022): what a guest asks of its processors and of its machine.
//!
//! Answered, beside the mandatory functions: `AFFINITY_INFO`, `CPU_DEFAULT_SUSPEND`, `PSCI_FEATURES`, `SYSTEM_OFF2`
//! (hibernation), `SYSTEM_RESET2` (warm reset) and `SYSTEM_SUSPEND`. Not supported: `MIGRATE` and
//! `MIGRATE_INFO_UP_CPU` (there is no trusted OS, and `MIGRATE_INFO_TYPE` says so), `CPU_FREEZE`, `NODE_HW_STATE`,
//! `PSCI_SET_SUSPEND_MODE`, `PSCI_STAT_*` and `MEM_PROTECT*`.

use arm_psci::{ErrorCode, FunctionId, Mpidr};

use crate::architecture;
use crate::call::{Call, NOT_SUPPORTED, result, value};
use crate::dispatch::{Features, Response};

/// PSCI 1.3.
pub(crate) const VERSION: u64 = 0x1_0003;

/// `MIGRATE_INFO_TYPE`: no trusted OS, or one that needs no migration.
pub(crate) const MIGRATION_NOT_REQUIRED: u64 = 2;

/// Where a processor starts, or goes on after it was powered down: at EL1 in AArch64, with the MMU and caches off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The guest's physical address; a multiple of 4. Whether there is memory is for the caller to check
    /// (`INVALID_ADDRESS`).
    pub address: u64,
    /// The value for X0.
    pub context: u64,
}

impl EntryPoint {
    /// Checks the alignment: no A64 instruction is anywhere else.
    const fn new(address: u64, context: u64) -> Result<Self, ErrorCode> {
        if address & 3 == 0 {
            Ok(Self { address, context })
        } else {
            Err(ErrorCode::InvalidAddress)
        }
    }
}

/// How deep a processor sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspend {
    /// State is kept: the call returns `SUCCESS` at a wake-up event, as `WFI` does.
    Standby,
    /// State is lost: the processor starts at the entry point after a wake-up event. Answering as for
    /// [`Suspend::Standby`] is allowed.
    PowerDown(EntryPoint),
}

/// A processor, or a group of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityInstance {
    /// Affinity fields, in the places of `MPIDR_EL1`, with those below `level` zero.
    affinity: u64,
    level: u8,
}

impl AffinityInstance {
    /// The affinity fields of `MPIDR_EL1` from `level` upwards.
    const fn mask(level: u8) -> u64 {
        match level {
            0 => 0xff_00ff_ffff,
            1 => 0xff_00ff_ff00,
            2 => 0xff_00ff_0000,
            _ => 0xff_0000_0000,
        }
    }

    /// Levels 0 (a processor) to 3.
    const fn new(affinity: u64, level: u32) -> Result<Self, ErrorCode> {
        if affinity & !Self::mask(0) != 0 || level > 3 {
            return Err(ErrorCode::InvalidParameters);
        }
        let level = level as u8;
        Ok(Self { affinity: affinity & Self::mask(level), level })
    }

    /// Whether the processor with this `MPIDR_EL1` belongs to it.
    #[must_use]
    pub const fn contains(&self, mpidr: u64) -> bool {
        mpidr & Self::mask(self.level) == self.affinity
    }

    /// The answer of `AFFINITY_INFO`, X0 to X3, from the states of all processors that it contains. None at all:
    /// `INVALID_PARAMETERS`.
    #[must_use]
    pub fn answer(states: impl IntoIterator<Item = AffinityState>) -> [u64; 4] {
        let combined = states.into_iter().reduce(|a, b| match (a, b) {
            (AffinityState::On, _) | (_, AffinityState::On) => AffinityState::On,
            (AffinityState::OnPending, _) | (_, AffinityState::OnPending) => {
                AffinityState::OnPending
            }
            (AffinityState::Off, AffinityState::Off) => AffinityState::Off,
        });
        match combined {
            Some(state) => value(state as u64),
            None => result(Err(ErrorCode::InvalidParameters)),
        }
    }
}

/// The state of a processor, for `AFFINITY_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum AffinityState {
    /// On, or suspended.
    On = 0,
    /// Off.
    Off = 1,
    /// Off, with a `CPU_ON` under way.
    OnPending = 2,
}

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// `CPU_ON`. Outcomes: success, `INVALID_PARAMETERS` (no such processor), `INVALID_ADDRESS`, `ALREADY_ON`,
    /// `ON_PENDING`, `INTERNAL_FAILURE`.
    CpuOn {
        /// Which processor.
        target: Mpidr,
        /// Where it starts.
        entry: EntryPoint,
    },
    /// `CPU_OFF`: does not return, but for `DENIED`.
    CpuOff,
    /// `CPU_SUSPEND` or `CPU_DEFAULT_SUSPEND`. Outcomes: success after a wake-up event, `INVALID_ADDRESS`, `DENIED`.
    CpuSuspend(Suspend),
    /// `AFFINITY_INFO`; see [`AffinityInstance::answer`].
    AffinityInfo(AffinityInstance),
    /// `SYSTEM_OFF`: does not return.
    SystemOff,
    /// `SYSTEM_OFF2` for hibernation: the guest saved its memory. Does not return.
    SystemHibernate,
    /// `SYSTEM_RESET`: does not return.
    SystemReset,
    /// `SYSTEM_RESET2`, a warm reset: does not return, but for an error.
    SystemWarmReset {
        /// For whoever implements the reset.
        cookie: u64,
    },
    /// `SYSTEM_SUSPEND`: suspend to RAM. Outcomes: starts at the entry point, `DENIED` (another processor is on),
    /// `INVALID_ADDRESS`.
    SystemSuspend(EntryPoint),
}

/// The power state of `CPU_SUSPEND`, in the original format (PSCI 5.4.2.1).
const fn suspend(state: u32, address: u64, context: u64) -> Result<Suspend, ErrorCode> {
    /// Bits that must be zero: all but the level, the type and the identifier of the state.
    const RESERVED: u32 = !(0b11 << 24 | POWER_DOWN | 0xffff);
    /// The state is a powerdown state.
    const POWER_DOWN: u32 = 1 << 16;
    if state & RESERVED != 0 {
        return Err(ErrorCode::InvalidParameters);
    }
    if state & POWER_DOWN == 0 {
        return Ok(Suspend::Standby);
    }
    match EntryPoint::new(address, context) {
        Ok(entry) => Ok(Suspend::PowerDown(entry)),
        Err(error) => Err(error),
    }
}

/// `SYSTEM_RESET2`: the only architectural reset type.
const WARM_RESET: u32 = 0;
/// `SYSTEM_OFF2`: the only type, and the answer of `PSCI_FEATURES`.
const HIBERNATE_OFF: u32 = 1;

/// Decodes the functions that need the virtual machine. `None` for those that it does not have.
pub(crate) fn request(
    function: FunctionId,
    call: &Call,
    features: &Features,
) -> Option<Result<PowerRequest, ErrorCode>> {
    use FunctionId as F;
    let [a, b, c] = call.arguments();
    Some(match function {
        F::CpuSuspend32 | F::CpuSuspend64 => {
            suspend(call.first_word(), b, c).map(PowerRequest::CpuSuspend)
        }
        F::CpuDefaultSuspend32 | F::CpuDefaultSuspend64 => {
            EntryPoint::new(a, b).map(|entry| PowerRequest::CpuSuspend(Suspend::PowerDown(entry)))
        }
        F::CpuOff => Ok(PowerRequest::CpuOff),
        F::CpuOn32 | F::CpuOn64 => match Mpidr::try_from(a) {
            Ok(target) => EntryPoint::new(b, c).map(|entry| PowerRequest::CpuOn { target, entry }),
            Err(_) => Err(ErrorCode::InvalidParameters),
        },
        F::AffinityInfo32 | F::AffinityInfo64 => {
            AffinityInstance::new(a, call.second_word()).map(PowerRequest::AffinityInfo)
        }
        F::SystemOff => Ok(PowerRequest::SystemOff),
        F::SystemOff232 | F::SystemOff264 => match (call.first_word(), b) {
            // Zero was the only value in drafts of the specification, and stays allowed.
            (0 | HIBERNATE_OFF, 0) => Ok(PowerRequest::SystemHibernate),
            _ => Err(ErrorCode::InvalidParameters),
        },
        F::SystemReset => Ok(PowerRequest::SystemReset),
        F::SystemReset232 | F::SystemReset264 => match call.first_word() {
            WARM_RESET => Ok(PowerRequest::SystemWarmReset { cookie: b }),
            _ => Err(ErrorCode::InvalidParameters),
        },
        F::SystemSuspend32 | F::SystemSuspend64 if features.system_suspend => {
            EntryPoint::new(a, b).map(PowerRequest::SystemSuspend)
        }
        _ => return None,
    })
}

/// Answers `PSCI_FEATURES`.
pub(crate) fn features(call: &Call, features: &Features) -> Response {
    Response::Return(value(match call.first_word() {
        architecture::VERSION => 0,
        asked => match FunctionId::try_from(asked) {
            Ok(function) => feature(function, features),
            Err(_) => NOT_SUPPORTED,
        },
    }))
}

/// The feature flags of `function`, or `NOT_SUPPORTED`.
const fn feature(function: FunctionId, features: &Features) -> u64 {
    use FunctionId as F;
    match function {
        // Original format of the power state, platform-coordinated mode: no flag is set.
        F::PsciVersion
        | F::PsciFeatures
        | F::CpuSuspend32
        | F::CpuSuspend64
        | F::CpuDefaultSuspend32
        | F::CpuDefaultSuspend64
        | F::CpuOff
        | F::CpuOn32
        | F::CpuOn64
        | F::AffinityInfo32
        | F::AffinityInfo64
        | F::MigrateInfoType
        | F::SystemOff
        | F::SystemReset
        | F::SystemReset232
        | F::SystemReset264 => 0,
        F::SystemOff232 | F::SystemOff264 => HIBERNATE_OFF as u64,
        F::SystemSuspend32 | F::SystemSuspend64 if features.system_suspend => 0,
        _ => NOT_SUPPORTED,
    }
}
