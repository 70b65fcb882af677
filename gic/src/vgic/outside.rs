//! Interrupts that are active and in no list register, because more urgent ones needed those.
//!
//! The guest ends interrupts in the reverse order of their acknowledgement, and each that it acknowledges is more urgent
//! than those that it handles already. So the hardware's count of ends that found no list register
//! (`ICH_HCR_EL2.EOIcount`, `GICH_HCR.EOICount`) says which they were: the most urgent of those outside.

use super::Vgic;
use super::select::Candidate;
use crate::bits::{Ones, bit};
use crate::{Effects, ListRegisters, VcpuIndex, VcpuSet};

impl Vgic {
    /// Makes inactive what the guest has ended outside of its list registers since this was last called. To be called
    /// before anything is taken back from list registers.
    pub(super) fn end_outside(
        &mut self,
        vcpu: VcpuIndex,
        lrs: &mut impl ListRegisters,
        effects: &mut Effects,
    ) {
        if !self.cpus.get(vcpu.get()).is_some_and(|cpu| cpu.slots.evicted) {
            return;
        }
        for _ in 0..lrs.ended_outside() {
            let Some(ended) = self.innermost_outside(vcpu) else { return };
            let (number, lane) = (usize::from(ended.bank), usize::from(ended.lane));
            let Some(mut view) = self.view(vcpu, number) else { return };
            view.end_outside(lane, ended.source, lrs);
            let mask = bit(lane);
            if view.wanted() & mask != 0 {
                view.slots.ready |= bit(number);
            } else if view.bank.deliverable(view.rules.groups) & mask != 0 {
                effects.merge(self.settle(vcpu, number, mask));
            }
        }
    }

    /// The one with the most urgent priority, as of its acknowledgement.
    fn innermost_outside(&mut self, vcpu: VcpuIndex) -> Option<Candidate> {
        let mut innermost = None;
        for number in 0..=self.spis.len() {
            let Some(view) = self.view(vcpu, number) else { continue };
            for lane in Ones(view.share.active) {
                for source in Ones(view.active_senders(lane).into()) {
                    let candidate = Candidate {
                        put_off: false,
                        priority: view.acknowledged(lane, source as u8),
                        pending: false,
                        bank: number as u8,
                        lane: lane as u8,
                        source: source as u8,
                    };
                    innermost =
                        Some(innermost.map_or(candidate, |other: Candidate| other.min(candidate)));
                }
            }
        }
        innermost
    }

    /// The vCPUs that have some of the interrupts `mask` active outside of their list registers.
    pub(super) fn evictors(&self, of: VcpuIndex, number: usize, mask: u32) -> VcpuSet {
        let mut evictors = VcpuSet::EMPTY;
        if self.bank(of, number).is_none_or(|bank| bank.active & mask == 0) {
            return evictors;
        }
        for (position, cpu) in self.cpus.iter().enumerate() {
            let index = VcpuIndex::new(position);
            let concerned = number != 0 || index == of;
            if concerned
                && cpu.slots.evicted
                && cpu.shares.get(number).is_some_and(|share| share.active & mask != 0)
            {
                evictors.insert(index);
            }
        }
        evictors
    }
}
