//! The AArch64 image of Bunshin: EL2 start-up, world switch, and the wiring of
//! the core with the AArch64 libraries.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
extern crate alloc;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod el2;

/// On a host this program is only a hint.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("bunshin is firmware: `cargo xtask run` builds it and boots it in an emulator");
    std::process::exit(2);
}
