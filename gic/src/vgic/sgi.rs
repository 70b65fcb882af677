//! Software generated interrupts: `ICC_SGI*_EL1` of GICv3 and `GICD_SGIR` of GICv2.
//!
//! What the guest writes is decoded and stays inside the VM; it never reaches a physical register.

use super::slots::{PRIVATE, sender};
use super::{Version, Vgic};
use crate::bits::{Ones, bit};
use crate::{Effects, VcpuIndex, VcpuSet};

/// `ICC_SGI1R_EL1` and its like (IHI 0069 12.2.22).
mod sgi1r {
    pub(super) const TARGET_LIST: u64 = 0xffff;
    pub(super) const INTID_SHIFT: u32 = 24;
    pub(super) const INTID_MASK: u64 = 0xf;
    pub(super) const IRM: u64 = 1 << 40;
}

/// `GICD_SGIR` (IHI 0048 4.3.15).
mod sgir {
    pub(super) const INTID_MASK: u32 = 0xf;
    pub(super) const TARGET_SHIFT: u32 = 16;
    pub(super) const TARGET_MASK: u32 = 0xff;
    pub(super) const FILTER_SHIFT: u32 = 24;
    pub(super) const FILTER_MASK: u32 = 0b11;
    pub(super) const FILTER_LIST: u32 = 0b00;
    pub(super) const FILTER_OTHERS: u32 = 0b01;
    pub(super) const FILTER_SELF: u32 = 0b10;
}

impl Vgic {
    /// The guest writes `ICC_SGI1R_EL1`: an SGI of group 1, or of group 0 (there is one security state).
    #[inline(always)]
    pub fn write_sgi1r(&mut self, vcpu: VcpuIndex, value: u64) -> Effects {
        self.send_v3(vcpu, value, u32::MAX)
    }

    /// The guest writes `ICC_SGI0R_EL1`: an SGI of group 0.
    pub fn write_sgi0r(&mut self, vcpu: VcpuIndex, value: u64) -> Effects {
        self.send_v3(vcpu, value, 0)
    }

    /// The guest writes `ICC_ASGI1R_EL1`, which with one security state reaches only SGIs of group 0.
    pub fn write_asgi1r(&mut self, vcpu: VcpuIndex, value: u64) -> Effects {
        self.send_v3(vcpu, value, 0)
    }

    /// Sends an SGI to each vCPU named where it is in group 0, or in group 1 and `group1` has its bit.
    #[inline(always)]
    fn send_v3(&mut self, vcpu: VcpuIndex, value: u64, group1: u32) -> Effects {
        let mut effects = Effects::NONE;
        let sgi = ((value >> sgi1r::INTID_SHIFT) & sgi1r::INTID_MASK) as usize;
        if value & sgi1r::IRM != 0 {
            if self.version != Version::V3 {
                return effects;
            }
            for (position, cpu) in self.cpus.iter_mut().enumerate() {
                let target = VcpuIndex::new(position);
                if target != vcpu && cpu.raise_sgi(sgi, group1, self.rules.groups) {
                    effects.kick.insert(target);
                }
            }
            return effects;
        }
        // A GICv2 has none.
        let cluster = match self.clusters.first() {
            Some(first) if first.is_named_by(value) => first,
            _ => match self.clusters.iter().find(|cluster| cluster.is_named_by(value)) {
                Some(cluster) => cluster,
                None => return effects,
            },
        };
        for member in Ones((value & sgi1r::TARGET_LIST) as u32) {
            let target = cluster.member(member);
            let Some(cpu) = self.cpus.get_mut(target) else { continue };
            if cpu.raise_sgi(sgi, group1, self.rules.groups) {
                effects.kick.insert(VcpuIndex::new(target));
            }
        }
        effects
    }

    /// The guest writes `GICD_SGIR`.
    pub(super) fn write_sgir(&mut self, vcpu: VcpuIndex, value: u32) -> Effects {
        let sgi = (value & sgir::INTID_MASK) as usize;
        let all = VcpuSet::first(self.cpus.len());
        let targets = match (value >> sgir::FILTER_SHIFT) & sgir::FILTER_MASK {
            sgir::FILTER_LIST => {
                VcpuSet::from_bits(((value >> sgir::TARGET_SHIFT) & sgir::TARGET_MASK).into())
            }
            sgir::FILTER_OTHERS => all.without(VcpuSet::only(vcpu)),
            sgir::FILTER_SELF => VcpuSet::only(vcpu),
            _ => VcpuSet::EMPTY,
        };
        let mut effects = Effects::NONE;
        for target in targets.intersection(all) {
            effects.merge(self.send_v2(target, sgi, sender(vcpu.get() as u8)));
        }
        effects
    }

    /// Makes an SGI pending at `target` from each of `senders`.
    pub(super) fn send_v2(&mut self, target: VcpuIndex, sgi: usize, senders: u8) -> Effects {
        let groups = self.rules.groups;
        let Some(cpu) = self.cpus.get_mut(target.get()) else { return Effects::NONE };
        if senders == 0 {
            return Effects::NONE;
        }
        cpu.sources.pending.add(sgi, senders);
        if cpu.raise_sgi(sgi, u32::MAX, groups) {
            Effects { kick: VcpuSet::only(target) }
        } else {
            Effects::NONE
        }
    }

    /// `GICD_CPENDSGIRn`: the SGI is no longer pending at `vcpu` from `senders`.
    pub(super) fn withdraw_v2(&mut self, vcpu: VcpuIndex, sgi: usize, senders: u8) -> Effects {
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return Effects::NONE };
        cpu.sources.pending.remove(sgi, senders);
        if cpu.sources.pending.get(sgi) == 0 {
            cpu.private.latched &= !bit(sgi);
        }
        let listed = cpu.sources.listed.get(sgi) & senders;
        cpu.sources.drop_pending.add(sgi, listed);
        if listed == 0 { Effects::NONE } else { self.settle(vcpu, 0, bit(sgi)) }
    }
}

impl super::Cpu {
    /// Makes an SGI pending; true if the vCPU has to take notice of it.
    #[inline(always)]
    fn raise_sgi(&mut self, sgi: usize, group1: u32, groups: super::Groups) -> bool {
        let (bank, mask) = (&mut self.private, bit(sgi));
        if bank.group1 & !group1 & mask != 0 {
            return false;
        }
        bank.latched |= mask;
        self.take_notice(mask, groups)
    }

    /// Marks a private interrupt for the next fill, if it has become of interest; true if it has.
    #[inline(always)]
    pub(super) fn take_notice(&mut self, mask: u32, groups: super::Groups) -> bool {
        let bank = &mut self.private;
        let listed = bank.resident & mask;
        if listed == 0 && bank.deliverable(groups) & mask == 0 {
            return false;
        }
        bank.touched |= listed;
        self.slots.ready |= PRIVATE;
        true
    }
}
