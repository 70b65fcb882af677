//! The x86 home of Bunshin: the guest PC, AMD-V and VT-x.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod asid;
pub mod availability;
pub mod boot_info;
pub mod controls;
pub mod event;
pub mod machine;
pub mod paging;
pub mod scrub;
pub mod shootdown;
pub mod state;
pub mod translate;
