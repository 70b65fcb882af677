//! The GICv2 distributor (IHI 0048 4.3).
#![allow(
    clippy::arithmetic_side_effects,
    reason = "an offset is only reduced by the start of the range that it was found in"
)]

use super::bank::Groups;
use super::frame::{Frame, Read, Width};
use super::slots::sender;
use super::words::{Common, byte, is_word, lanes, pack};
use super::{Vgic, identification};
use crate::bits::Ones;
use crate::{Effects, IntId, VcpuIndex};

const CTLR: u32 = 0x000;
const TYPER: u32 = 0x004;
const IIDR: u32 = 0x008;
const ITARGETSR: u32 = 0x800;
const ITARGETSR_END: u32 = 0xc00;
const SGIR: u32 = 0xf00;
const CPENDSGIR: u32 = 0xf10;
const SPENDSGIR: u32 = 0xf20;
const SPENDSGIR_END: u32 = 0xf30;
const PIDR4: u32 = 0xfd0;
const END: u32 = 0x1000;

const CTLR_ENABLE_GROUP0: u64 = 1 << 0;
const CTLR_ENABLE_GROUP1: u64 = 1 << 1;
const TYPER_CPU_NUMBER_SHIFT: u32 = 5;

impl Vgic {
    pub(super) fn read_distributor_v2(
        &mut self,
        vcpu: VcpuIndex,
        offset: u32,
        width: Width,
    ) -> Read {
        if let Some(register) = Common::decode(offset, width) {
            return self.read_common(
                vcpu,
                vcpu,
                register,
                width,
                Frame::Distributor.tag() | offset,
            );
        }
        let value = match offset {
            ITARGETSR..ITARGETSR_END => {
                self.read_targets(vcpu, IntId::new(offset - ITARGETSR), lanes(offset, width))
            }
            CPENDSGIR..SPENDSGIR => {
                return self.read_senders(vcpu, offset, offset - CPENDSGIR, width);
            }
            SPENDSGIR..SPENDSGIR_END => {
                return self.read_senders(vcpu, offset, offset - SPENDSGIR, width);
            }
            _ if !is_word(offset, width) => 0,
            CTLR => self.control_groups(),
            TYPER => {
                self.it_lines_number()
                    | (self.cpus.len() as u64).saturating_sub(1) << TYPER_CPU_NUMBER_SHIFT
            }
            IIDR => identification::IIDR,
            PIDR4..END => identification::coresight(2, offset - PIDR4),
            _ => 0,
        };
        Read::Value(value)
    }

    pub(super) fn write_distributor_v2(
        &mut self,
        vcpu: VcpuIndex,
        offset: u32,
        width: Width,
        value: u64,
    ) -> Effects {
        if let Some(register) = Common::decode(offset, width) {
            return self.write_common(vcpu, vcpu, register, width, value);
        }
        match offset {
            SGIR if is_word(offset, width) => self.write_sgir(vcpu, value as u32),
            CTLR if is_word(offset, width) => {
                self.write_groups(value & CTLR_ENABLE_GROUP0 != 0, value & CTLR_ENABLE_GROUP1 != 0)
            }
            ITARGETSR..ITARGETSR_END => {
                self.write_targets(IntId::new(offset - ITARGETSR), lanes(offset, width), value)
            }
            CPENDSGIR..SPENDSGIR => {
                self.write_senders(offset - CPENDSGIR, width, value, |vgic, sgi, senders| {
                    vgic.withdraw_v2(vcpu, sgi, senders)
                })
            }
            SPENDSGIR..SPENDSGIR_END => {
                self.write_senders(offset - SPENDSGIR, width, value, |vgic, sgi, senders| {
                    vgic.send_v2(vcpu, sgi, senders)
                })
            }
            _ => Effects::NONE,
        }
    }

    /// `GICD_CTLR.EnableGrp0` and `EnableGrp1`.
    pub(super) fn control_groups(&self) -> u64 {
        let groups = self.rules.groups;
        (if groups.group0() { CTLR_ENABLE_GROUP0 } else { 0 })
            | (if groups.group1() { CTLR_ENABLE_GROUP1 } else { 0 })
    }

    pub(super) fn write_groups(&mut self, group0: bool, group1: bool) -> Effects {
        let before = self.rules.groups;
        if (before.group0(), before.group1()) == (group0, group1) {
            return Effects::NONE;
        }
        self.rules.groups = Groups::new(group0, group1);
        let effects = self.settle_all();
        if (before.group0() && !group0) || (before.group1() && !group1) {
            self.unsettled = self.unsettled.union(effects.kick.intersection(self.loaded));
        }
        effects
    }

    /// `GICD_ITARGETSRn`: a private interrupt targets the vCPU that asks.
    fn read_targets(&self, vcpu: VcpuIndex, first: IntId, count: usize) -> u64 {
        if self.cpus.len() == 1 {
            0
        } else if first.is_private() {
            pack((0..count).map(|_| sender(vcpu.get() as u8)))
        } else {
            self.routes(first, count)
        }
    }

    fn write_targets(&mut self, first: IntId, count: usize, value: u64) -> Effects {
        let mut effects = Effects::NONE;
        let existing = crate::VcpuSet::first(self.cpus.len()).bits() as u8;
        if first.is_private() || self.cpus.len() == 1 {
            return effects;
        }
        for n in 0..count {
            let intid = IntId::from_parts(first.bank(), first.lane().wrapping_add(n));
            let route = (byte(value, n) & existing).into();
            if self.route(intid) != route {
                effects.merge(self.set_route(intid, route));
            }
        }
        effects
    }

    /// `GICD_CPENDSGIRn` and `GICD_SPENDSGIRn`: the senders of pending SGIs, a byte for each SGI.
    fn read_senders(&mut self, vcpu: VcpuIndex, offset: u32, first: u32, width: Width) -> Read {
        let count = lanes(offset, width);
        let mask =
            (0..count).fold(0, |mask, n| mask | crate::bits::bit((first as usize).wrapping_add(n)));
        let retry = self.consult(vcpu, vcpu, 0, mask, Frame::Distributor.tag() | offset);
        if !retry.is_empty() {
            return Read::Retry(retry);
        }
        let Some(cpu) = self.cpus.get(vcpu.get()) else { return Read::Value(0) };
        Read::Value(pack(
            (0..count).map(|n| cpu.sources.pending.get((first as usize).wrapping_add(n))),
        ))
    }

    fn write_senders(
        &mut self,
        first: u32,
        width: Width,
        value: u64,
        mut apply: impl FnMut(&mut Self, usize, u8) -> Effects,
    ) -> Effects {
        let mut effects = Effects::NONE;
        let existing = crate::VcpuSet::first(self.cpus.len()).bits() as u8;
        let count = lanes(first, width);
        for n in Ones(crate::bits::low(count)) {
            effects.merge(apply(self, (first as usize).wrapping_add(n), byte(value, n) & existing));
        }
        effects
    }
}
