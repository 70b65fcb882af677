//! What the small guests share: start-up, exceptions, output in the Test
//! Anything Protocol, and access to the machine that they test.
//!
//! A guest is a kernel without user space. It runs alike on a bare machine or
//! emulator and under the hypervisor, so that a test is proven on the former
//! before it judges the latter.
#![no_std]
// Operands of assembly exist only inside of it, in `attempt!`.
#![allow(clippy::macro_metavars_in_unsafe)]

#[cfg(target_os = "none")]
pub mod bench;
pub mod random;
pub mod tap;
#[cfg(target_os = "none")]
pub mod virtio;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub mod aarch64;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
use aarch64 as machine;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub mod x86_64;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
use x86_64 as machine;

/// Prints one line on the console. The whole line appears unbroken, whatever
/// other CPUs print.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print_line(::core::format_args!($($argument)*)) };
}

/// Prints one line; see [`println!`].
#[cfg(target_os = "none")]
pub fn print_line(line: core::fmt::Arguments<'_>) {
    machine::console::print_line(line);
}
