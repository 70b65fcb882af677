//! The virtual CPU interface in software: what a guest's access to `ICC_*_EL1` does where it traps (IHI 0069 4.8, 12.2).
//!
//! A guest can make Apple's virtual CPU interface raise an SError, by ending interrupts against the rules, and an SError
//! may arrive when another guest runs. There the registers that acknowledge, end and configure interrupts trap. They are
//! carried out here, on the state that the hardware keeps: list registers, active priorities and `ICH_VMCR_EL2`. So all
//! else, maintenance interrupts included, goes on as if the hardware had done it.

use crate::{IntId, ListRegister, ListRegisters};

/// The group of interrupts that a register is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Group 0.
    Zero,
    /// Group 1.
    One,
}

/// A register that traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `ICC_IARn_EL1`.
    Acknowledge(Group),
    /// `ICC_EOIRn_EL1`.
    End(Group),
    /// `ICC_HPPIRn_EL1`.
    HighestPending(Group),
    /// `ICC_BPRn_EL1`.
    BinaryPoint(Group),
    /// `ICC_IGRPENn_EL1`.
    Enable(Group),
    /// `ICC_APnRm_EL1`, with its number m.
    ActivePriorities(Group, usize),
    /// `ICC_DIR_EL1`.
    Deactivate,
}

/// What the hardware keeps of a virtual CPU interface beside list registers.
pub trait InterfaceState: ListRegisters {
    /// `ICH_VMCR_EL2`.
    fn control(&mut self) -> u64;
    /// Sets it.
    fn set_control(&mut self, value: u64);
    /// `ICH_APnRm_EL2`.
    fn active_priorities(&mut self, group: Group, number: usize) -> u32;
    /// Sets it.
    fn set_active_priorities(&mut self, group: Group, number: usize, value: u32);
    /// `ICH_VTR_EL2.PREbits` + 1: 5 to 7.
    fn preemption_bits(&self) -> u32;
    /// Counts an end that found no list register (`ICH_HCR_EL2.EOIcount`).
    fn count_end_outside(&mut self);
}

/// No interrupt (IHI 0069 2.2.1).
const SPURIOUS: u64 = 1023;
const INTID: u64 = 0xff_ffff;
/// The priority that is less urgent than every interrupt's.
const IDLE: u32 = 0x100;
const PRIORITY_BITS: u32 = 8;

const ENABLE_GROUP0: u64 = 1 << 0;
const ENABLE_GROUP1: u64 = 1 << 1;
/// `VCBPR`: `BPR0` counts for both groups.
const COMMON_BINARY_POINT: u64 = 1 << 4;
/// `VEOIM`: the end of an interrupt only drops the priority.
const SPLIT_END: u64 = 1 << 9;
const BINARY_POINT1_SHIFT: u32 = 18;
const BINARY_POINT0_SHIFT: u32 = 21;
const BINARY_POINT: u64 = 0b111;
const MASK_SHIFT: u32 = 24;

impl Group {
    const fn enable(self) -> u64 {
        match self {
            Self::Zero => ENABLE_GROUP0,
            Self::One => ENABLE_GROUP1,
        }
    }

    const fn of(entry: &ListRegister) -> Self {
        if entry.group1 { Self::One } else { Self::Zero }
    }
}

/// What the guest reads.
pub fn read(state: &mut impl InterfaceState, register: Register) -> u64 {
    match register {
        Register::Acknowledge(group) => acknowledge(state, group),
        Register::HighestPending(group) => match highest_pending(state) {
            Some((_, entry)) if Group::of(&entry) == group => entry.intid.get().into(),
            _ => SPURIOUS,
        },
        Register::BinaryPoint(group) => binary_point(state, group).into(),
        Register::Enable(group) => u64::from(state.control() & group.enable() != 0),
        Register::ActivePriorities(group, number) if number < active_registers(state) => {
            state.active_priorities(group, number).into()
        }
        // Those that are only written have no value.
        Register::ActivePriorities(..) | Register::End(_) | Register::Deactivate => 0,
    }
}

/// What the guest's write does.
pub fn write(state: &mut impl InterfaceState, register: Register, value: u64) {
    match register {
        Register::End(group) => end(state, group, value & INTID),
        Register::Deactivate => {
            if state.control() & SPLIT_END != 0 {
                deactivate(state, value & INTID);
            }
        }
        Register::BinaryPoint(group) => set_binary_point(state, group, value & BINARY_POINT),
        Register::Enable(group) => {
            let control = state.control() & !group.enable();
            state.set_control(control | if value & 1 != 0 { group.enable() } else { 0 });
        }
        Register::ActivePriorities(group, number) if number < active_registers(state) => {
            state.set_active_priorities(group, number, value as u32);
        }
        Register::ActivePriorities(..) | Register::Acknowledge(_) | Register::HighestPending(_) => {
        }
    }
}

/// The list register with the most urgent pending interrupt of an enabled group.
fn highest_pending(state: &mut impl InterfaceState) -> Option<(usize, ListRegister)> {
    let control = state.control();
    (0..state.count())
        .map(|n| (n, state.read(n)))
        .filter(|(_, entry)| entry.state.pending && !entry.state.active)
        .filter(|(_, entry)| control & Group::of(entry).enable() != 0)
        .min_by_key(|(_, entry)| entry.priority)
}

fn acknowledge(state: &mut impl InterfaceState, group: Group) -> u64 {
    let Some((n, mut entry)) = highest_pending(state) else { return SPURIOUS };
    let preemption = preemption_priority(state, &entry);
    let mask = (state.control() >> MASK_SHIFT) as u8;
    let running = highest_active(state).map_or(IDLE, |(_, priority)| priority);
    if Group::of(&entry) != group || entry.priority >= mask || preemption >= running {
        return SPURIOUS;
    }
    entry.state.pending = false;
    entry.state.active = true;
    state.write(n, &entry);
    let (number, bit) = active_bit(state, preemption);
    let active = state.active_priorities(group, number);
    state.set_active_priorities(group, number, active | bit);
    entry.intid.get().into()
}

/// Drops the priority, and deactivates where that is not apart.
fn end(state: &mut impl InterfaceState, group: Group, intid: u64) {
    if intid >= IntId::END.into() {
        return;
    }
    // The guest breaks the rules if nothing is active, or something of the other group.
    let Some((active_group, dropped)) = highest_active(state) else { return };
    if active_group != group {
        return;
    }
    let (number, bit) = active_bit(state, dropped);
    let active = state.active_priorities(group, number);
    state.set_active_priorities(group, number, active & !bit);
    if state.control() & SPLIT_END == 0 {
        deactivate(state, intid);
    }
}

fn deactivate(state: &mut impl InterfaceState, intid: u64) {
    if intid >= IntId::END.into() {
        return;
    }
    let found = (0..state.count())
        .map(|n| (n, state.read(n)))
        .find(|(_, entry)| entry.state.active && u64::from(entry.intid.get()) == intid);
    let Some((n, mut entry)) = found else { return state.count_end_outside() };
    entry.state.active = false;
    state.write(n, &entry);
    if let Some(physical) = entry.physical {
        state.deactivate(physical);
    }
}

/// The lowest value of `ICC_BPR1_EL1`: as many bits of a priority as the hardware compares.
fn least_binary_point(state: &impl InterfaceState) -> u32 {
    PRIORITY_BITS.saturating_sub(state.preemption_bits())
}

fn binary_point(state: &mut impl InterfaceState, group: Group) -> u32 {
    let control = state.control();
    let field = |shift: u32| (control >> shift & BINARY_POINT) as u32;
    match group {
        Group::Zero => field(BINARY_POINT0_SHIFT),
        Group::One if control & COMMON_BINARY_POINT != 0 => {
            field(BINARY_POINT0_SHIFT).saturating_add(1).min(BINARY_POINT as u32)
        }
        Group::One => field(BINARY_POINT1_SHIFT),
    }
}

fn set_binary_point(state: &mut impl InterfaceState, group: Group, value: u64) {
    let control = state.control();
    let least = u64::from(least_binary_point(state));
    let (shift, least) = match group {
        Group::Zero => (BINARY_POINT0_SHIFT, least.saturating_sub(1)),
        Group::One if control & COMMON_BINARY_POINT != 0 => return,
        Group::One => (BINARY_POINT1_SHIFT, least),
    };
    state.set_control(control & !(BINARY_POINT << shift) | value.max(least) << shift);
}

/// The part of an interrupt's priority that decides whether it interrupts another.
fn preemption_priority(state: &mut impl InterfaceState, entry: &ListRegister) -> u32 {
    let point = match Group::of(entry) {
        Group::Zero => binary_point(state, Group::Zero).saturating_add(1),
        Group::One => binary_point(state, Group::One),
    };
    let point = point.max(least_binary_point(state));
    u32::from(entry.priority) >> point << point
}

/// How many `ICH_APnRm_EL2` each group has: a bit for each preemption level, 32 in a register.
fn active_registers(state: &impl InterfaceState) -> usize {
    1usize.wrapping_shl(state.preemption_bits().saturating_sub(5)).min(4)
}

/// The most urgent priority that is active, and whose it is.
fn highest_active(state: &mut impl InterfaceState) -> Option<(Group, u32)> {
    (0..active_registers(state)).find_map(|number| {
        let zero = state.active_priorities(Group::Zero, number);
        let all = zero | state.active_priorities(Group::One, number);
        let bit = all.trailing_zeros();
        let group = if zero.trailing_zeros() == bit { Group::Zero } else { Group::One };
        let level = (number as u32).saturating_mul(u32::BITS).saturating_add(bit);
        (all != 0).then(|| (group, level << least_binary_point(state)))
    })
}

/// Register and bit of a preemption priority.
fn active_bit(state: &impl InterfaceState, priority: u32) -> (usize, u32) {
    let level = priority >> least_binary_point(state);
    ((level >> 5) as usize, 1u32.wrapping_shl(level))
}

#[cfg(test)]
mod tests;
