//! What machine is this?
//!
//! Bootloaders describe the machine with a flattened device tree, PC firmware with ACPI tables. Neither is to be
//! trusted: both arrive from outside, and real ones are odd. This crate turns them into validated, owned descriptions
//! once; behind it nobody checks again.
//!
//! - [`tree`]: a device-tree blob becomes a [`Tree`](tree::Tree) with bounded, panic-free look-ups. FIT bundles are
//!   device trees too and go the same way.
//! - [`discover`]: a [`Tree`](tree::Tree) becomes a [`Platform`](discover::Platform): memory, CPUs, console, interrupt
//!   controller, timer, PSCI, reset, boot arguments.
//! - [`acpi`]: the tables of a PC that say which CPUs, I/O APICs and reset registers there are.
//! - [`guest`]: the machine that AArch64 guests see, QEMU's `virt`: its address map, its device tree, and the places of
//!   kernel, initial RAM disk and tree.
//!
//! Everything here is pure logic: it touches no hardware and keeps no global state.

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

pub mod acpi;
mod address;
pub mod discover;
pub mod guest;
pub mod tree;

pub use address::{PhysicalAddress, Region, merge_regions, subtract_regions};
