//! The initial RAM disk of Linux guests: one busybox, a few scripts, and the kernel's drivers for
//! virtio devices and ext4.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, ensure};
use cpio::newc::Builder;
use flate2::{Compression, write::GzEncoder};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const SYMLINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

/// Modules that guests load, each behind those that it needs. Kernels have some of them built in.
pub const MODULES: [&str; 16] = [
    "failover",
    "net_failover",
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "virtio_balloon",
    "crc16",
    "crc32c_generic",
    "libcrc32c",
    "mbcache",
    "jbd2",
    "ext4",
];

/// A module of one of the kernels that the RAM disk is for.
#[derive(Debug, Clone)]
pub struct Module {
    /// Release of the kernel, as `uname -r` says it.
    pub release: String,
    /// One of [`MODULES`].
    pub name: String,
    /// The file, not compressed.
    pub data: Vec<u8>,
}

/// Builds the RAM disk, a gzip-compressed `newc` archive, around the static
/// program `busybox`, for kernels with `modules`.
///
/// # Errors
/// When `busybox` is no ELF program.
pub fn build(busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    ensure!(busybox.starts_with(b"\x7fELF"), "the fetched busybox is not an ELF program");
    let mut archive = GzEncoder::new(Vec::new(), Compression::best());
    let mut inode = 1;
    let mut add = |name: &str, mode: u32, data: &[u8]| -> Result<()> {
        let mut entry = Builder::new(name).ino(inode).mode(mode).nlink(1);
        if mode == CONSOLE {
            entry = entry.rdev_major(5).rdev_minor(1);
        }
        inode += 1;
        let length = u32::try_from(data.len())?;
        let mut writer = entry.write(&mut archive, length);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    };
    for folder in [
        "bin",
        "dev",
        "etc",
        "etc/run",
        "lib",
        "lib/modules",
        "mnt",
        "proc",
        "root",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
    ] {
        add(folder, DIRECTORY, &[])?;
    }
    add("lib/modules/order", TEXT, MODULES.join("\n").as_bytes())?;
    let releases: BTreeSet<&str> = modules.iter().map(|module| module.release.as_str()).collect();
    for release in releases {
        add(&format!("lib/modules/{release}"), DIRECTORY, &[])?;
    }
    for Module { release, name, data } in modules {
        add(&format!("lib/modules/{release}/{name}.ko"), TEXT, data)?;
    }
    add("dev/console", CONSOLE, &[])?;
    add("bin/busybox", PROGRAM, busybox)?;
    add("bin/sh", SYMLINK, b"busybox")?;
    add("init", PROGRAM, include_bytes!("initramfs/init"))?;
    add("etc/inittab", TEXT, include_bytes!("initramfs/inittab"))?;
    add("etc/profile", TEXT, include_bytes!("initramfs/profile"))?;
    add("etc/devices", PROGRAM, include_bytes!("initramfs/devices"))?;
    add("etc/selftest", PROGRAM, include_bytes!("initramfs/selftest"))?;
    add("etc/run/serve", PROGRAM, include_bytes!("initramfs/run/serve"))?;
    add("etc/run/fetch", PROGRAM, include_bytes!("initramfs/run/fetch"))?;
    add("etc/run/keep", PROGRAM, include_bytes!("initramfs/run/keep"))?;
    add("etc/run/record", PROGRAM, include_bytes!("initramfs/run/record"))?;
    cpio::newc::trailer(&mut archive)?;
    Ok(archive.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn the_archive_holds_init_and_what_it_runs() {
        let packed = build(
            b"\x7fELF and more",
            &[Module {
                release: "6.1.0-50-arm64".to_string(),
                name: "ext4".to_string(),
                data: b"module".to_vec(),
            }],
        )
        .unwrap();
        let mut archive = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut archive).unwrap();
        let mut rest = &archive[..];
        let mut names = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            names.push((reader.entry().name().to_string(), reader.entry().mode(), data));
            rest = reader.finish().unwrap();
        }
        let find = |name: &str| names.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(find("init").1, PROGRAM);
        assert_eq!(find("bin/busybox").2, b"\x7fELF and more");
        assert_eq!(find("bin/sh").2, b"busybox");
        assert_eq!(find("lib/modules/6.1.0-50-arm64/ext4.ko").2, b"module");
        assert!(find("lib/modules/order").2.ends_with(b"jbd2\next4"));
        let before = |a: &str, b: &str| {
            let at = |name| names.iter().position(|entry| entry.0 == name).unwrap();
            at(a) < at(b)
        };
        assert!(before("dev", "dev/console") && before("usr", "usr/bin"));
        assert!(before("lib/modules/6.1.0-50-arm64", "lib/modules/6.1.0-50-arm64/ext4.ko"));
    }

    #[test]
    fn something_else_than_a_program_is_refused() {
        assert!(build(b"#!/bin/sh", &[]).is_err());
    }
}
