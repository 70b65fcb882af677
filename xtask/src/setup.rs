//! `cargo xtask setup`: everything that a fresh machine lacks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::apt::{self, BACKPORTS, PrivateApt, RELEASE};
use crate::workspace::Workspace;
use crate::{initramfs, process};

/// Bare-metal targets of the image, the x86 image and their guests.
pub const TARGETS: [&str; 2] = ["aarch64-unknown-none-softfloat", "x86_64-unknown-none"];

/// The oldest QEMU that emulates what the tests need.
const QEMU_MAJOR: u32 = 9;

/// Options of `cargo xtask setup`.
#[derive(Debug, Default, Args)]
pub struct Options {
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

    /// Its file, below the folder of fetched guests.
    pub const fn file(self) -> &'static str {
        match self {
            Guest::Debian61 => "debian-6.1/Image",
            Guest::Debian612 => "debian-6.12/Image",
            Guest::UBoot => "u-boot/u-boot.bin",
            Guest::Initramfs => "busybox/initramfs.cpio.gz",
        }
    }
}

/// Does what is missing; fast when nothing is.
///
/// # Errors
/// When a step fails, or needs a privilege that the user does not have; the
/// message then holds the commands to type.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    rust_targets(workspace)?;
    qemu(options)?;
    guests(workspace, options)
}

fn rust_targets(workspace: &Workspace) -> Result<()> {
    let sysroot = process::output(
        Command::new("rustc").args(["--print", "sysroot"]).current_dir(workspace.root()),
    )?;
    let sysroot = Path::new(sysroot.trim());
    let missing: Vec<_> = TARGETS
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

/// Major version of the installed emulator.
fn qemu_version() -> Option<u32> {
    let text = process::output(Command::new("qemu-system-aarch64").arg("--version")).ok()?;
    major_version(text.split("version ").nth(1)?)
}

fn major_version(version: &str) -> Option<u32> {
    // Debian writes an epoch before the version: 1:10.0.2+ds-2.
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn qemu(options: &Options) -> Result<()> {
    match qemu_version() {
        Some(major) if major >= QEMU_MAJOR => return Ok(()),
        Some(major) => println!("QEMU {major} is too old; version {QEMU_MAJOR} or newer is needed"),
        None => println!("QEMU for arm64 is not installed"),
    }
    if process::find("apt-get").is_none() {
        bail!("install qemu-system-aarch64 {QEMU_MAJOR} or newer through your package manager");
    }
    let root = is_root()?;
    let mut recent = candidate_is_recent()?;
    if !recent && root {
        // A fresh machine has no package lists at all.
        process::run_with_spinner("fetching the package lists", apt_get().arg("update"))?;
        recent = candidate_is_recent()?;
    }
    let source = match recent {
        true => None,
        false if is_release() => Some(apt::sources(&mirror(options)?, &[BACKPORTS])),
        false => bail!("this system's packages have no QEMU {QEMU_MAJOR}; install it by hand"),
    };

    let list = format!("/etc/apt/sources.list.d/{BACKPORTS}.sources");
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    if source.is_some() {
        install.extend(["-t", BACKPORTS]);
    }
    install.push("qemu-system-arm");
    if !root {
        let enable = source.map_or_else(String::new, |text| {
            format!("\n  printf '%s' '{text}' | sudo tee {list}\n  sudo apt-get update")
        });
        bail!(
            "QEMU must be installed by root; type{enable}\n  sudo apt-get {}\nand try again",
            install.join(" ")
        );
    }
    if let Some(text) = source {
        println!("enabling {BACKPORTS} in {list}");
        fs::write(&list, text).with_context(|| format!("can't write {list}"))?;
        process::run_with_spinner("fetching the package lists", apt_get().arg("update"))?;
    }
    process::run_with_spinner("installing qemu-system-arm", apt_get().args(install))?;
    match qemu_version() {
        Some(major) if major >= QEMU_MAJOR => Ok(()),
        other => {
            bail!("QEMU {QEMU_MAJOR} or newer was asked for, but version {other:?} was installed")
        }
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether apt would install a QEMU that will do.
fn candidate_is_recent() -> Result<bool> {
    let policy = process::output(
        Command::new("apt-cache").args(["policy", "qemu-system-arm"]).env("LC_ALL", "C"),
    )?;
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(candidate.and_then(major_version).is_some_and(|major| major >= QEMU_MAJOR))
}

/// Whether this system is of the release whose backports are known.
fn is_release() -> bool {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines().any(|line| line == format!("VERSION_CODENAME={RELEASE}"))
}

fn is_root() -> Result<bool> {
    Ok(process::output(Command::new("id").arg("-u"))?.trim() == "0")
}

fn mirror(options: &Options) -> Result<String> {
    options.mirror.clone().map_or_else(apt::system_mirror, Ok)
}

fn guests(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.guests();
    let path = |guest: Guest| folder.join(guest.file());
    // The RAM disk changes with this tool, so it is made from busybox each time.
    let busybox = folder.join("busybox/busybox");
    let fetched = [Guest::Debian61, Guest::Debian612, Guest::UBoot].map(path);
    let complete = fetched.iter().chain([&busybox]).all(|file| file.is_file());
    if options.refresh || !complete {
        let root = folder.join("apt");
        let apt = PrivateApt::create(&root, &mirror(options)?)?;
        apt.update()?;
        for (guest, suite) in [(Guest::Debian61, RELEASE), (Guest::Debian612, BACKPORTS)] {
            let package = apt.first_dependency("linux-image-arm64", suite)?;
            apt.extract(&apt.download(&package)?, "./boot/vmlinuz-*", &path(guest))?;
        }
        let package = apt.download("u-boot-qemu")?;
        apt.extract(&package, "./usr/lib/u-boot/qemu_arm64/u-boot.bin", &path(Guest::UBoot))?;
        apt.extract(&apt.download("busybox-static")?, "./bin/busybox", &busybox)?;
        // The packages are a hundred times larger than what is needed of them.
        fs::remove_dir_all(&root)?;
    }
    let initramfs = initramfs::build(&fs::read(&busybox)?)?;
    let file = path(Guest::Initramfs);
    if fs::read(&file).is_ok_and(|old| old == initramfs) {
        return Ok(());
    }
    fs::write(&file, initramfs).with_context(|| format!("can't write {}", file.display()))?;
    println!("guests are in {}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_an_epoch() {
        for (text, major) in [
            ("10.0.2 (Debian 1:10.0.2+ds-2)", Some(10)),
            ("1:7.2+dfsg-7+deb12u13", Some(7)),
            ("9.2.0", Some(9)),
            ("(none)", None),
        ] {
            let text = text.split(' ').next().unwrap();
            assert_eq!(major_version(text), major, "{text}");
        }
    }

    #[test]
    fn every_guest_is_found_by_its_name() {
        for guest in Guest::ALL {
            assert_eq!(Guest::from_name(guest.name()), Some(guest));
        }
        assert_eq!(Guest::from_name("debian:5.0"), None);
    }
}
