//! An M1 as m1n1 leaves it, as far as a hypervisor at EL2 can tell: on QEMU's `virt` with a GICv3, seen from EL3.
//!
//! | on an M1 | here |
//! |---|---|
//! | memory at 0x8_0000_0000 | a memory module at that address |
//! | registers of devices | granules without access (RME): accesses come to EL3, which carries them out |
//! | timers and fast IPIs on FIQ | private interrupts of the GIC in group 0 |
//! | interrupts of the AIC on IRQ | interrupts of group 1, which nobody acknowledges |
//! | registers of Apple's own, E2H fixed, MPIDR, ID registers | instructions replaced by `SMC`, see the library |
//! | spin table | CPUs wait at EL2 |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod aic;
#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod print;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod uart;

/// On a host there is nothing to do.
#[cfg(not(target_os = "none"))]
fn main() {}
