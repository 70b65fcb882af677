//! Other hypervisors on the same emulated machine, with the same guests.

pub mod kvm;
pub mod vmm;
pub mod xen;

use anyhow::Result;
use clap::ValueEnum;

use super::figures::Figures;
use super::linux::{Payload, Rows};
use crate::workspace::Workspace;

/// A hypervisor to count beside Bunshin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Linux' KVM with the host kernel at EL2
    KvmVhe,
    /// Linux' KVM with the host kernel at EL1
    KvmNvhe,
    /// Xen without a first domain
    Xen,
}

impl Peer {
    /// Its name in tables, the same as that of its published figures.
    pub const fn name(self) -> &'static str {
        match self {
            Peer::KvmVhe => "KVM VHE",
            Peer::KvmNvhe => "KVM nVHE",
            Peer::Xen => "Xen 4.17",
        }
    }

    /// Counts exits.
    ///
    /// # Errors
    /// When a package can't be fetched, the emulator fails, or the guest does not come to its end.
    pub fn figures(self, workspace: &Workspace) -> Result<Figures> {
        match self {
            Peer::KvmVhe => kvm::figures(workspace, VHE),
            Peer::KvmNvhe => kvm::figures(workspace, NVHE),
            Peer::Xen => xen::figures(workspace),
        }
    }

    /// Counts Linux.
    ///
    /// # Errors
    /// As [`Self::figures`].
    pub fn linux(self, workspace: &Workspace, payload: &Payload) -> Result<Rows> {
        match self {
            Peer::KvmVhe => kvm::linux(workspace, VHE, payload),
            Peer::KvmNvhe => kvm::linux(workspace, NVHE, payload),
            Peer::Xen => xen::linux(workspace, payload),
        }
    }
}

/// Models of the host's CPUs with and without VHE, by which KVM chooses. Of those with VHE one whose state is small: that of
/// `max` has much more to be saved.
const VHE: &str = "neoverse-n1";
const NVHE: &str = "cortex-a72";
