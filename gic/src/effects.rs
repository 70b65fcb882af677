//! What the caller must do after the controller's state has changed.

use crate::{VcpuIndex, VcpuSet};

/// What follows from an operation on the virtual controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[must_use = "a vCPU that is not kicked may sleep through its interrupt"]
pub struct Effects {
    /// vCPUs that must call [`Vgic::fill`](crate::Vgic::fill) before they execute guest code again: wake those that
    /// are blocked, make those that run exit. The vCPU on whose behalf the operation was done may be among them; it is
    /// at an exit already and only has to fill.
    pub kick: VcpuSet,
}

impl Effects {
    /// Nothing to do.
    pub const NONE: Self = Self { kick: VcpuSet::EMPTY };

    /// The vCPUs to kick, other than the one that is at an exit already.
    #[inline(always)]
    #[must_use]
    pub fn others(self, current: VcpuIndex) -> VcpuSet {
        self.kick.without(VcpuSet::only(current))
    }

    /// Adds what follows from another operation.
    #[inline(always)]
    pub fn merge(&mut self, other: Self) {
        self.kick = self.kick.union(other.kick);
    }
}
