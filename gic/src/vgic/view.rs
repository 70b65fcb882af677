//! One vCPU's side of one bank: moving interrupts between the bank and list registers.

use super::bank::{Bank, Groups, NOT_ACKNOWLEDGED};
use super::slots::{Share, Slot, Slots, Sources, sender};
use crate::bits::{Ones, bit};
use crate::{IntId, ListRegister, ListRegisters, State};

/// What is the same for the whole VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) groups: Groups,
    /// GICv2: SGIs are told apart by their sender.
    pub(super) sgi_sources: bool,
    /// The guest's deactivation reaches the physical interrupt.
    pub(super) hardware_deactivation: bool,
}

/// A bank, and what a vCPU has to do with it.
pub(super) struct View<'a> {
    pub(super) number: usize,
    pub(super) bank: &'a mut Bank,
    pub(super) share: &'a mut Share,
    pub(super) slots: &'a mut Slots,
    pub(super) sources: &'a mut Sources,
    pub(super) rules: Rules,
}

impl View<'_> {
    /// Interrupts that should be in a list register of this vCPU and are not.
    #[inline(always)]
    pub(super) fn wanted(&self) -> u32 {
        (self.bank.deliverable(self.rules.groups) & self.share.target)
            | (self.share.active & !self.bank.resident)
    }

    #[inline(always)]
    pub(super) fn has_sources(&self, lane: usize) -> bool {
        self.rules.sgi_sources && self.number == 0 && lane < IntId::SGIS as usize
    }

    /// Whose SGI gets a list register: one sender's at a time, for no two list registers may hold the same interrupt
    /// (IHI 0048 5.3.8). One that is active comes first; the next one's turn comes when the guest has ended it.
    pub(super) fn next_sender(&self, lane: usize) -> Option<u8> {
        let mut senders = self.sources.active.get(lane);
        if senders == 0 && self.bank.forwarded(self.rules.groups) & bit(lane) != 0 {
            senders = self.sources.pending.get(lane);
        }
        Ones(senders.into()).next().map(|sender| sender as u8)
    }

    /// The senders for which an interrupt is active that is in no list register; sender 0 where senders don't count.
    pub(super) fn active_senders(&self, lane: usize) -> u8 {
        if self.has_sources(lane) {
            self.sources.active.get(lane)
        } else {
            u8::from(self.share.active & bit(lane) != 0)
        }
    }

    /// The priority at which the guest has acknowledged an interrupt that is active and in no list register.
    pub(super) fn acknowledged(&self, lane: usize, source: u8) -> u8 {
        if self.has_sources(lane) {
            self.sources.acknowledged.get(lane, source)
        } else {
            self.bank.acknowledged.get(lane)
        }
    }

    /// Makes an interrupt inactive that is in no list register, as its end by the guest does.
    pub(super) fn end_outside(&mut self, lane: usize, source: u8, lrs: &mut impl ListRegisters) {
        let mask = bit(lane);
        if self.has_sources(lane) {
            self.sources.active.remove(lane, sender(source));
            if self.sources.active.get(lane) != 0 {
                return;
            }
        }
        self.bank.active &= !mask;
        self.share.active &= !mask;
        if self.bank.let_go(mask) != 0 {
            self.bank.release &= !mask;
            lrs.deactivate(self.bank.physical.get(lane));
        }
    }

    /// Deactivates physical interrupts that nothing stands for any more.
    pub(super) fn release(&mut self, lrs: &mut impl ListRegisters) {
        for lane in Ones(self.bank.release) {
            lrs.deactivate(self.bank.physical.get(lane));
        }
        self.bank.release = 0;
    }

    /// Puts one interrupt into a free list register; false if there is none.
    #[inline(always)]
    pub(super) fn place(&mut self, lane: usize, lrs: &mut impl ListRegisters) -> bool {
        if !self.has_sources(lane) {
            return self.place_one(lane, false, lrs);
        }
        self.next_sender(lane).is_none_or(|source| self.place_sgi(lane, source, false, lrs))
    }

    /// Puts an interrupt without senders into a free list register. `watch` asks for maintenance when it ends.
    #[inline(always)]
    pub(super) fn place_one(
        &mut self,
        lane: usize,
        watch: bool,
        lrs: &mut impl ListRegisters,
    ) -> bool {
        let mask = bit(lane);
        let Some(n) = self
            .slots
            .take(lrs.count(), Slot { bank: self.number as u8, lane: lane as u8, source: 0 })
        else {
            return false;
        };
        let bank = &mut *self.bank;
        let waiting = bank.pending() & bank.forwarded(self.rules.groups) & mask;
        let active = self.share.active & mask != 0;
        // One that is active here may be pending for the vCPU that it has been routed to since.
        let elsewhere = waiting & !self.share.target != 0;
        // A list register has one priority, which has to be that of the acknowledgement for the guest to end it.
        let priority = if active { bank.acknowledged.get(lane) } else { bank.priority.get(lane) };
        let later = active && (watch || priority != bank.priority.get(lane));
        // While others wait for a list register, this one must not become pending by its end.
        let pending = waiting & self.share.target != 0 && !later;
        let busy = bank.busy & mask != 0;
        // A list register that is linked to hardware must not be pending and active at once (IHI 0069 12.4.6).
        let linked =
            busy && self.rules.hardware_deactivation && !watch && !(waiting != 0 && active);
        let line = bank.line() & mask != 0;
        let value = ListRegister {
            intid: IntId::from_parts(self.number, lane),
            state: State { pending, active },
            physical: if linked { Some(bank.physical.get(lane)) } else { None },
            priority,
            group1: bank.group1 & mask != 0,
            // When the guest is done, the line is to be sampled again, the physical interrupt to be deactivated, or
            // another vCPU's turn has come, or another priority's.
            eoi_maintenance: watch || line || busy || elsewhere || (waiting != 0 && later),
            source: 0,
        };
        if pending {
            bank.listed_latch |= bank.latched & mask;
            bank.latched &= !mask;
        }
        if active {
            bank.listed_active |= mask;
            bank.active &= !mask;
            self.share.active &= !mask;
        }
        bank.resident |= mask;
        bank.slot.set(lane, n as u8);
        self.share.resident |= mask;
        lrs.write(n, &value);
        true
    }

    /// Puts an SGI from one sender into a free list register.
    pub(super) fn place_sgi(
        &mut self,
        sgi: usize,
        source: u8,
        watch: bool,
        lrs: &mut impl ListRegisters,
    ) -> bool {
        let (mask, from) = (bit(sgi), sender(source));
        let Some(n) =
            self.slots.take(lrs.count(), Slot { bank: self.number as u8, lane: sgi as u8, source })
        else {
            return false;
        };
        let bank = &mut *self.bank;
        let forwarded = bank.forwarded(self.rules.groups) & mask != 0;
        let active = self.sources.active.get(sgi) & from != 0;
        let priority = if active {
            self.sources.acknowledged.get(sgi, source)
        } else {
            bank.priority.get(sgi)
        };
        let later = active && (watch || priority != bank.priority.get(sgi));
        let waiting = forwarded && self.sources.pending.get(sgi) & from != 0;
        let pending = waiting && !later;
        let others = (self.sources.active.get(sgi) | self.sources.pending.get(sgi)) & !from;
        let value = ListRegister {
            intid: IntId::from_parts(self.number, sgi),
            state: State { pending, active },
            physical: None,
            priority,
            group1: bank.group1 & mask != 0,
            eoi_maintenance: watch || (waiting && later) || others != 0,
            source,
        };
        if pending {
            self.sources.pending.remove(sgi, from);
            bank.listed_latch |= mask;
            if self.sources.pending.get(sgi) == 0 {
                bank.latched &= !mask;
            }
        }
        if active {
            self.sources.active.remove(sgi, from);
            bank.listed_active |= mask;
            if self.sources.active.get(sgi) == 0 {
                bank.active &= !mask;
                self.share.active &= !mask;
            }
        }
        self.sources.listed.set(sgi, from);
        bank.resident |= mask;
        bank.slot.set(sgi, n as u8);
        self.share.resident |= mask;
        lrs.write(n, &value);
        true
    }

    /// Takes an interrupt out of its list register.
    #[inline(always)]
    pub(super) fn take_back(&mut self, lane: usize, lrs: &mut impl ListRegisters) {
        self.take_back_slot(self.bank.slot.get(lane).into(), lrs);
    }

    /// Takes an interrupt out of list register `n`, which must belong to this bank, with the state that the guest has
    /// given it.
    #[inline(always)]
    pub(super) fn take_back_slot(&mut self, n: usize, lrs: &mut impl ListRegisters) {
        let slot = self.slots.get(n);
        let (lane, mask) = (usize::from(slot.lane), bit(slot.lane.into()));
        let listed = lrs.read(n);
        if !listed.state.is_invalid() || listed.eoi_maintenance {
            lrs.clear(n);
        }
        self.slots.used &= !bit(n);
        if self.has_sources(lane) {
            self.take_back_sgi(lane, slot.source, &listed);
            return;
        }
        let bank = &mut *self.bank;
        if listed.state.pending && bank.listed_latch & !bank.drop_pending & mask != 0 {
            bank.latched |= mask;
        }
        if (listed.state.active && bank.drop_active & mask == 0) || bank.raise_active & mask != 0 {
            bank.active |= mask;
            self.share.active |= mask;
            bank.acknowledged.set(lane, acknowledged_at(&listed));
        }
        let recurred = bank.recurred & mask != 0;
        bank.unlist(mask);
        self.share.resident &= !mask;
        if bank.busy & mask != 0 && !recurred {
            self.settle_physical(lane, &listed, lrs);
        }
    }

    fn take_back_sgi(&mut self, sgi: usize, source: u8, listed: &ListRegister) {
        let state = listed.state;
        let (mask, from) = (bit(sgi), sender(source));
        let bank = &mut *self.bank;
        if state.pending && self.sources.drop_pending.get(sgi) & from == 0 {
            self.sources.pending.add(sgi, from);
            bank.latched |= mask;
        }
        if (state.active && bank.drop_active & mask == 0) || bank.raise_active & mask != 0 {
            self.sources.active.add(sgi, from);
            self.sources.acknowledged.set(sgi, source, acknowledged_at(listed));
            bank.active |= mask;
            self.share.active |= mask;
        }
        self.sources.drop_pending.remove(sgi, from);
        self.sources.listed.set(sgi, 0);
        bank.unlist(mask);
        self.share.resident &= !mask;
    }

    /// An interrupt with an active physical one behind it has left its list register.
    fn settle_physical(
        &mut self,
        lane: usize,
        listed: &ListRegister,
        lrs: &mut impl ListRegisters,
    ) {
        let (bank, mask) = (&mut *self.bank, bit(lane));
        if listed.state.is_invalid() && listed.physical.is_some() {
            // The guest's deactivation has reached the physical interrupt.
            bank.busy &= !mask;
        } else if bank.let_go(mask) != 0 {
            bank.release &= !mask;
            lrs.deactivate(bank.physical.get(lane));
        }
    }
}

/// The priority at which the guest has acknowledged an interrupt that leaves its list register as active.
#[inline(always)]
const fn acknowledged_at(listed: &ListRegister) -> u8 {
    if listed.state.active { listed.priority } else { NOT_ACKNOWLEDGED }
}
