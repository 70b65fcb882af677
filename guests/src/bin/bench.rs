//! Counts what operations cost that a hypervisor may have to carry out: `guests::bench`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
guests::entry!(guests::bench::main);

#[cfg(not(target_os = "none"))]
fn main() {}
