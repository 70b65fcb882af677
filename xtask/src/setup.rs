//! `cargo xtask setup`: everything that a fresh machine lacks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::apt::{self, BACKPORTS, PrivateApt, RELEASE};
use crate::arch::Arch;
use crate::workspace::Workspace;
use crate::{initramfs, modules, packages, process};

/// Options of `cargo xtask setup`.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Only what this architecture needs [default: both]
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
    /// Debian archive to fetch guests from [default: the one in /etc/apt]
    #[arg(long, value_name = "URI")]
    pub mirror: Option<String>,
    /// Fetch the guests again even if they are there
    #[arg(long)]
    pub refresh: bool,
}

/// A file that guests are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Debian's kernel of the stable release.
    Debian61,
    /// Debian's kernel from backports.
    Debian612,
    /// U-Boot for QEMU's arm64 `virt` machine.
    UBoot,
    /// RAM disk with busybox.
    Initramfs,
}

impl Guest {
    /// All of them.
    pub const ALL: [Guest; 4] = [Guest::Debian61, Guest::Debian612, Guest::UBoot, Guest::Initramfs];

    /// The name that a VM file uses.
    pub const fn name(self) -> &'static str {
        match self {
            Guest::Debian61 => "debian:6.1",
            Guest::Debian612 => "debian:6.12",
            Guest::UBoot => "u-boot",
            Guest::Initramfs => "busybox",
        }
    }

    /// The guest with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Guest::ALL.into_iter().find(|guest| guest.name() == name)
    }

    /// Its file for `arch`, below the folder of fetched guests, if there is one.
    pub const fn file(self, arch: Arch) -> Option<&'static str> {
        Some(match (arch, self) {
            (Arch::Aarch64, Guest::Debian61) => "debian-6.1/Image",
            (Arch::Aarch64, Guest::Debian612) => "debian-6.12/Image",
            (Arch::Aarch64, Guest::UBoot) => "u-boot/u-boot.bin",
            (Arch::Aarch64, Guest::Initramfs) => "busybox/initramfs.cpio.gz",
            (Arch::X86_64, Guest::Debian61) => "x86_64/debian-6.1/bzImage",
            (Arch::X86_64, Guest::Debian612) => "x86_64/debian-6.12/bzImage",
            (Arch::X86_64, Guest::UBoot) => return None,
            (Arch::X86_64, Guest::Initramfs) => "x86_64/busybox/initramfs.cpio.gz",
        })
    }
}

/// Does what is missing; fast when nothing is.
///
/// # Errors
/// When a step fails, or needs a privilege that the user does not have; the
/// message then holds the commands to type.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    rust_targets(workspace)?;
    for arch in Arch::ALL {
        if options.arch.is_none_or(|only| only == arch) {
            packages::qemu(arch, || mirror(options))?;
            guests(workspace, options, arch)?;
        }
    }
    Ok(())
}

fn rust_targets(workspace: &Workspace) -> Result<()> {
    let sysroot = process::output(
        Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace.root()),
    )?;
    let sysroot = Path::new(sysroot.trim());
    let missing: Vec<_> = Arch::ALL
        .map(Arch::target)
        .into_iter()
        .filter(|target| !sysroot.join("lib/rustlib").join(target).join("lib").is_dir())
        .collect();
    let components: Vec<_> = [("clippy", "cargo-clippy"), ("rustfmt", "cargo-fmt")]
        .into_iter()
        .filter(|(_, program)| !sysroot.join("bin").join(program).is_file())
        .map(|(component, _)| component)
        .collect();
    if missing.is_empty() && components.is_empty() {
        return Ok(());
    }
    if process::find("rustup").is_none() {
        bail!(
            "Rust lacks {}; install rustup, or these through your package manager",
            [missing, components].concat().join(", ")
        );
    }
    for (kind, names) in [("target", missing), ("component", components)] {
        if !names.is_empty() {
            println!("adding to Rust: {}", names.join(", "));
            process::run(
                Command::new("rustup")
                    .args([kind, "add"])
                    .args(names)
                    .current_dir(workspace.root()),
            )?;
        }
    }
    Ok(())
}

fn mirror(options: &Options) -> Result<String> {
    options.mirror.clone().map_or_else(apt::system_mirror, Ok)
}

/// Debian's package that depends on the kernel for guests.
const fn kernel_package(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "linux-image-arm64",
        // Without the drivers of real PCs; that makes it half as large.
        Arch::X86_64 => "linux-image-cloud-amd64",
    }
}

fn guests(workspace: &Workspace, options: &Options, arch: Arch) -> Result<()> {
    let folder = workspace.guests();
    let path = |guest: Guest| guest.file(arch).map(|file| folder.join(file));
    let Some(initrd) = path(Guest::Initramfs) else { return Ok(()) };
    // The RAM disk changes with this tool, so it is made from busybox each time.
    let busybox = initrd.with_file_name("busybox");
    let kernels: Vec<_> = [(Guest::Debian61, RELEASE), (Guest::Debian612, BACKPORTS)]
        .into_iter()
        .filter_map(|(guest, suite)| Some((suite, path(guest)?)))
        .map(|(suite, file)| ((suite, file.clone()), file.with_file_name("modules")))
        .collect();
    let fetched = [Guest::Debian61, Guest::Debian612, Guest::UBoot].into_iter().filter_map(path);
    let complete = fetched.chain([busybox.clone()]).all(|file| file.is_file())
        && kernels.iter().all(|(_, folder)| folder.is_dir());
    if options.refresh || !complete {
        let root = folder.join(format!("apt-{arch}"));
        let apt = PrivateApt::create(&root, &mirror(options)?, arch)?;
        apt.update()?;
        for ((suite, file), folder) in &kernels {
            let package = apt.first_dependency(kernel_package(arch), suite)?;
            let package = apt.download(&package)?;
            apt.extract(&package, "./boot/vmlinuz-*", file)?;
            modules::fetch(&apt, &package, folder)?;
        }
        if let Some(file) = path(Guest::UBoot) {
            let package = apt.download("u-boot-qemu")?;
            apt.extract(&package, "./usr/lib/u-boot/qemu_arm64/u-boot.bin", &file)?;
        }
        apt.extract(&apt.download("busybox-static")?, "./bin/busybox", &busybox)?;
        // The packages are a hundred times larger than what is needed of them.
        fs::remove_dir_all(&root)?;
    }
    let mut all = Vec::new();
    for (_, folder) in &kernels {
        all.extend(modules::read(folder)?);
    }
    let initramfs = initramfs::build(&fs::read(&busybox)?, &all)?;
    if fs::read(&initrd).is_ok_and(|old| old == initramfs) {
        return Ok(());
    }
    fs::write(&initrd, initramfs).with_context(|| format!("can't write {}", initrd.display()))?;
    println!("guests are in {}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_found_by_its_name() {
        for guest in Guest::ALL {
            assert_eq!(Guest::from_name(guest.name()), Some(guest));
        }
        assert_eq!(Guest::from_name("debian:5.0"), None);
    }
}
