//! Links the firmware at address 0, where CPUs come out of reset, with its memory elsewhere.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let script = format!("{}/firmware.ld", variable("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for option in ["--no-pie", "-znorelro", "--build-id=none", "-zmax-page-size=4096"] {
        println!("cargo:rustc-link-arg-bins={option}");
    }
}
