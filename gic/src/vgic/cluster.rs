//! Which vCPUs share all affinity levels but the last: the reach of one SGI.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{Affinity, VcpuIndex};

/// Up to 16 vCPUs that one value of `ICC_SGI1R_EL1` can name.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    /// `Aff3`, `RS`, `Aff2` and `Aff1` where `ICC_SGI1R_EL1` has them.
    key: u64,
    /// [`NOBODY`] where there is none.
    members: [u8; 16],
}

/// The position of no vCPU.
const NOBODY: u8 = u8::MAX;

/// `Aff3`, `RS`, `Aff2` and `Aff1` of `ICC_SGI1R_EL1` (IHI 0069 12.2.22).
const KEY: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;

impl Cluster {
    /// The clusters of a VM.
    pub(super) fn table(vcpus: &[Affinity]) -> Box<[Self]> {
        let mut table: Vec<Self> = Vec::new();
        for (position, affinity) in vcpus.iter().enumerate() {
            let range = u64::from(affinity.aff0() >> 4);
            let key = u64::from(affinity.aff3()) << 48
                | range << 44
                | u64::from(affinity.aff2()) << 32
                | u64::from(affinity.aff1()) << 16;
            let member = usize::from(affinity.aff0() & 0xf);
            let index = table.iter().position(|cluster| cluster.key == key).unwrap_or_else(|| {
                table.push(Self { key, members: [NOBODY; 16] });
                table.len().saturating_sub(1)
            });
            if let Some(slot) =
                table.get_mut(index).and_then(|cluster| cluster.members.get_mut(member))
            {
                *slot = VcpuIndex::new(position).get() as u8;
            }
        }
        table.into_boxed_slice()
    }

    /// Whether a value of `ICC_SGI1R_EL1` names this cluster.
    #[inline(always)]
    pub(super) const fn is_named_by(&self, sgir: u64) -> bool {
        sgir & KEY == self.key
    }

    /// The position of member `n`; that of no vCPU if there is none.
    #[inline(always)]
    pub(super) fn member(&self, n: usize) -> usize {
        self.members.get(n).copied().unwrap_or(NOBODY).into()
    }
}
