//! The VM file: what the user writes.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use crate::arch::Arch;
use crate::fit::{self, NAME_LENGTH};
use crate::kernel;
use crate::setup::Guest;

const MIB: u64 = 1 << 20;

/// Memory of a VM is a multiple of the large pages that map it.
pub const MEMORY_GRANULE: u64 = 2 * MIB;

/// Most VMs of one bundle.
pub const MAX_VMS: usize = 64;

/// Most virtual CPUs of one VM.
pub const MAX_VCPUS: u32 = 64;

/// Share of a host CPU unless the VM file says otherwise.
pub const DEFAULT_WEIGHT: u32 = 256;

/// A parsed VM file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmFile {
    /// What the host has; `run` makes such an emulated machine.
    #[serde(default)]
    pub machine: Machine,
    /// The virtual machines.
    #[serde(default, rename = "vm")]
    pub vms: Vec<Spanned<Vm>>,
}

/// The host machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Number of its CPUs.
    pub cpus: Option<u32>,
    /// Bytes of its memory.
    pub memory: Option<Size>,
}

/// One virtual machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Unique name.
    pub name: String,
    /// Number of virtual CPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory: Size,
    /// A file, or the name of a fetched guest.
    pub kernel: String,
    /// Makes the kernel a raw binary that goes to these addresses.
    pub raw: Option<Raw>,
    /// A file, or the name of a fetched guest.
    pub initrd: Option<String>,
    /// Kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// Host CPUs that it may run on; empty means any.
    #[serde(default)]
    pub cpus: Vec<u32>,
    /// Share of a host CPU.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Whether it starts at boot.
    #[serde(default = "yes")]
    pub autostart: bool,
}

/// Placement of a raw binary.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// Guest-physical address of the first byte.
    pub load: u64,
    /// Guest-physical address of the first instruction, if not the first byte's.
    pub entry: Option<u64>,
}

fn one() -> u32 {
    1
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

fn yes() -> bool {
    true
}

/// A number of bytes, written as a number or with a unit: `"512M"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" | "KiB" => 10,
            "M" | "MiB" => 20,
            "G" | "GiB" => 30,
            unit => bail!("size {text:?}: unknown unit {unit:?}; use K, M or G"),
        };
        let number: u64 = digits.parse().with_context(|| format!("size {text:?}"))?;
        match number.checked_mul(1 << shift) {
            Some(bytes) => Ok(Size(bytes)),
            None => bail!("size {text:?} is larger than any memory"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512M\" or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(|error| E::custom(format!("{error:#}")))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let bytes = u64::try_from(bytes);
                bytes.map(Size).map_err(|_| E::custom("a size can't be negative"))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl VmFile {
    /// Reads and checks the VM file at `path`.
    ///
    /// # Errors
    /// When it can't be read, or says something impossible; the message
    /// starts with file and line.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("can't read the VM file {}", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses the text of a VM file that errors call `file`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let at = |span: &Range<usize>| {
            let before = text.get(..span.start).unwrap_or(text);
            format!("{file}:{}", before.matches('\n').count() + 1)
        };
        let parsed: VmFile = toml::from_str(text).map_err(|error| {
            let place = error.span().as_ref().map_or_else(|| file.to_string(), at);
            anyhow::anyhow!("{place}: {}", error.message())
        })?;
        if parsed.vms.is_empty() {
            bail!("{file}: no [[vm]]; describe at least one");
        }
        if parsed.vms.len() > MAX_VMS {
            bail!("{file}: {} VMs; a bundle holds {MAX_VMS}", parsed.vms.len());
        }
        for (index, vm) in parsed.vms.iter().enumerate() {
            let known = &parsed.vms[..index];
            let duplicate = known.iter().any(|k| k.get_ref().name == vm.get_ref().name);
            vm.get_ref()
                .check(&parsed.machine)
                .and_then(|()| match duplicate {
                    true => bail!("another vm has that name"),
                    false => Ok(()),
                })
                .with_context(|| format!("{}: vm {:?}", at(&vm.span()), vm.get_ref().name))?;
        }
        Ok(parsed)
    }

    /// Reads all payloads for `arch`, relative to the folder `base`; fetched guests are in `guests`.
    ///
    /// # Errors
    /// When a file can't be read or is no kernel.
    pub fn resolve(&self, base: &Path, guests: &Path, arch: Arch) -> Result<Vec<fit::Vm>> {
        let vms = self.vms.iter().map(Spanned::get_ref);
        vms.map(|vm| vm.resolve(base, guests, arch).with_context(|| format!("vm {:?}", vm.name)))
            .collect()
    }
}

impl Vm {
    /// Checks what the values say about each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self, machine: &Machine) -> Result<()> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        if self.name.is_empty() || self.name.len() > NAME_LENGTH || !self.name.chars().all(allowed)
        {
            bail!("a name has 1 to {NAME_LENGTH} characters of a-z, 0-9, - and _");
        }
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            bail!("vcpus = {}: a vm has 1 to {MAX_VCPUS}", self.vcpus);
        }
        let Size(memory) = self.memory;
        if memory == 0 || !memory.is_multiple_of(MEMORY_GRANULE) {
            bail!("memory of {memory} bytes is not a multiple of {} MiB", MEMORY_GRANULE / MIB);
        }
        if !(1..=1024).contains(&self.weight) {
            bail!("weight = {}: a weight is 1 to 1024", self.weight);
        }
        if self.cmdline.contains('\0') {
            bail!("cmdline holds a NUL character");
        }
        if let Some(cpus) = machine.cpus
            && let Some(cpu) = self.cpus.iter().find(|cpu| **cpu >= cpus)
        {
            bail!("cpus names CPU {cpu}, but the machine has CPUs 0 to {}", cpus.saturating_sub(1));
        }
        if let Some(Size(host)) = machine.memory
            && memory >= host
        {
            bail!("memory of {} MiB does not fit the machine's {} MiB", memory / MIB, host / MIB);
        }
        Ok(())
    }

    fn resolve(&self, base: &Path, guests: &Path, arch: Arch) -> Result<fit::Vm> {
        let read = |name: &str| {
            let file = locate(name, base, guests, arch)?;
            fs::read(&file).with_context(|| format!("can't read {}", file.display()))
        };
        let kernel = read(&self.kernel)?;
        // U-Boot finds its own place: the one where this machine's memory starts plus 2 MiB.
        let u_boot = (Guest::from_name(&self.kernel) == Some(Guest::UBoot))
            .then_some(Raw { load: 0x4020_0000, entry: None });
        let raw = self.raw.or(u_boot);
        if raw.is_some() && arch == Arch::X86_64 {
            bail!("raw binaries run on aarch64 only; give a bzImage, PVH or Multiboot kernel");
        }
        let kernel = match raw {
            Some(_) => kernel,
            None => {
                kernel::unwrap(kernel, arch).with_context(|| format!("kernel {:?}", self.kernel))?
            }
        };
        let command_line = match kernel::is_linux(&kernel, arch) {
            true => with_console(&self.cmdline, arch),
            false => self.cmdline.clone(),
        };
        let initrd = self.initrd.as_deref().map(read).transpose()?;
        let Size(memory) = self.memory;
        let payload = (kernel.len() + initrd.as_ref().map_or(0, Vec::len)) as u64;
        // Most of an ELF file may be symbols.
        if payload > memory && !kernel.starts_with(b"\x7fELF") {
            bail!(
                "kernel and initrd have {} MiB; memory of {} MiB does not hold them",
                payload.div_ceil(MIB),
                memory / MIB
            );
        }
        Ok(fit::Vm {
            name: self.name.clone(),
            vcpus: self.vcpus,
            memory,
            kernel,
            raw: raw.map(|raw| fit::Raw { load: raw.load, entry: raw.entry.unwrap_or(raw.load) }),
            initrd,
            command_line,
            cpus: self.cpus.clone(),
            weight: self.weight,
            autostart: self.autostart,
        })
    }
}

/// Linux's command line with the serial port of the machine as its console, unless it names one.
/// So one VM file runs on every architecture.
fn with_console(cmdline: &str, arch: Arch) -> String {
    if cmdline.split_whitespace().any(|word| word.starts_with("console=")) {
        return cmdline.to_string();
    }
    format!("console={} {cmdline}", arch.console()).trim_end().to_string()
}

/// The file that `name` means: a fetched guest or a path relative to `base`.
fn locate(name: &str, base: &Path, guests: &Path, arch: Arch) -> Result<PathBuf> {
    match Guest::from_name(name) {
        Some(guest) => {
            let Some(file) = guest.file(arch) else { bail!("there is no {name} for {arch}") };
            let file = guests.join(file);
            if !file.is_file() {
                bail!("{name} has not been fetched; run `cargo xtask setup --arch {arch}`");
            }
            Ok(file)
        }
        None => Ok(base.join(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an arm64 `Image`, as far as it matters.
    const IMAGE: &[u8] = &{
        let mut header = [0; 64];
        header[0x38] = b'A';
        header[0x39] = b'R';
        header[0x3a] = b'M';
        header[0x3b] = b'd';
        header
    };

    /// An ELF file for AArch64, as far as it matters.
    const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0";

    #[test]
    fn linux_gets_the_console_of_its_machine_unless_the_user_named_one() {
        for (cmdline, arm, pc) in [
            ("", "console=ttyAMA0", "console=ttyS0"),
            ("quiet a=b", "console=ttyAMA0 quiet a=b", "console=ttyS0 quiet a=b"),
            ("quiet console=hvc0", "quiet console=hvc0", "quiet console=hvc0"),
            ("no_console=1", "console=ttyAMA0 no_console=1", "console=ttyS0 no_console=1"),
        ] {
            assert_eq!(with_console(cmdline, Arch::Aarch64), arm);
            assert_eq!(with_console(cmdline, Arch::X86_64), pc);
        }
    }

    const WEB: &str = "[machine]\ncpus = 4\nmemory = \"2G\"\n\n[[vm]]\nname = \"web\"\n\
        memory = \"512M\"\nkernel = \"Image\"\n";

    #[test]
    fn a_short_file_gets_the_defaults() {
        let file = VmFile::parse(WEB, "web.toml").unwrap();
        let vm = file.vms[0].get_ref();
        assert_eq!((vm.vcpus, vm.memory, vm.weight), (1, Size(512 << 20), DEFAULT_WEIGHT));
        assert!(vm.autostart && vm.cpus.is_empty() && vm.initrd.is_none());
        assert_eq!(file.machine.memory, Some(Size(2 << 30)));
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let with = |line: &str| format!("{WEB}{line}\n");
        for (text, expected) in [
            (with("colour = 1"), "web.toml:9: unknown field `colour`"),
            (with("vcpus = 0"), "web.toml:5: vm \"web\": vcpus = 0: a vm has 1 to 64"),
            (with("vcpus = 65"), "web.toml:5: vm \"web\": vcpus = 65: a vm has 1 to 64"),
            (with("vcpus = -1"), "web.toml:9: "),
            (with("weight = 0"), "web.toml:5: vm \"web\": weight = 0: a weight is 1 to 1024"),
            (with("cpus = [0, 4]"), "web.toml:5: vm \"web\": cpus names CPU 4"),
            (with("cmdline = \"a\\u0000\""), "web.toml:5: vm \"web\": cmdline holds a NUL"),
            (with("raw = { entry = 1 }"), "web.toml:9: missing field `load`"),
            (with(&WEB[WEB.find("[[vm]]").unwrap()..]), "web.toml:9: vm \"web\": another vm"),
            (WEB.replace("\"web\"", "\"We b\""), "web.toml:5: vm \"We b\": a name has"),
            (WEB.replace("512M", "513K"), "web.toml:5: vm \"web\": memory of 525312 bytes"),
            (WEB.replace("512M", "2G"), "web.toml:5: vm \"web\": memory of 2048 MiB does not"),
            (WEB.replace("512M", "512Q"), "web.toml:7: size \"512Q\": unknown unit"),
            ("[machine]\n".to_string(), "web.toml: no [[vm]]"),
            ("[[vm]]\nname = \"a\"\nmemory = 0\nkernel = \"\"\n".repeat(65), "web.toml: 65 VMs;"),
            ("= 1".to_string(), "web.toml:1: "),
        ] {
            let error = format!("{:#}", VmFile::parse(&text, "web.toml").unwrap_err());
            assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64K", Some(65536)),
            ("512MiB", Some(512 << 20)),
            ("3G", Some(3 << 30)),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("1.5G", None),
            ("99999999999999G", None),
        ] {
            assert_eq!(text.parse::<Size>().ok(), bytes.map(Size), "{text}");
        }
    }

    #[test]
    fn payloads_are_read_relative_to_the_file_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let guests = folder.path().join("guests");
        fs::create_dir_all(guests.join("u-boot")).unwrap();
        fs::write(guests.join("u-boot/u-boot.bin"), "uboot").unwrap();
        fs::write(folder.path().join("Image"), ELF).unwrap();
        let mut file = VmFile::parse(WEB, "web.toml").unwrap();
        let resolve = |file: &VmFile| file.resolve(folder.path(), &guests, Arch::Aarch64);

        let vm = &resolve(&file).unwrap()[0];
        assert_eq!((&vm.kernel[..], vm.raw), (ELF, None));

        file.vms[0].get_mut().kernel = "u-boot".to_string();
        let vm = &resolve(&file).unwrap()[0];
        let raw = fit::Raw { load: 0x4020_0000, entry: 0x4020_0000 };
        assert_eq!((&vm.kernel[..], vm.raw), (&b"uboot"[..], Some(raw)));

        fs::write(folder.path().join("large"), [IMAGE, &vec![0; 3 << 20]].concat()).unwrap();
        file.vms[0].get_mut().memory = Size(MEMORY_GRANULE);
        for (name, reason) in [
            ("debian:6.1", "cargo xtask setup"),
            ("absent", "can't read"),
            ("large", "kernel and initrd have 4 MiB; memory of 2 MiB does not hold them"),
        ] {
            file.vms[0].get_mut().kernel = name.to_string();
            let error = format!("{:#}", resolve(&file).unwrap_err());
            assert!(error.starts_with("vm \"web\": ") && error.contains(reason), "{error}");
        }
    }
}
