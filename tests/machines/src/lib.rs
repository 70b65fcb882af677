//! Firmware that makes of QEMU's machines what the hypervisor meets on real boards.
//!
//! Each program starts at EL3 at the reset vector, on all CPUs at once, and enters the hypervisor's image as the
//! firmware and boot loader of its board do. None is part of the hypervisor.
#![cfg_attr(target_os = "none", no_std)]

pub mod m1;
