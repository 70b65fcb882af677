//! The calls that a guest makes by `HVC`, or by an `SMC` that is trapped: the SMC Calling Convention.
//!
//! [`dispatch`] decodes one call from four registers. What needs no knowledge of the virtual machine is answered at
//! once ([`Response::Return`]); anything else is a request in the words of the machine, with every argument checked
//! and, for calls of the 32-bit convention, narrowed. The caller does it and puts the outcome into the guest's
//! registers with [`result`] and its neighbours.
//!
//! | service | specification | here |
//! |---|---|---|
//! | Arm architecture | SMCCC (DEN0028) 7 | `VERSION`, `ARCH_FEATURES`, `ARCH_WORKAROUND_1` to `_3` |
//! | power | PSCI 1.3 (DEN0022) | all mandatory functions, and the optional ones listed in [`power`] |
//! | entropy | TRNG 1.0 (DEN0098) | all |
//! | stolen time | DEN0057 | all |
//! | vendor-specific hypervisor | SMCCC 6.2 | `CALL_UID`, `REVISION`, and the hypervisor's own calls |
//!
//! Any other function identifier, fast or yielding, is answered with `NOT_SUPPORTED`: a guest's call never reaches
//! the firmware.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod architecture;
mod call;
mod dispatch;
pub mod entropy;
pub mod power;
pub mod stolen_time;
mod vendor;

pub use architecture::{Mitigation, Workaround};
pub use arm_psci::{ErrorCode, Mpidr};
pub use call::{Call, NOT_SUPPORTED, result, value};
pub use dispatch::{Features, Response, dispatch, immediate};
pub use vendor::{HYPERVISOR_UID, VendorCall};
