//! Links the guests as kernels that PVH and Multiboot loaders start.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "none" || variable("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        return;
    }
    let script = format!("{}/image.ld", variable("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for option in ["--no-pie", "--build-id=none", "-zmax-page-size=4096"] {
        println!("cargo:rustc-link-arg-bins={option}");
    }
}
