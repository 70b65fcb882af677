//! CPUs and how they are started.

use super::Refusal;
use crate::PhysicalAddress;
use crate::tree::{Node, PropertyError, Tree};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// More than any machine has.
const MAX_CPUS: usize = 1024;

/// The affinity fields of `MPIDR_EL1`: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mpidr(u64);

impl Mpidr {
    /// The bits of `MPIDR_EL1` that name a CPU (Arm ARM D24.2).
    pub const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

    /// Takes the affinity fields of a register value.
    #[must_use]
    pub const fn from_register(value: u64) -> Self {
        Self(value & Self::AFFINITY_MASK)
    }

    /// The affinity fields in their places.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Mpidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpidr({:#x})", self.0)
    }
}

impl fmt::Display for Mpidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// How a CPU is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// By PSCI `CPU_ON`.
    Psci,
    /// By writing the entry point to a double word and `SEV`.
    SpinTable {
        /// Where the double word is.
        release: PhysicalAddress,
    },
    /// The tree says nothing or something unknown; only the boot CPU can do with that.
    Unknown(String),
}

/// A CPU that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its name in hardware.
    pub mpidr: Mpidr,
    /// How to start it.
    pub enable_method: EnableMethod,
    /// Most specific name of its kind, such as `arm,cortex-a72`; empty if absent.
    pub compatible: String,
}

/// The enabled CPUs of `/cpus`. CPUs are told from other children by `device_type`, or by name in trees without.
pub(super) fn cpus(tree: &Tree) -> Result<Vec<Cpu>, Refusal> {
    let is_cpu = |node: &Node<'_>| match node.str("device_type") {
        Some(kind) => kind == "cpu",
        None => node.base_name() == "cpu",
    };
    let mut cpus = Vec::new();
    let node = tree.node("/cpus").ok_or(Refusal::NoCpu)?;
    for node in node.children().filter(|node| is_cpu(node) && node.is_enabled()) {
        if cpus.len() >= MAX_CPUS {
            return Err(Refusal::TooManyCpus { limit: MAX_CPUS });
        }
        cpus.push(cpu(&node)?);
    }
    if cpus.is_empty() { Err(Refusal::NoCpu) } else { Ok(cpus) }
}

fn cpu(node: &Node<'_>) -> Result<Cpu, PropertyError> {
    let (number, _) = node.reg()?.next().ok_or_else(|| node.fault("reg", "it is missing"))?;
    if number & !Mpidr::AFFINITY_MASK != 0 {
        return Err(node.fault("reg", "it has bits outside of the affinity fields of MPIDR_EL1"));
    }
    let enable_method = match node.str("enable-method") {
        Some("psci") => EnableMethod::Psci,
        // Without an address the bootloader has left the CPU where nobody can reach it, or it is the boot CPU.
        Some("spin-table") if let Some(release) = node.property("cpu-release-addr") => {
            EnableMethod::SpinTable { release: PhysicalAddress::new(release.u64()?) }
        }
        other => EnableMethod::Unknown(other.unwrap_or_default().to_owned()),
    };
    Ok(Cpu {
        mpidr: Mpidr::from_register(number),
        enable_method,
        compatible: node.compatible().next().unwrap_or_default().to_owned(),
    })
}

/// The instruction that calls firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conduit {
    /// `SMC`.
    Smc,
    /// `HVC`.
    Hvc,
}

/// What a PSCI node promises. From 0.2 on, `PSCI_VERSION` tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PsciVersion {
    /// `arm,psci`: function numbers come from the tree.
    V0_1,
    /// `arm,psci-0.2`.
    V0_2,
    /// `arm,psci-1.0`.
    V1_0,
}

/// The power state coordination interface of the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// How to call it.
    pub conduit: Conduit,
    /// Newest version that the node is compatible with.
    pub version: PsciVersion,
    /// Function number of `CPU_ON` where the tree gives it, as it must for version 0.1.
    pub cpu_on: Option<u32>,
}

/// The PSCI node, wherever it is. One whose `method` is neither `smc` nor `hvc` is as good as absent.
pub(super) fn psci(tree: &Tree) -> Option<Psci> {
    const VERSIONS: [(&str, PsciVersion); 3] = [
        ("arm,psci-1.0", PsciVersion::V1_0),
        ("arm,psci-0.2", PsciVersion::V0_2),
        ("arm,psci", PsciVersion::V0_1),
    ];
    tree.nodes().filter(Node::is_reachable).find_map(|node| {
        let &(_, version) = VERSIONS.iter().find(|(name, _)| node.is_compatible(name))?;
        let conduit = match node.str("method")? {
            "smc" => Conduit::Smc,
            "hvc" => Conduit::Hvc,
            _ => return None,
        };
        Some(Psci { conduit, version, cpu_on: node.u32("cpu_on") })
    })
}
