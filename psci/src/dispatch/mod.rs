//! From a function identifier to an answer or a request.

use arm_psci::FunctionId;

use crate::architecture::{self, Mitigation, Workaround};
use crate::call::{Call, NOT_SUPPORTED, result, value};
use crate::entropy::{self, EntropyRequest};
use crate::power::{self, PowerRequest};
use crate::stolen_time;
use crate::vendor::{self, HYPERVISOR_UID, VendorCall};

/// What the virtual machine, and the virtual CPU that calls, have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `SYSTEM_SUSPEND`.
    pub system_suspend: bool,
    /// The true random number generator.
    pub entropy: bool,
    /// The guest physical address of the calling virtual CPU's [`stolen_time::StolenTime`].
    pub stolen_time: Option<u64>,
    /// The hypervisor's own calls.
    pub vendor_calls: bool,
    /// `SMCCC_ARCH_WORKAROUND_1`.
    pub branch_prediction: Mitigation,
    /// `SMCCC_ARCH_WORKAROUND_2`.
    pub store_bypass: Mitigation,
    /// `SMCCC_ARCH_WORKAROUND_3`.
    pub branch_history: Mitigation,
}

/// What to do about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Answered: the values for X0 to X3. All other registers are preserved.
    Return([u64; 4]),
    /// A request to the machine; the outcome goes into the guest's registers with [`result`](crate::result()), or
    /// [`power::AffinityInstance::answer`].
    Power(PowerRequest),
    /// A request for entropy; answered with [`EntropyRequest::answer`].
    Entropy(EntropyRequest),
    /// The guest asks for a mitigation; X0 to X3 are then preserved.
    Mitigate(Workaround),
    /// One of the hypervisor's own calls.
    Vendor(VendorCall),
}

/// The lowest and highest function identifiers of PSCI without bit 30, which chooses the convention.
const PSCI: core::ops::RangeInclusive<u32> = 0x8400_0000..=0x8400_001f;

/// Unknown function.
const UNKNOWN: Response = Response::Return(value(NOT_SUPPORTED));

/// X0 for a call that needs no more than its function identifier: `PSCI_VERSION`, and functions of services that nobody
/// offers here. A few instructions in the caller.
#[inline]
#[must_use]
pub const fn immediate(function: u32) -> Option<u64> {
    const PSCI_VERSION: u32 = FunctionId::PsciVersion as u32;
    if function == PSCI_VERSION {
        Some(power::VERSION)
    } else if is_served(function) {
        None
    } else {
        Some(NOT_SUPPORTED)
    }
}

/// Answers `call`, or says what it asks for.
#[must_use]
pub fn dispatch(call: &Call, features: &Features) -> Response {
    match immediate(call.function) {
        Some(x0) => Response::Return(value(x0)),
        None => serve(call, features),
    }
}

/// Whether `function` is a fast call of a service that is answered here: architecture, standard secure (PSCI, TRNG),
/// standard hypervisor (stolen time), vendor-specific hypervisor.
const fn is_served(function: u32) -> bool {
    /// Bit 31, fast, and bits 23 to 16, which must be zero. Bit 30 is the convention.
    const FIXED: u32 = 1 << 31 | 0xff << 16;
    /// The owners 0, 4, 5 and 6.
    const OWNERS: u64 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6;
    let owner = (function >> 24) & 0x3f;
    function & FIXED == 1 << 31 && OWNERS.wrapping_shr(owner) & 1 != 0
}

/// Answers a call of one of the services.
fn serve(call: &Call, features: &Features) -> Response {
    /// Chooses the convention.
    const WIDE: u32 = 1 << 30;
    if PSCI.contains(&(call.function & !WIDE)) {
        return power(call, features);
    }
    match call.function {
        architecture::VERSION => Response::Return(value(architecture::SMCCC_1_2)),
        architecture::ARCH_FEATURES => architecture::features(call, features),
        architecture::WORKAROUND_1 | architecture::WORKAROUND_2 | architecture::WORKAROUND_3 => {
            architecture::workaround(call, features)
        }
        entropy::VERSION if features.entropy => Response::Return(value(entropy::VERSION_1_0)),
        entropy::FEATURES if features.entropy => entropy::features(call),
        entropy::GET_UUID if features.entropy => Response::Return(entropy::UUID),
        entropy::RND32 | entropy::RND64 if features.entropy => entropy::random(call),
        stolen_time::FEATURES => stolen_time::features(call, features),
        stolen_time::STOLEN => stolen_time::address(features),
        vendor::CALL_UID => Response::Return(HYPERVISOR_UID.map(u64::from)),
        vendor::REVISION => Response::Return(vendor::REVISION_NUMBERS),
        _ if features.vendor_calls => VendorCall::decode(call).map_or(UNKNOWN, Response::Vendor),
        _ => UNKNOWN,
    }
}

/// Answers a call of PSCI.
fn power(call: &Call, features: &Features) -> Response {
    let Ok(function) = FunctionId::try_from(call.function) else {
        return UNKNOWN;
    };
    match function {
        FunctionId::PsciFeatures => power::features(call, features),
        FunctionId::MigrateInfoType => Response::Return(value(power::MIGRATION_NOT_REQUIRED)),
        _ => match power::request(function, call, features) {
            Some(Ok(request)) => Response::Power(request),
            Some(Err(error)) => Response::Return(result(Err(error))),
            None => UNKNOWN,
        },
    }
}

#[cfg(test)]
mod tests;
