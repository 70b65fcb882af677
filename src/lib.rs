//! The arch-neutral core of Bunshin: the exit loop, the bus, the life cycle of
//! virtual machines and the bundle.
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

pub mod address;
pub mod assembly;
pub mod backend;
pub mod bundle;
pub mod bus;
pub mod config;
pub mod console;
pub mod cpu;
pub mod device;
pub mod disk;
pub mod elf;
pub mod entropy;
pub mod exit;
#[cfg(test)]
mod fake;
pub mod frames;
pub mod host_devices;
pub mod hypervisor;
pub mod memory;
pub mod monitor;
pub mod network;
pub mod placement;
pub mod scheduler;
pub mod statistics;
pub mod trace;
pub mod uplink;
pub mod vcpu;
pub mod virtio;
pub mod vm;
