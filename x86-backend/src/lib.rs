//! The x86 home of Bunshin: the guest PC, AMD-V and VT-x.
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

extern crate alloc;

pub mod asid;
pub mod availability;
pub mod boot_info;
pub mod controls;
pub mod event;
#[cfg(test)]
mod fake;
pub mod machine;
pub mod paging;
pub mod restricted;
pub mod scrub;
pub mod shootdown;
pub mod state;
pub mod translate;
