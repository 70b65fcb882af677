//! Small drivers of the host devices that the hypervisor itself uses: serial ports, watchdogs, and the pins that say
//! which serial port leads outside.
//!
//! Each driver is generic over [`Registers`], so that it runs on the host against a fake register file. The image gives
//! it the device's memory.
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

#[cfg(test)]
mod fake;
pub mod pins;
mod registers;
pub mod serial;
pub mod watchdog;

pub use registers::Registers;
