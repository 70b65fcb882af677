//! Arm architecture calls (SMCCC 7): the version, discovery, and mitigations in firmware.

use crate::call::{Call, NOT_SUPPORTED, value};
use crate::dispatch::{Features, Response};
use crate::stolen_time;

/// `SMCCC_VERSION`.
pub(crate) const VERSION: u32 = 0x8000_0000;
/// `SMCCC_ARCH_FEATURES`.
pub(crate) const ARCH_FEATURES: u32 = 0x8000_0001;
/// `SMCCC_ARCH_WORKAROUND_3`.
pub(crate) const WORKAROUND_3: u32 = 0x8000_3fff;
/// `SMCCC_ARCH_WORKAROUND_2`.
pub(crate) const WORKAROUND_2: u32 = 0x8000_7fff;
/// `SMCCC_ARCH_WORKAROUND_1`.
pub(crate) const WORKAROUND_1: u32 = 0x8000_8000;

/// SMCCC 1.2: X4 to X17 are preserved.
pub(crate) const SMCCC_1_2: u64 = 0x1_0002;

/// What a guest is told of one mitigation in firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mitigation {
    /// Not known here: `NOT_SUPPORTED`. The guest decides by its own list of processors.
    #[default]
    Unknown,
    /// The processor is not affected, or is mitigated for good; calling does nothing.
    NotNeeded,
    /// The call mitigates.
    Available,
}

/// A mitigation that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workaround {
    /// `SMCCC_ARCH_WORKAROUND_1`: invalidate branch prediction (CVE-2017-5715).
    BranchPrediction,
    /// `SMCCC_ARCH_WORKAROUND_2`: switch the mitigation of speculative store bypass (CVE-2018-3639).
    StoreBypass {
        /// On, not off.
        mitigate: bool,
    },
    /// `SMCCC_ARCH_WORKAROUND_3`: clear the branch history (CVE-2022-23960); includes the first.
    BranchHistory,
}

impl Mitigation {
    /// The answer of `SMCCC_ARCH_FEATURES`.
    const fn discovery(self) -> u64 {
        match self {
            Self::Unknown => NOT_SUPPORTED,
            Self::NotNeeded => 1,
            Self::Available => 0,
        }
    }

    /// The answer to the call of the workaround itself.
    const fn answer(self, workaround: Workaround) -> Response {
        match self {
            Self::Unknown => Response::Return(value(NOT_SUPPORTED)),
            Self::NotNeeded => Response::Return(value(0)),
            Self::Available => Response::Mitigate(workaround),
        }
    }
}

/// Answers `SMCCC_ARCH_FEATURES`.
pub(crate) const fn features(call: &Call, features: &Features) -> Response {
    Response::Return(value(match call.first_word() {
        VERSION | ARCH_FEATURES => 0,
        WORKAROUND_1 => features.branch_prediction.discovery(),
        WORKAROUND_2 => features.store_bypass.discovery(),
        WORKAROUND_3 => features.branch_history.discovery(),
        stolen_time::FEATURES if features.stolen_time.is_some() => 0,
        _ => NOT_SUPPORTED,
    }))
}

/// Answers one of the workarounds.
pub(crate) const fn workaround(call: &Call, features: &Features) -> Response {
    match call.function {
        WORKAROUND_1 => features.branch_prediction.answer(Workaround::BranchPrediction),
        WORKAROUND_2 => features
            .store_bypass
            .answer(Workaround::StoreBypass { mitigate: call.first_word() != 0 }),
        _ => features.branch_history.answer(Workaround::BranchHistory),
    }
}
