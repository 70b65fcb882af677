//! What a virtual controller is made of.

use super::bank::Reset;
use crate::{Affinity, VcpuIndex};

/// The architecture version that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2: memory-mapped CPU interface (the physical `GICV`), up to 8 vCPUs.
    V2,
    /// GICv3: system registers and redistributors.
    V3,
}

impl Version {
    /// The private interrupts of a vCPU after reset. A GICv3 guest expects that firmware has given all interrupts to
    /// group 1; a GICv2 guest that knows nothing of groups enables group 0, and finds SGIs enabled (IHI 0048 4.3.5).
    pub(super) const fn reset_private(self) -> Reset {
        const SGIS: u32 = 0xffff;
        match self {
            Self::V2 => Reset { enabled: SGIS, group1: 0, edge: SGIS },
            Self::V3 => Reset { enabled: 0, group1: u32::MAX, edge: SGIS },
        }
    }

    /// Shared interrupts after reset.
    pub(super) const fn reset_shared(self) -> Reset {
        Reset { enabled: 0, edge: 0, ..self.reset_private() }
    }
}

/// What a virtual controller is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// The version that the guest sees.
    pub version: Version,
    /// The vCPUs' affinities in the order of [`VcpuIndex`]: 1 to 8 for GICv2, 1 to 64 for GICv3, all different.
    pub vcpus: &'a [Affinity],
    /// The number of SPIs, a multiple of 32 up to 960.
    pub spis: usize,
    /// Priority bits of the list registers, 4 to 8 (`ICH_VTR_EL2.PRIbits` + 1; 5 for GICv2).
    pub priority_bits: u8,
    /// The guest's deactivation deactivates the linked physical interrupt. False on controllers without that (AIC):
    /// then a maintenance interrupt tells the end, and [`ListRegisters::deactivate`](crate::ListRegisters::deactivate)
    /// is called for it.
    pub hardware_deactivation: bool,
}

/// A configuration that the architecture doesn't allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too many or no vCPUs.
    #[error("{given} vCPUs: this interrupt controller serves 1 to {limit}")]
    Vcpus {
        /// How many were asked for.
        given: usize,
        /// How many are possible.
        limit: usize,
    },
    /// Two vCPUs with one affinity.
    #[error("vCPUs {first} and {second} have the same affinity; give each its own")]
    SameAffinity {
        /// Position of one.
        first: usize,
        /// Position of the other.
        second: usize,
    },
    /// The number of SPIs is no multiple of 32, or too large.
    #[error("{0} SPIs: give a multiple of 32 up to 960")]
    Spis(usize),
    /// Priority bits out of range.
    #[error("{0} priority bits: list registers have 4 to 8")]
    PriorityBits(u8),
}

impl Config<'_> {
    /// The most SPIs that there are.
    pub const MAX_SPIS: usize = 960;

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let limit = match self.version {
            Version::V2 => 8,
            Version::V3 => VcpuIndex::LIMIT,
        };
        let given = self.vcpus.len();
        if given == 0 || given > limit {
            return Err(ConfigError::Vcpus { given, limit });
        }
        for (second, affinity) in self.vcpus.iter().enumerate() {
            if let Some(first) = self.vcpus.iter().take(second).position(|other| other == affinity)
            {
                return Err(ConfigError::SameAffinity { first, second });
            }
        }
        if !self.spis.is_multiple_of(32) || self.spis > Self::MAX_SPIS {
            return Err(ConfigError::Spis(self.spis));
        }
        if !(4..=8).contains(&self.priority_bits) {
            return Err(ConfigError::PriorityBits(self.priority_bits));
        }
        Ok(())
    }

    pub(super) const fn priority_mask(&self) -> u8 {
        u8::MAX.wrapping_shl(8u32.saturating_sub(self.priority_bits as u32))
    }
}
