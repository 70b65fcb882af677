//! Links the AArch64 image with its own layout.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    let os = std::env::var("CARGO_CFG_TARGET_OS");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH");
    if os.as_deref() == Ok("none") && arch.as_deref() == Ok("aarch64") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in [
            format!("-T{folder}/linker.ld"),
            // Position independent without a dynamic linker: the image
            // relocates itself.
            "-pie".into(),
            "--no-dynamic-linker".into(),
            "-zmax-page-size=4096".into(),
            "-znotext".into(),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
