//! Programs of the system that this tool needs: looked for, installed when this is root, named
//! with the commands to type when it is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, BACKPORTS, RELEASE};
use crate::arch::Arch;
use crate::process;

/// The oldest QEMU that emulates what the tests need.
const QEMU_MAJOR: u32 = 9;

/// A program or a file, and Debian's package with it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The name of a program, or the absolute path of a file.
    pub what: &'static str,
    /// The package.
    pub package: &'static str,
}

const fn tool(what: &'static str, package: &'static str) -> Tool {
    Tool { what, package }
}

/// What makes media that PCs boot from, by BIOS and by UEFI.
pub const PC_MEDIA: [Tool; 5] = [
    tool("grub-mkrescue", "grub-common"),
    tool("/usr/lib/grub/i386-pc/moddep.lst", "grub-pc-bin"),
    tool("/usr/lib/grub/x86_64-efi/moddep.lst", "grub-efi-amd64-bin"),
    tool("xorriso", "xorriso"),
    tool("mformat", "mtools"),
];

/// The emulator of PCs with VT-x, with its firmware.
pub const BOCHS: [Tool; 3] = [
    // The smallest of the user interfaces of which the package wants one; none is used.
    tool("bochs", "bochs-term"),
    tool("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    tool("/usr/share/bochs/VGABIOS-lgpl-latest", "bochs"),
];

/// UEFI firmware for QEMU's PCs.
pub const UEFI: [Tool; 1] = [tool("/usr/share/ovmf/OVMF.fd", "ovmf")];

impl Tool {
    fn is_there(&self) -> bool {
        match self.what.starts_with('/') {
            true => Path::new(self.what).exists(),
            false => process::find(self.what).is_some(),
        }
    }
}

/// Installs those of `tools` that are absent.
///
/// # Errors
/// As apt's; without root, the message holds the command to type.
pub fn install(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    let names = packages.join(" ");
    if process::find("apt-get").is_none() {
        bail!("install these through your package manager (Debian's names): {names}");
    }
    if !is_root()? {
        bail!(
            "packages must be installed by root; type\n  \
             sudo apt-get install -y --no-install-recommends {names}\nand try again"
        );
    }
    let install = ["install", "-y", "--no-install-recommends"];
    let what = format!("installing {names}");
    if process::run_with_spinner(&what, apt_get().args(install).args(&packages)).is_err() {
        // A fresh machine has no package lists at all.
        process::run_with_spinner("fetching the package lists", apt_get().arg("update"))?;
        process::run_with_spinner(&what, apt_get().args(install).args(&packages))?;
    }
    match tools.iter().find(|tool| !tool.is_there()) {
        None => Ok(()),
        Some(tool) => bail!("{} was installed, but {} is absent", tool.package, tool.what),
    }
}

/// Major version of the installed emulator of `arch`.
fn qemu_version(arch: Arch) -> Option<u32> {
    let text = process::output(Command::new(arch.qemu()).arg("--version")).ok()?;
    major_version(text.split("version ").nth(1)?)
}

fn major_version(version: &str) -> Option<u32> {
    // Debian writes an epoch before the version: 1:10.0.2+ds-2.
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Installs QEMU for `arch` unless it is there and new enough. `mirror` is the Debian archive to
/// take a newer one from.
///
/// # Errors
/// As [`install`], and when no QEMU is new enough.
pub fn qemu(arch: Arch, mirror: impl FnOnce() -> Result<String>) -> Result<()> {
    match qemu_version(arch) {
        Some(major) if major >= QEMU_MAJOR => return Ok(()),
        Some(major) => println!("QEMU {major} is too old; version {QEMU_MAJOR} or newer is needed"),
        None => println!("QEMU for {arch} is not installed"),
    }
    if process::find("apt-get").is_none() {
        bail!("install {} {QEMU_MAJOR} or newer through your package manager", arch.qemu());
    }
    let root = is_root()?;
    let mut recent = candidate_is_recent(arch)?;
    if !recent && root {
        // A fresh machine has no package lists at all.
        process::run_with_spinner("fetching the package lists", apt_get().arg("update"))?;
        recent = candidate_is_recent(arch)?;
    }
    let source = match recent {
        true => None,
        false if is_release() => Some(apt::sources(&mirror()?, &[BACKPORTS])),
        false => bail!("this system's packages have no QEMU {QEMU_MAJOR}; install it by hand"),
    };

    let list = format!("/etc/apt/sources.list.d/{BACKPORTS}.sources");
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    if source.is_some() {
        install.extend(["-t", BACKPORTS]);
    }
    install.push(arch.qemu_package());
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
    let what = format!("installing {}", arch.qemu_package());
    process::run_with_spinner(&what, apt_get().args(install))?;
    match qemu_version(arch) {
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
fn candidate_is_recent(arch: Arch) -> Result<bool> {
    let policy = process::output(
        Command::new("apt-cache").args(["policy", arch.qemu_package()]).env("LC_ALL", "C"),
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
    fn a_tool_is_a_program_or_a_file() {
        assert!(tool("sh", "dash").is_there() && tool("/dev/null", "").is_there());
        assert!(!tool("no-such-program", "").is_there() && !tool("/dev/no-file", "").is_there());
    }
}
