//! The VM file: what the user writes.

mod devices;
#[cfg(test)]
mod tests;

pub use devices::{Device, Disk, MAX_DEVICES, Mac, Net, Uplink};

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use crate::arch::Arch;
use crate::build;
use crate::fit::{self, NAME_LENGTH};
use crate::kernel;
use crate::qemu::Devices;
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
    /// The host's network devices on the VMs' network.
    #[serde(default, rename = "uplink")]
    pub uplinks: Vec<Spanned<Uplink>>,
}

/// The host machine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Number of its CPUs.
    pub cpus: Option<u32>,
    /// Bytes of its memory.
    pub memory: Option<Size>,
    /// Files of its disks, in the order of their numbers.
    #[serde(default)]
    pub disks: Vec<String>,
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
    /// Whether each virtual CPU has a host CPU of its own.
    #[serde(default)]
    pub pinned: bool,
    /// Time that every virtual CPU gets without fail.
    pub reservation: Option<Reservation>,
    /// Whether it may manage the other VMs.
    #[serde(default)]
    pub control: bool,
    /// Whether it has a balloon, so that memory it does not need goes back to the host.
    #[serde(default)]
    pub balloon: bool,
    /// Whether its memory has the addresses of the host's.
    #[serde(default)]
    pub direct_memory: bool,
    /// Its disks.
    #[serde(default, rename = "disk")]
    pub disks: Vec<Disk>,
    /// Its network ports.
    #[serde(default, rename = "net")]
    pub nets: Vec<Net>,
    /// Devices of the host that it gets for itself.
    #[serde(default, rename = "device")]
    pub devices: Vec<Device>,
}

/// A share of a host CPU that is always there.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Microseconds in each period.
    pub budget: u32,
    /// Microseconds from one period to the next.
    pub period: u32,
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
                    false => devices::check_claims(&parsed.vms, index),
                })
                .with_context(|| format!("{}: vm {:?}", at(&vm.span()), vm.get_ref().name))?;
        }
        if let Err((span, error)) = devices::check_uplinks(&parsed.uplinks) {
            return Err(error.context(at(&span)));
        }
        Ok(parsed)
    }

    /// Reads all payloads for `arch`.
    ///
    /// # Errors
    /// When a file can't be read or is no kernel.
    pub fn resolve(&self, folders: &Folders, arch: Arch) -> Result<Vec<fit::Vm>> {
        let resolve = |(index, vm): (usize, &Spanned<Vm>)| {
            let vm = vm.get_ref();
            vm.resolve(index, folders, arch).with_context(|| format!("vm {:?}", vm.name))
        };
        self.vms.iter().enumerate().map(resolve).collect()
    }

    /// The host's network devices on the VMs' network.
    pub fn resolve_uplinks(&self) -> Vec<fit::Uplink> {
        let uplinks = self.uplinks.iter().map(Spanned::get_ref);
        uplinks.map(|uplink| fit::Uplink { nic: uplink.nic, vlan: uplink.vlan }).collect()
    }

    /// The virtio devices of an emulated host for these VMs; paths start at `base`.
    pub fn host_devices(&self, base: &Path) -> Devices {
        let disks = self.machine.disks.iter().map(|file| base.join(file)).collect();
        let nics = self.uplinks.iter().map(|uplink| uplink.get_ref().nic.saturating_add(1)).max();
        Devices { disks, nics: nics.unwrap_or(0) }
    }

    /// The VM called `name`.
    pub fn vm_mut(&mut self, name: &str) -> Option<&mut Vm> {
        self.vms.iter_mut().map(Spanned::get_mut).find(|vm| vm.name == name)
    }

    /// Names of the project's small guests that it runs.
    pub fn small_guests(&self) -> impl Iterator<Item = &str> {
        self.vms.iter().filter_map(|vm| vm.get_ref().kernel.strip_prefix(SMALL_GUEST))
    }
}

/// Where payloads are.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Paths in the VM file start here.
    pub base: PathBuf,
    /// Fetched guests.
    pub guests: PathBuf,
    /// The project's own small guests, built.
    pub small: PathBuf,
}

/// Begins the name of a kernel that is one of the project's own small guests.
const SMALL_GUEST: &str = "guest:";

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
        if let Some(Reservation { budget, period }) = self.reservation
            && !(1..=period).contains(&budget)
        {
            bail!("reservation: budget = {budget} us is not 1 to period = {period} us");
        }
        self.check_devices(machine)?;
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

    fn resolve(&self, index: usize, folders: &Folders, arch: Arch) -> Result<fit::Vm> {
        self.check_slots(arch)?;
        let read = |name: &str| {
            let file = locate(name, folders, arch)?;
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
            pinned: self.pinned,
            reservation: self.reservation.map(|r| (r.budget, r.period)),
            control: self.control,
            balloon: self.balloon,
            direct_memory: self.direct_memory,
            disks: self.resolve_disks(&folders.base)?,
            nets: self.resolve_nets(index),
            devices: self.devices.iter().map(|device| device.path.clone()).collect(),
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

/// The file that `name` means: a fetched guest, a small one, or a path relative to the VM file.
fn locate(name: &str, folders: &Folders, arch: Arch) -> Result<PathBuf> {
    if let Some(guest) = Guest::from_name(name) {
        let Some(file) = guest.file(arch) else { bail!("there is no {name} for {arch}") };
        let file = folders.guests.join(file);
        if !file.is_file() {
            bail!("{name} has not been fetched; run `cargo xtask setup --arch {arch}`");
        }
        return Ok(file);
    }
    if let Some(small) = name.strip_prefix(SMALL_GUEST) {
        let file = build::guest_in(&folders.small, arch, small);
        if !file.is_file() {
            bail!("{name} has not been built; run `cargo xtask build --arch {arch}`");
        }
        return Ok(file);
    }
    Ok(folders.base.join(name))
}
