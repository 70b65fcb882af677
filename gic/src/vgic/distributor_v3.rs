//! The GICv3 distributor with affinity routing and one security state (IHI 0069 12.8).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "an offset is only reduced by the start of the range that it was found in"
)]

use super::frame::{Frame, Read, Width};
use super::words::{Common, is_word};
use super::{Vgic, identification};
use crate::{Affinity, Effects, IntId, VcpuIndex};

const CTLR: u32 = 0x0000;
const TYPER: u32 = 0x0004;
const IIDR: u32 = 0x0008;
/// `GICD_IROUTER32`.
const IROUTER: u32 = 0x6100;
const IROUTER_END: u32 = 0x7fe0;
const IROUTER_BASE: u32 = 0x6000;
const PIDR4: u32 = 0xffd0;
const END: u32 = 0x1_0000;

/// `GICD_CTLR` where one security state exists.
mod ctlr {
    pub(super) const ENABLE_GROUP0: u64 = 1 << 0;
    pub(super) const ENABLE_GROUP1: u64 = 1 << 1;
    pub(super) const ARE: u64 = 1 << 4;
    pub(super) const DS: u64 = 1 << 6;
    pub(super) const RWP: u64 = 1 << 31;
}

/// `GICD_TYPER`.
mod typer {
    /// Ten bits of INTID: SPIs and special numbers.
    pub(super) const ID_BITS_10: u64 = 9 << 19;
    pub(super) const A3V: u64 = 1 << 24;
    /// `GICD_IROUTERn.Interrupt_Routing_Mode` isn't supported.
    pub(super) const NO_1_OF_N: u64 = 1 << 25;
}

impl Vgic {
    #[inline]
    pub(super) fn read_distributor_v3(
        &mut self,
        vcpu: VcpuIndex,
        offset: u32,
        width: Width,
    ) -> Read {
        if offset < Common::FIRST {
            return Read::Value(self.read_control_v3(offset, width));
        }
        self.read_array_v3(vcpu, offset, width)
    }

    /// Reads a register of the distributor as a whole.
    #[inline]
    fn read_control_v3(&self, offset: u32, width: Width) -> u64 {
        if !is_word(offset, width) {
            return 0;
        }
        match offset {
            IIDR => identification::IIDR,
            TYPER => self.it_lines_number() | typer::ID_BITS_10 | typer::A3V | typer::NO_1_OF_N,
            CTLR => {
                let pending = if self.unsettled.is_empty() { 0 } else { ctlr::RWP };
                self.control_groups() | ctlr::ARE | ctlr::DS | pending
            }
            _ => 0,
        }
    }

    /// Reads a register of an array, or the identification.
    #[inline(never)]
    fn read_array_v3(&mut self, vcpu: VcpuIndex, offset: u32, width: Width) -> Read {
        if let Some(register) = Common::decode(offset, width) {
            if register.is_private() {
                return Read::Value(0);
            }
            return self.read_common(
                vcpu,
                vcpu,
                register,
                width,
                Frame::Distributor.tag() | offset,
            );
        }
        let value = match offset {
            IROUTER..IROUTER_END => self.read_router(offset, width),
            _ if !is_word(offset, width) => 0,
            PIDR4..END => identification::coresight(3, offset - PIDR4),
            _ => 0,
        };
        Read::Value(value)
    }

    pub(super) fn write_distributor_v3(
        &mut self,
        vcpu: VcpuIndex,
        offset: u32,
        width: Width,
        value: u64,
    ) -> Effects {
        if let Some(register) = Common::decode(offset, width) {
            if register.is_private() {
                return Effects::NONE;
            }
            return self.write_common(vcpu, vcpu, register, width, value);
        }
        match offset {
            CTLR if is_word(offset, width) => self
                .write_groups(value & ctlr::ENABLE_GROUP0 != 0, value & ctlr::ENABLE_GROUP1 != 0),
            IROUTER..IROUTER_END => self.write_router(offset, width, value),
            _ => Effects::NONE,
        }
    }

    /// `GICD_IROUTERn`, whole or by halves.
    fn read_router(&self, offset: u32, width: Width) -> u64 {
        let Some(Half { intid, shift, .. }) = Half::decode(offset, width) else { return 0 };
        if intid.get() as usize >= self.end() {
            return 0;
        }
        let value = unpack(self.route(intid)) >> shift;
        if width == Width::Word { value & u64::from(u32::MAX) } else { value }
    }

    fn write_router(&mut self, offset: u32, width: Width, value: u64) -> Effects {
        let Some(Half { intid, shift, mask }) = Half::decode(offset, width) else {
            return Effects::NONE;
        };
        if intid.get() as usize >= self.end() {
            return Effects::NONE;
        }
        let before = self.route(intid);
        let router = unpack(before) & !mask | (value << shift) & mask;
        let route = Affinity::from_mpidr(router).packed();
        if route == before { Effects::NONE } else { self.set_route(intid, route) }
    }
}

/// The part of a `GICD_IROUTERn` that an access reaches.
struct Half {
    intid: IntId,
    shift: u32,
    mask: u64,
}

impl Half {
    fn decode(offset: u32, width: Width) -> Option<Self> {
        let intid = IntId::new((offset - IROUTER_BASE) / 8);
        let low = u64::from(u32::MAX);
        match (width, offset & 7) {
            (Width::Double, 0) => Some(Self { intid, shift: 0, mask: u64::MAX }),
            (Width::Word, 0) => Some(Self { intid, shift: 0, mask: low }),
            (Width::Word, 4) => Some(Self { intid, shift: 32, mask: !low }),
            _ => None,
        }
    }
}

fn unpack(route: u32) -> u64 {
    let [aff3, aff2, aff1, aff0] = route.to_be_bytes();
    Affinity::new(aff3, aff2, aff1, aff0).mpidr()
}
