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

/// A `newc` archive in the making, as Linux takes for its initial RAM disk.
#[derive(Debug)]
pub struct Archive<W> {
    to: W,
    inodes: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one that goes to `to`.
    pub fn new(to: W) -> Self {
        Archive { to, inodes: 0 }
    }

    fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.inodes += 1;
        let mut entry = Builder::new(name).ino(self.inodes).mode(mode).nlink(1);
        if mode == CONSOLE {
            entry = entry.rdev_major(5).rdev_minor(1);
        }
        let mut writer = entry.write(&mut self.to, u32::try_from(data.len())?);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }

    /// Adds empty folders, each behind the one that it is in.
    ///
    /// # Errors
    /// As `to`'s; so are those of all others.
    pub fn folders(&mut self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| self.add(name, DIRECTORY, &[]))
    }

    /// Adds a program or a script.
    ///
    /// # Errors
    /// As [`Self::folders`].
    pub fn program(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.add(name, PROGRAM, data)
    }

    /// Adds a file that is not executed.
    ///
    /// # Errors
    /// As [`Self::folders`].
    pub fn file(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.add(name, TEXT, data)
    }

    /// Adds the console, and a shell: the static program `busybox`.
    ///
    /// # Errors
    /// As [`Self::folders`], and when `busybox` is no ELF program.
    pub fn shell(&mut self, busybox: &[u8]) -> Result<()> {
        ensure!(busybox.starts_with(b"\x7fELF"), "the fetched busybox is not an ELF program");
        self.add("dev/console", CONSOLE, &[])?;
        self.add("bin/busybox", PROGRAM, busybox)?;
        self.add("bin/sh", SYMLINK, b"busybox")
    }

    /// Ends it.
    ///
    /// # Errors
    /// As [`Self::folders`].
    pub fn finish(mut self) -> Result<W> {
        cpio::newc::trailer(&mut self.to)?;
        Ok(self.to)
    }
}

/// Builds the RAM disk, a gzip-compressed `newc` archive, around the static
/// program `busybox`, for kernels with `modules`.
///
/// # Errors
/// When `busybox` is no ELF program.
pub fn build(busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::new(GzEncoder::new(Vec::new(), Compression::best()));
    archive.folders(&[
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
    ])?;
    archive.file("lib/modules/order", MODULES.join("\n").as_bytes())?;
    let releases: BTreeSet<&str> = modules.iter().map(|module| module.release.as_str()).collect();
    for release in releases {
        archive.folders(&[&format!("lib/modules/{release}")])?;
    }
    for Module { release, name, data } in modules {
        archive.file(&format!("lib/modules/{release}/{name}.ko"), data)?;
    }
    archive.shell(busybox)?;
    archive.program("init", include_bytes!("initramfs/init"))?;
    archive.file("etc/inittab", include_bytes!("initramfs/inittab"))?;
    archive.file("etc/profile", include_bytes!("initramfs/profile"))?;
    archive.program("etc/devices", include_bytes!("initramfs/devices"))?;
    archive.program("etc/selftest", include_bytes!("initramfs/selftest"))?;
    archive.program("etc/run/control", include_bytes!("initramfs/run/control"))?;
    archive.program("etc/run/serve", include_bytes!("initramfs/run/serve"))?;
    archive.program("etc/run/fetch", include_bytes!("initramfs/run/fetch"))?;
    archive.program("etc/run/keep", include_bytes!("initramfs/run/keep"))?;
    archive.program("etc/run/record", include_bytes!("initramfs/run/record"))?;
    Ok(archive.finish()?.finish()?)
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
