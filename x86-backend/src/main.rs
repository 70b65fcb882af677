//! The x86 image of Bunshin.
#![cfg_attr(all(target_arch = "x86_64", target_os = "none"), no_std, no_main)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
extern crate alloc;

#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod backend;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod engine;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod hello;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod host;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod images;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod launch;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod ram;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod svm;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod vcpu;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod virtio;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod vm;
#[cfg(all(target_arch = "x86_64", target_os = "none"))]
mod vmx;

/// On a development machine there is nothing to run.
#[cfg(not(all(target_arch = "x86_64", target_os = "none")))]
fn main() {
    eprintln!("bunshin-x86 is firmware: build it with `--target x86_64-unknown-none`");
    std::process::exit(2);
}
