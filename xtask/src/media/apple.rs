//! What m1n1 starts on a Mac with Apple silicon: a payload that is appended to it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Content;
use crate::arch::Arch;
use crate::workspace::Workspace;

/// Options of `cargo xtask image apple`.
#[derive(Debug, Args)]
pub struct Options {
    /// What the medium holds.
    #[command(flatten)]
    pub content: Content,
    /// m1n1's program, `m1n1.bin`; with `--dtb`, a complete `boot.bin` is made
    #[arg(long, value_name = "FILE", requires = "dtb")]
    pub m1n1: Option<PathBuf>,
    /// Device tree of a machine, such as `t8103-j274.dtb`; may be given several times
    #[arg(long, value_name = "FILE", requires = "m1n1")]
    pub dtb: Vec<PathBuf>,
    /// Folder for what is made [default: apple in the target folder]
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

const IMAGE: &str = "bunshin.img.gz";
const BUNDLE: &str = "bundle.itb";
const PAYLOAD: &str = "bunshin.payload";
const BOOT: &str = "boot.bin";

/// Before an initial RAM disk of any kind; its length follows, 32 bits, little endian.
const RAM_DISK_MARK: &[u8] = b"m1n1_initramfs";
/// Ends the list of payloads.
const END: [u8; 16] = [0; 16];
/// First bytes of a device tree.
const TREE_MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

/// Makes the payload and says how it is used.
///
/// # Errors
/// When a step fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let (image, bundle) = options.content.make(workspace, Arch::Aarch64)?;
    let image = packed(&fs::read(&image).with_context(|| image.display().to_string())?)?;
    let payload = payload(&image, &bundle)?;
    let default = workspace.target().join("apple");
    let folder = options.output.as_ref().unwrap_or(&default);
    fs::create_dir_all(folder)?;
    let write = |name: &str, data: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, data).with_context(|| format!("can't write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    write(IMAGE, &image)?;
    write(BUNDLE, &bundle)?;
    let file = write(PAYLOAD, &payload)?;
    match &options.m1n1 {
        Some(m1n1) => {
            let boot = write(BOOT, &boot(m1n1, &options.dtb, &payload)?)?;
            println!("{}: m1n1 with device trees and payload", boot.display());
        }
        None => {
            println!("{}: append it to m1n1 and the device tree of your Mac:", file.display());
            println!("  cat m1n1.bin t8103-j274.dtb {} > {BOOT}", file.display());
        }
    }
    println!("Install it from the Mac's recovery system, in the volume of an Asahi installation:");
    println!(
        "  kmutil configure-boot -c {BOOT} --raw --entry-point 2048 --lowest-virtual-address 0 -v VOLUME"
    );
    println!("or try it over USB from another computer, with m1n1 waiting on the Mac:");
    println!("  python3 m1n1/proxyclient/tools/linux.py {IMAGE} t8103-j274.dtb {BUNDLE}");
    Ok(())
}

/// m1n1 takes a kernel that is followed by anything only if it is compressed.
fn packed(image: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(image)?;
    Ok(encoder.finish()?)
}

fn payload(image: &[u8], bundle: &[u8]) -> Result<Vec<u8>> {
    let size = u32::try_from(bundle.len()).context("m1n1 takes no bundle of 4 GiB or more")?;
    Ok([image, RAM_DISK_MARK, &size.to_le_bytes(), bundle, &END].concat())
}

/// m1n1, device trees, payload.
fn boot(m1n1: &Path, trees: &[PathBuf], payload: &[u8]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let mut boot = read(m1n1)?;
    for path in trees {
        let tree = read(path)?;
        ensure!(tree.starts_with(&TREE_MAGIC), "{}: not a device tree", path.display());
        boot.extend(tree);
    }
    boot.extend(payload);
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::GzDecoder;

    use super::*;

    #[test]
    fn m1n1_finds_kernel_ram_disk_and_end_one_after_the_other() {
        let image = vec![7; 100_000];
        let payload = payload(&packed(&image).unwrap(), b"bundle").unwrap();
        let mut rest = &payload[..];
        let mut kernel = Vec::new();
        GzDecoder::new(&mut rest).read_to_end(&mut kernel).unwrap();
        assert_eq!(kernel, image);
        assert_eq!(rest, b"m1n1_initramfs\x06\0\0\0bundle\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_is_no_device_tree_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, data: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, data).unwrap();
            path
        };
        let m1n1 = file("m1n1.bin", b"m1n1");
        let tree = file("a.dtb", &[0xd0, 0x0d, 0xfe, 0xed, 1]);
        assert_eq!(boot(&m1n1, &[tree], b"!").unwrap(), b"m1n1\xd0\x0d\xfe\xed\x01!");
        let text = file("b.dts", b"/dts-v1/;");
        assert!(boot(&m1n1, &[text], b"!").unwrap_err().to_string().contains("not a device tree"));
    }
}
