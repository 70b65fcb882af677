//! The common cases of a fill, in a few dozen instructions: one interrupt has become pending, and either it is in no list
//! register, or in one that the guest has emptied since; or its line has fallen while the guest handles it. Whatever is
//! out of the ordinary is left to the general way.

use super::Cpu;
use super::bank::Bank;
use super::slots::{PRIVATE, Share, Slot, Slots};
use super::view::Rules;
use crate::bits::bit;
use crate::{IntId, ListRegister, ListRegisters, State};

/// Fills if all there is to do concerns one interrupt of bank `number`, which is the only one that is ready, and is one of
/// the common cases. False if there is more to it; then nothing has changed.
#[inline(always)]
pub(super) fn fill_single(
    number: usize,
    bank: &mut Bank,
    share: &mut Share,
    slots: &mut Slots,
    rules: Rules,
    lrs: &mut impl ListRegisters,
) -> bool {
    let touched = bank.touched & share.resident;
    let waiting = bank.pending();
    let forwarded = waiting & bank.forwarded(rules.groups) & share.target;
    let mask = touched | (forwarded & !(bank.active | bank.resident));
    let changed_by_guest = bank.drop_pending | bank.drop_active | bank.raise_active;
    let unusual = (mask & (changed_by_guest | (waiting & !forwarded)))
        | bank.release
        | (share.active & !bank.resident);
    if !mask.is_power_of_two() || unusual != 0 {
        return false;
    }
    let lane = mask.trailing_zeros() as usize;
    if rules.sgi_sources && IntId::from_parts(number, lane).is_sgi() {
        return false;
    }
    let busy = bank.busy & mask != 0;
    if busy && !rules.hardware_deactivation {
        return false;
    }
    let pending = forwarded & mask != 0;
    let mut priority = bank.priority.get(lane);
    let n = if touched == 0 {
        let slot = Slot { bank: number as u8, lane: lane as u8, source: 0 };
        let Some(n) = slots.take(lrs.count(), slot) else { return false };
        bank.slot.set(lane, n as u8);
        bank.resident |= mask;
        share.resident |= mask;
        n
    } else {
        let n = usize::from(bank.slot.get(lane));
        // If the physical interrupt was active before, and did not come again, it has to be looked at.
        if busy && bank.recurred & mask == 0 {
            return false;
        }
        let expected =
            if pending { State::INVALID } else { State { pending: false, active: true } };
        let listed = lrs.read(n);
        if listed.state != expected {
            return false;
        }
        if !pending {
            priority = listed.priority;
        }
        bank.touched &= !mask;
        bank.recurred &= !mask;
        bank.listed_latch &= !mask;
        bank.listed_active =
            if pending { bank.listed_active & !mask } else { bank.listed_active | mask };
        n
    };
    bank.listed_latch |= bank.latched & mask;
    bank.latched &= !mask;
    slots.ready &= !bit(number);
    let value = ListRegister {
        intid: IntId::from_parts(number, lane),
        state: State { pending, active: !pending },
        physical: if busy { Some(bank.physical.get(lane)) } else { None },
        priority,
        group1: bank.group1 & mask != 0,
        eoi_maintenance: bank.line() & mask != 0,
        source: 0,
    };
    lrs.write(n, &value);
    true
}

/// The commonest case of [`fill_private`]: an SGI comes again, and is still in a list register that the guest has emptied
/// since. SGIs have no line and no physical interrupt.
#[inline(always)]
fn resend(bank: &mut Bank, slots: &mut Slots, rules: Rules, lrs: &mut impl ListRegisters) -> bool {
    /// The lanes of SGIs.
    const SGIS: u32 = 0xffff;
    let mask = bank.touched;
    let one_sgi = mask <= SGIS && mask & mask.wrapping_sub(1) == 0;
    if !one_sgi || bank.latched != mask || rules.sgi_sources {
        return false;
    }
    let changed_by_guest = bank.drop_pending | bank.drop_active | bank.raise_active;
    let unusual = changed_by_guest | bank.release | bank.active | bank.level;
    if unusual != 0 || bank.forwarded(rules.groups) & mask == 0 {
        return false;
    }
    let lane = mask.trailing_zeros() as usize;
    let n = usize::from(bank.slot.get(lane));
    if lrs.empty() & bit(n) == 0 {
        return false;
    }
    bank.touched = 0;
    bank.latched = 0;
    bank.listed_latch |= mask;
    bank.listed_active &= !mask;
    slots.ready = 0;
    let value = ListRegister {
        intid: IntId::from_parts(0, lane),
        state: State { pending: true, active: false },
        physical: None,
        priority: bank.priority.get(lane),
        group1: bank.group1 & mask != 0,
        eoi_maintenance: false,
        source: 0,
    };
    lrs.write(n, &value);
    true
}

/// Fills if all there is to do is to make one private interrupt pending that is in no list register, or in one that the
/// guest has emptied since. False if there is nothing to do, or more to it; then nothing has changed.
#[inline(always)]
pub(super) fn fill_private(cpu: &mut Cpu, rules: Rules, lrs: &mut impl ListRegisters) -> bool {
    let Cpu { slots, private: bank, shares: [share, ..], .. } = cpu;
    if slots.ready != PRIVATE || slots.overflow || !slots.askers.is_empty() {
        return false;
    }
    if resend(bank, slots, rules, lrs) {
        return true;
    }
    let waiting = bank.pending() & bank.forwarded(rules.groups);
    let mask = bank.touched | (waiting & !(bank.active | bank.resident));
    let changed_by_guest = bank.drop_pending | bank.drop_active | bank.raise_active;
    let unusual = (mask & (changed_by_guest | !waiting)) | bank.release | bank.active;
    if !mask.is_power_of_two() || unusual != 0 {
        return false;
    }
    let lane = mask.trailing_zeros() as usize;
    if rules.sgi_sources && IntId::from_parts(0, lane).is_sgi() {
        return false;
    }
    let busy = bank.busy & mask;
    if busy != 0 && !rules.hardware_deactivation {
        return false;
    }
    let n = if bank.resident & mask == 0 {
        let slot = Slot { bank: 0, lane: lane as u8, source: 0 };
        let Some(n) = slots.take(lrs.count(), slot) else { return false };
        bank.slot.set(lane, n as u8);
        bank.resident |= mask;
        share.resident |= mask;
        n
    } else {
        let n = usize::from(bank.slot.get(lane));
        // If the physical interrupt was active before, and did not come again, it has to be looked at.
        if busy & !bank.recurred != 0 || lrs.empty() & bit(n) == 0 {
            return false;
        }
        bank.touched = 0;
        bank.recurred &= !mask;
        bank.listed_latch &= !mask;
        bank.listed_active &= !mask;
        n
    };
    bank.listed_latch |= bank.latched & mask;
    bank.latched &= !mask;
    slots.ready = 0;
    let value = ListRegister {
        intid: IntId::from_parts(0, lane),
        state: State { pending: true, active: false },
        physical: if busy == 0 { None } else { Some(bank.physical.get(lane)) },
        priority: bank.priority.get(lane),
        group1: bank.group1 & mask != 0,
        eoi_maintenance: bank.line() & mask != 0,
        source: 0,
    };
    lrs.write(n, &value);
    true
}
