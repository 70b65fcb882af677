//! Bringing list registers up to date, and taking their contents back.

use super::select::{Candidate, Selection};
use super::single::{fill_private, fill_single};
use super::slots::{SLOTS, sender};
use super::{Ask, Vgic};
use crate::bits::{Ones, bit, low};
use crate::{Effects, ListRegisters, VcpuIndex, VcpuSet};

impl Vgic {
    /// Brings the list registers of `vcpu` up to date; to be called before it executes guest code whenever something has
    /// changed, on the CPU whose list registers `lrs` are.
    pub fn fill(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        if self.fill_common(vcpu, lrs) { Effects::NONE } else { self.fill_any(vcpu, lrs) }
    }

    /// [`fill`](Self::fill), if there is anything to do. One private interrupt that has become pending, which is
    /// what SGIs and timers do, takes the shortest way.
    #[inline(always)]
    pub fn update(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return Effects::NONE };
        if fill_private(cpu, self.rules, lrs) {
            if !self.unsettled.is_empty() {
                self.unsettled.remove(vcpu);
            }
            return Effects::NONE;
        }
        if cpu.slots.ready == 0 && cpu.slots.askers.is_empty() {
            return Effects::NONE;
        }
        self.fill(vcpu, lrs)
    }

    /// Fills if there is but one thing to do; false if there is more.
    #[inline(always)]
    fn fill_common(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> bool {
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return false };
        let ready = cpu.slots.ready;
        if !ready.is_power_of_two() || cpu.slots.overflow || !cpu.slots.askers.is_empty() {
            return false;
        }
        let number = ready.trailing_zeros() as usize;
        let Some(share) = cpu.shares.get_mut(number) else { return false };
        let bank = match number.checked_sub(1) {
            None => &mut cpu.private,
            Some(shared) => match self.spis.get_mut(shared) {
                Some(spis) => &mut spis.bank,
                None => return false,
            },
        };
        let filled = fill_single(number, bank, share, &mut cpu.slots, self.rules, lrs);
        if filled {
            self.unsettled.remove(vcpu);
        }
        filled
    }

    #[inline(never)]
    fn fill_any(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        let mut effects = Effects::NONE;
        let Some(cpu) = self.cpus.get(vcpu.get()) else { return effects };
        if !cpu.slots.askers.is_empty() {
            effects = self.fold(vcpu, lrs);
        } else if cpu.slots.overflow {
            self.choose(vcpu, lrs, &mut effects);
            return effects;
        }
        while let Some(number) = self.next_ready(vcpu) {
            if !self.fill_bank(vcpu, number, lrs, &mut effects) {
                self.mark_ready(vcpu, bit(number));
                if !self.reclaim(vcpu, lrs, &mut effects) {
                    self.choose(vcpu, lrs, &mut effects);
                    return effects;
                }
            }
        }
        self.unsettled.remove(vcpu);
        effects
    }

    /// Takes everything back from the list registers of `vcpu` and frees them; to be called on the CPU whose list
    /// registers `lrs` are, before anything that needs the exact state: a switch to another vCPU,
    /// [`has_deliverable`](Self::has_deliverable), or a [`Read::Retry`](super::Read::Retry) that names this vCPU.
    pub fn fold(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        let mut effects = Effects::NONE;
        self.end_outside(vcpu, lrs, &mut effects);
        self.take_back_all(vcpu, lrs, &mut effects);
        self.unsettled.remove(vcpu);
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return effects };
        if cpu.slots.overflow {
            cpu.slots.overflow = false;
            cpu.slots.ready = u32::MAX;
            lrs.set_underflow(false);
            if core::mem::take(&mut cpu.slots.evicted) {
                lrs.set_end_outside_maintenance(false);
            }
        }
        let askers = core::mem::take(&mut cpu.slots.askers);
        for asker in askers {
            if let Some(asker) = self.cpus.get_mut(asker.get()) {
                asker.ask.answered.insert(vcpu);
            }
        }
        effects
    }

    /// Answers a maintenance interrupt on the CPU that runs `vcpu`: the guest has ended an interrupt that has to be
    /// looked at again or is in no list register, or has few left while more are waiting. [`fill`](Self::fill) has to
    /// follow.
    pub fn maintenance(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        let mut effects = Effects::NONE;
        self.end_outside(vcpu, lrs, &mut effects);
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return effects };
        if cpu.slots.overflow {
            cpu.slots.ready |= 1;
        }
        let ended = lrs.ended() & cpu.slots.used;
        self.take_back_slots(vcpu, ended, lrs, &mut effects);
        effects
    }

    #[inline(always)]
    fn next_ready(&mut self, vcpu: VcpuIndex) -> Option<usize> {
        let slots = &mut self.cpus.get_mut(vcpu.get())?.slots;
        let number = Ones(slots.ready).next()?;
        slots.ready &= !bit(number);
        Some(number)
    }

    fn mark_ready(&mut self, vcpu: VcpuIndex, banks: u32) {
        if let Some(cpu) = self.cpus.get_mut(vcpu.get()) {
            cpu.slots.ready |= banks;
        }
    }

    /// Brings the list registers up to date for one bank; false if they don't suffice.
    #[inline(always)]
    fn fill_bank(
        &mut self,
        vcpu: VcpuIndex,
        number: usize,
        lrs: &mut impl ListRegisters,
        effects: &mut Effects,
    ) -> bool {
        let Some(mut view) = self.view(vcpu, number) else { return true };
        if view.bank.release != 0 {
            view.release(lrs);
        }
        let touched = view.bank.touched & view.share.resident;
        for lane in Ones(touched) {
            view.take_back(lane, lrs);
        }
        let mut fits = true;
        for lane in Ones(view.wanted()) {
            if !view.place(lane, lrs) {
                fits = false;
                break;
            }
        }
        let elsewhere = touched & view.bank.deliverable(view.rules.groups) & !view.share.target;
        if elsewhere != 0 {
            effects.merge(self.settle(vcpu, number, elsewhere));
        }
        fits
    }

    /// Frees the list registers whose interrupts the guest has ended; false if there are none.
    fn reclaim(
        &mut self,
        vcpu: VcpuIndex,
        lrs: &mut impl ListRegisters,
        effects: &mut Effects,
    ) -> bool {
        let Some(cpu) = self.cpus.get(vcpu.get()) else { return false };
        let over = lrs.empty() & cpu.slots.used;
        self.take_back_slots(vcpu, over, lrs, effects);
        over != 0
    }

    /// Takes back the interrupts in the list registers `slots`.
    fn take_back_slots(
        &mut self,
        vcpu: VcpuIndex,
        slots: u32,
        lrs: &mut impl ListRegisters,
        effects: &mut Effects,
    ) {
        for n in Ones(slots & low(SLOTS)) {
            let Some(cpu) = self.cpus.get(vcpu.get()) else { return };
            let slot = cpu.slots.get(n);
            let (number, mask) = (usize::from(slot.bank), bit(slot.lane.into()));
            let Some(mut view) = self.view(vcpu, number) else { return };
            view.take_back_slot(n, lrs);
            if view.wanted() & mask != 0 {
                view.slots.ready |= bit(number);
            } else if view.bank.deliverable(view.rules.groups) & mask != 0 {
                effects.merge(self.settle(vcpu, number, mask));
            }
        }
    }

    fn take_back_all(
        &mut self,
        vcpu: VcpuIndex,
        lrs: &mut impl ListRegisters,
        effects: &mut Effects,
    ) {
        let used = self.cpus.get(vcpu.get()).map_or(0, |cpu| cpu.slots.used);
        self.take_back_slots(vcpu, used, lrs, effects);
    }

    /// More interrupts than list registers: chooses the most urgent ones, whether pending or active. The underflow
    /// interrupt brings in the rest. The active ones that did not fit are the outermost, which the guest ends last: each
    /// end of an interrupt that is in no list register is counted, and [that of the innermost](Self::end_outside).
    ///
    /// A guest that splits deactivation from the priority drop deactivates in any order, and a count does not tell which.
    /// Then active ones come first, and pending ones have to wait while all list registers hold active ones.
    fn choose(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters, effects: &mut Effects) {
        self.end_outside(vcpu, lrs, effects);
        self.take_back_all(vcpu, lrs, effects);
        let room = lrs.count().min(SLOTS);
        let splits = lrs.splits_deactivation();
        let mut selection = Selection::new(room);
        for number in 0..=self.spis.len() {
            let Some(mut view) = self.view(vcpu, number) else { continue };
            if view.bank.release != 0 {
                view.release(lrs);
            }
            for lane in Ones(view.wanted()) {
                let next = if view.has_sources(lane) { view.next_sender(lane) } else { Some(0) };
                let Some(source) = next else { continue };
                let pending = view.active_senders(lane) & sender(source) == 0;
                selection.offer(Candidate {
                    put_off: pending && splits,
                    priority: if pending {
                        view.bank.priority.get(lane)
                    } else {
                        view.acknowledged(lane, source)
                    },
                    pending,
                    bank: number as u8,
                    lane: lane as u8,
                    source,
                });
            }
        }
        // Underflow tells of one list register or none in use. That suffices as long as all chosen
        // are pending, for the others are less urgent. One that is active may have become pending
        // again, with a priority less urgent than what has to wait: then its end is of interest.
        let (overflow, evicted) = (selection.refused(), selection.evicted());
        let held = selection.chosen().iter().any(|candidate| !candidate.pending);
        let watch = overflow && (room < 2 || held || splits);
        for candidate in selection.chosen() {
            let Some(mut view) = self.view(vcpu, candidate.bank.into()) else { continue };
            let lane = usize::from(candidate.lane);
            if view.has_sources(lane) {
                view.place_sgi(lane, candidate.source, watch, lrs);
            } else {
                view.place_one(lane, watch, lrs);
            }
        }
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return };
        let before = core::mem::replace(&mut cpu.slots.overflow, overflow);
        cpu.slots.ready = 0;
        if before || overflow {
            lrs.set_underflow(overflow && room >= 2);
        }
        if core::mem::replace(&mut cpu.slots.evicted, evicted) != evicted {
            lrs.set_end_outside_maintenance(evicted);
        }
        self.unsettled.remove(vcpu);
    }

    /// Whom `vcpu` has to wait for before it may read the state of the interrupts `mask`: those in whose list
    /// registers they are, or which may have ended them outside of list registers, and which have not folded since `vcpu` has first asked with this `tag`.
    ///
    /// Each asked vCPU folds at its next exit and may have refilled when the guest's instruction is executed again, so
    /// what counts is that it *has* folded: the state as of then lies between question and answer. Hence two vCPUs
    /// that ask about each other both get on.
    pub(super) fn consult(
        &mut self,
        reader: VcpuIndex,
        of: VcpuIndex,
        number: usize,
        mask: u32,
        tag: u32,
    ) -> VcpuSet {
        let owners = self.owners(of, number, mask).union(self.evictors(of, number, mask));
        let owners = owners.intersection(self.loaded);
        let Some(cpu) = self.cpus.get_mut(reader.get()) else { return VcpuSet::EMPTY };
        if cpu.ask.tag != tag {
            cpu.ask = Ask { tag, answered: VcpuSet::EMPTY };
        }
        let missing = owners.without(cpu.ask.answered);
        if missing.is_empty() {
            cpu.ask = Ask::default();
        }
        for owner in missing.without(VcpuSet::only(reader)) {
            if let Some(owner) = self.cpus.get_mut(owner.get()) {
                owner.slots.askers.insert(reader);
            }
        }
        missing
    }

    /// The vCPUs in whose list registers some of the interrupts `mask` are.
    pub(super) fn owners(&self, of: VcpuIndex, number: usize, mask: u32) -> VcpuSet {
        let mut owners = VcpuSet::EMPTY;
        if self.bank(of, number).is_none_or(|bank| bank.resident & mask == 0) {
            return owners;
        }
        if number == 0 {
            return VcpuSet::only(of);
        }
        for (position, cpu) in self.cpus.iter().enumerate() {
            if cpu.shares.get(number).is_some_and(|share| share.resident & mask != 0) {
                owners.insert(VcpuIndex::new(position));
            }
        }
        owners
    }
}
