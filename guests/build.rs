//! Links the guests as position-independent images without a loader's help.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "none" || variable("CARGO_CFG_TARGET_ARCH") != "aarch64" {
        return;
    }
    let script = format!("{}/src/aarch64/image.ld", variable("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    for option in [
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-znorelro",
        "--build-id=none",
        "-zmax-page-size=4096",
    ] {
        println!("cargo:rustc-link-arg-bins={option}");
    }
}
