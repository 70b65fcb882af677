//! Interrupt controllers: the one that a guest sees, and the one that the machine has.
//!
//! * [`vgic`] is the virtual controller of one VM, GICv2 or GICv3, as a pure state machine: it never touches hardware.
//!   It hands interrupts to the guest through list registers, which it reaches by the [`ListRegisters`] trait.
//! * [`host`] drives the physical GICv2 or GICv3 from EL2 and implements that trait for `GICH_*` and `ICH_*_EL2`.
//!
//! Specifications: IHI 0048B (GICv2), IHI 0069H (GICv3 and GICv4).
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
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

mod affinity;
mod bits;
mod effects;
pub mod host;
pub mod interface;
mod intid;
mod list_register;
mod vcpu;
pub mod vgic;

pub use affinity::Affinity;
pub use effects::Effects;
pub use intid::{IntId, Line};
pub use list_register::{ListRegister, ListRegisters, State};
pub use vcpu::{VcpuIndex, VcpuSet};
pub use vgic::{Config, ConfigError, Frame, Read, Version, Vgic, Width};
