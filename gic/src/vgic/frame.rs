//! The memory-mapped frames of the guest's controller, and accesses to them.

use super::{Version, Vgic};
use crate::{Effects, VcpuIndex, VcpuSet};

/// A frame of registers. (GICv2's CPU interface is the physical `GICV`, mapped into the guest.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// `GICD`: [`Self::DISTRIBUTOR_V2_SIZE`] or [`Self::DISTRIBUTOR_V3_SIZE`] bytes.
    Distributor,
    /// `GICR` of one vCPU, GICv3 only: [`Self::REDISTRIBUTOR_SIZE`] bytes, `RD_base` then `SGI_base`.
    Redistributor(VcpuIndex),
}

impl Frame {
    /// The size of a GICv2 distributor in bytes.
    pub const DISTRIBUTOR_V2_SIZE: u64 = 0x1000;
    /// The size of a GICv3 distributor in bytes.
    pub const DISTRIBUTOR_V3_SIZE: u64 = 0x1_0000;
    /// The size of one redistributor in bytes.
    pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

    pub(super) const fn tag(self) -> u32 {
        match self {
            Self::Distributor => 0,
            Self::Redistributor(vcpu) => (vcpu.get() as u32).wrapping_add(1).wrapping_shl(20),
        }
    }
}

/// The size of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes. No register of the GIC allows it.
    Half,
    /// Four bytes.
    Word,
    /// Eight bytes.
    Double,
}

impl Width {
    /// From a number of bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Half),
            4 => Some(Self::Word),
            8 => Some(Self::Double),
            _ => None,
        }
    }
}

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The value, zero-extended.
    Value(u64),
    /// The answer lies in the list registers of these vCPUs. If the reading vCPU is among them, fold it and read again
    /// at once. If others are, kick them and let the guest execute its instruction again, with the PC unchanged:
    /// each folds in its next `fill`, and the repeated read takes that for an answer.
    Retry(VcpuSet),
}

impl Vgic {
    /// A guest's read of `width` at `offset` bytes into a frame. What the architecture doesn't allow reads as zero.
    #[inline]
    pub fn read(&mut self, frame: Frame, vcpu: VcpuIndex, offset: u64, width: Width) -> Read {
        let Ok(offset) = u32::try_from(offset) else { return Read::Value(0) };
        match (self.version, frame) {
            (Version::V2, Frame::Distributor) => self.read_distributor_v2(vcpu, offset, width),
            (Version::V3, Frame::Distributor) => self.read_distributor_v3(vcpu, offset, width),
            (Version::V3, Frame::Redistributor(of)) => {
                self.read_redistributor(vcpu, of, offset, width)
            }
            (Version::V2, Frame::Redistributor(_)) => Read::Value(0),
        }
    }

    /// A guest's write of `width` at `offset` bytes into a frame. What the architecture doesn't allow is ignored.
    pub fn write(
        &mut self,
        frame: Frame,
        vcpu: VcpuIndex,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Effects {
        let Ok(offset) = u32::try_from(offset) else { return Effects::NONE };
        match (self.version, frame) {
            (Version::V2, Frame::Distributor) => {
                self.write_distributor_v2(vcpu, offset, width, value)
            }
            (Version::V3, Frame::Distributor) => {
                self.write_distributor_v3(vcpu, offset, width, value)
            }
            (Version::V3, Frame::Redistributor(of)) => {
                self.write_redistributor(vcpu, of, offset, width, value)
            }
            (Version::V2, Frame::Redistributor(_)) => Effects::NONE,
        }
    }
}
