//! What one CPU has: sources of FIQ, its view of the AIC, and the virtual CPU interface.

use super::inputs::Input;
use super::{
    Distributor, Group, HYPERVISOR_TIMER, KICK, MAINTENANCE, PHYSICAL_TIMER, VIRTUAL_TIMER,
    Version, registers,
};
use crate::host::ich::list_registers_by_ich;
use crate::host::{Acknowledged, Ich, SgiTarget, Trigger, system};
use crate::interface::{self, InterfaceState};
use crate::{Affinity, IntId};

const V1_WHO_AM_I: usize = 0x2000;
const V1_IPI_ACKNOWLEDGE: usize = 0x200c;
const V1_IPI_MASK_SET: usize = 0x2024;
/// From other CPUs, and from itself.
const V1_IPI_ALL: u32 = 1 << 0 | 1 << 31;
/// More CPUs than fit in a mask of targets don't exist.
const WHO_AM_I: u32 = 0x1f;

const EVENT_DIE_SHIFT: u32 = 24;
const EVENT_KIND_SHIFT: u32 = 16;
const EVENT_BYTE: u32 = 0xff;
const EVENT_NUMBER: u32 = 0xffff;
/// An input.
const KIND_INPUT: u32 = 1;
/// An interrupt from another CPU, by version 1.
const KIND_IPI: u32 = 4;
/// Reports of inputs that nobody has claimed, and that stay masked, in one go.
const MOST_STRAYS: usize = 64;

const IPI_PENDING: u64 = 1 << 0;
const IPI_CLUSTER_SHIFT: u32 = 16;
const GUEST_VIRTUAL: u64 = 1 << 0;
const GUEST_PHYSICAL: u64 = 1 << 1;
const TIMER_ENABLE: u64 = 1 << 0;
const TIMER_MASK: u64 = 1 << 1;
const TIMER_STATUS: u64 = 1 << 2;

/// The number of a CPU at the AIC, above its affinity in an [`SgiTarget`].
const TARGET_WHO_SHIFT: u32 = 48;

/// Whether the virtual CPU interface of the CPU with this `MIDR_EL1` can be made to raise SErrors that are not confined to
/// the guest: those of M1 and M2 and their larger kinds.
const fn has_serror_fault(main_id: u64) -> bool {
    const APPLE: u64 = 0x61;
    let (implementer, part) = (main_id >> 24 & 0xff, main_id >> 4 & 0xfff);
    implementer == APPLE
        && matches!(part, 0x022..=0x025 | 0x028 | 0x029 | 0x032..=0x035 | 0x038 | 0x039)
}

const fn is_due(control: u64) -> bool {
    control & (TIMER_ENABLE | TIMER_MASK | TIMER_STATUS) == TIMER_ENABLE | TIMER_STATUS
}

/// The part of the interrupt controller that one CPU has.
#[derive(Debug)]
pub struct Cpu {
    distributor: Distributor,
    ich: Ich,
    affinity: Affinity,
    who: u32,
}

impl Distributor {
    pub(in crate::host) fn init_cpu(&self, affinity: Affinity) -> Cpu {
        let mut who = 0;
        if self.version == Version::V1 {
            who = self.registers.read(V1_WHO_AM_I) & WHO_AM_I;
            self.registers.write(V1_IPI_ACKNOWLEDGE, V1_IPI_ALL);
            self.registers.write(V1_IPI_MASK_SET, V1_IPI_ALL);
        }
        registers::write_ipi_status(IPI_PENDING);
        registers::write_guest_timers(0);
        registers::silence_performance_monitors();
        let ich = match has_serror_fault(registers::read_main_id()) {
            true => Ich::without_serror(),
            false => Ich::new(),
        };
        Cpu { distributor: *self, ich, affinity, who }
    }
}

impl Cpu {
    /// Asks every source. FIQ's are a register read each, the AIC is asked last.
    #[inline]
    pub(in crate::host) fn acknowledge(&self) -> Option<Acknowledged> {
        let found = self.fiq().or_else(|| {
            // A level: it lasts until its cause is gone.
            self.ich.has_maintenance().then_some(MAINTENANCE).or_else(|| self.input())
        });
        found.map(|intid| Acknowledged(intid.get()))
    }

    fn fiq(&self) -> Option<IntId> {
        if registers::read_ipi_status() & IPI_PENDING != 0 {
            registers::write_ipi_status(IPI_PENDING);
            return Some(KICK);
        }
        if is_due(registers::read_hypervisor_timer()) {
            return Some(HYPERVISOR_TIMER);
        }
        let enabled = registers::read_guest_timers();
        let timers = [
            (GUEST_VIRTUAL, VIRTUAL_TIMER, registers::read_virtual_timer as fn() -> u64),
            (GUEST_PHYSICAL, PHYSICAL_TIMER, registers::read_physical_timer),
        ];
        for (bit, intid, control) in timers {
            if enabled & bit != 0 && is_due(control()) {
                registers::write_guest_timers(enabled & !bit);
                return Some(intid);
            }
        }
        None
    }

    fn input(&self) -> Option<IntId> {
        for _ in 0..MOST_STRAYS {
            let event = self.distributor.event();
            match event >> EVENT_KIND_SHIFT & EVENT_BYTE {
                KIND_INPUT => {
                    let input =
                        Input { die: event >> EVENT_DIE_SHIFT, number: event & EVENT_NUMBER };
                    if let Some(intid) = self.distributor.inputs.find(input) {
                        return Some(intid);
                    }
                }
                KIND_IPI => {
                    self.distributor.registers.write(V1_IPI_ACKNOWLEDGE, V1_IPI_ALL);
                }
                _ => return None,
            }
        }
        None
    }

    /// There is nothing to drop.
    #[inline(always)]
    pub(in crate::host) fn priority_drop(&self, _: Acknowledged) {}

    #[inline(always)]
    pub(in crate::host) fn deactivate(&self, interrupt: Acknowledged) {
        self.bank(interrupt.intid()).set_enabled(interrupt.intid(), true);
    }

    /// The source of an interrupt.
    #[inline(always)]
    pub(in crate::host) fn bank(&self, _: IntId) -> Source {
        Source { distributor: self.distributor }
    }

    pub(in crate::host) fn disable(&self, intid: IntId) {
        self.bank(intid).set_enabled(intid, false);
    }

    /// Only version 1 can be told where an input goes.
    pub(in crate::host) fn target(&self, intid: IntId, target: SgiTarget) {
        if self.distributor.version == Version::V1
            && let Some(input) = self.distributor.inputs.input(intid)
        {
            let who = (target.0 >> TARGET_WHO_SHIFT) as u32 & WHO_AM_I;
            let route = self.distributor.layout.route(input);
            self.distributor.registers.write(route, 1u32.wrapping_shl(who));
        }
    }

    pub(in crate::host) const fn sgi_target(&self) -> SgiTarget {
        SgiTarget(self.affinity.mpidr() | (self.who as u64) << TARGET_WHO_SHIFT)
    }

    /// There is one kind of fast IPI only.
    pub(in crate::host) fn send_sgi(&self, _: IntId, target: SgiTarget) {
        let target = Affinity::from_mpidr(target.0);
        let cpu = u64::from(target.aff0());
        if target.aff1() == self.affinity.aff1() {
            registers::write_ipi_local(cpu);
        } else {
            registers::write_ipi_global(cpu | u64::from(target.aff1()) << IPI_CLUSTER_SHIFT);
        }
    }

    pub(in crate::host) fn virtual_interface(&self) -> &Ich {
        &self.ich
    }

    /// Whether the guest's accesses to its CPU interface trap.
    pub(in crate::host) const fn traps(&self) -> bool {
        self.ich.traps()
    }

    pub(in crate::host) fn has_maintenance(&self) -> bool {
        self.ich.has_maintenance()
    }
}

/// Where an interrupt comes from, with the operations that a GIC has for it.
#[derive(Clone, Copy, Debug)]
pub(in crate::host) struct Source {
    distributor: Distributor,
}

impl Source {
    fn set_enabled(&self, intid: IntId, on: bool) {
        match guest_timer(intid) {
            Some(bit) => {
                let enabled = registers::read_guest_timers();
                registers::write_guest_timers(if on { enabled | bit } else { enabled & !bit });
            }
            None => {
                let group = if on { Group::MaskClear } else { Group::MaskSet };
                self.distributor.set(group, intid);
            }
        }
    }

    pub(in crate::host) fn enable(&self, intid: IntId) {
        self.set_enabled(intid, true);
    }

    pub(in crate::host) fn is_enabled(&self, intid: IntId) -> bool {
        match guest_timer(intid) {
            Some(bit) => registers::read_guest_timers() & bit != 0,
            None => !self.distributor.get(Group::MaskSet, intid),
        }
    }

    pub(in crate::host) fn set_active(&self, intid: IntId) {
        self.set_enabled(intid, false);
    }

    pub(in crate::host) fn clear_active(&self, intid: IntId) {
        self.set_enabled(intid, true);
    }

    pub(in crate::host) fn is_active(&self, intid: IntId) -> bool {
        !self.is_enabled(intid)
    }

    pub(in crate::host) fn set_pending(&self, intid: IntId) {
        self.distributor.set(Group::SoftwareSet, intid);
    }

    pub(in crate::host) fn clear_pending(&self, intid: IntId) {
        self.distributor.set(Group::SoftwareClear, intid);
    }

    pub(in crate::host) fn is_pending(&self, intid: IntId) -> bool {
        match intid {
            VIRTUAL_TIMER => is_due(registers::read_virtual_timer()),
            PHYSICAL_TIMER => is_due(registers::read_physical_timer()),
            HYPERVISOR_TIMER => is_due(registers::read_hypervisor_timer()),
            _ => self.distributor.get(Group::State, intid),
        }
    }

    /// All interrupts are equal.
    pub(in crate::host) fn set_priority(&self, _: IntId, _: u8) {}

    /// Inputs are levels.
    pub(in crate::host) fn set_trigger(&self, _: IntId, _: Trigger) {}
}

/// The bit of a guest's timer in `VM_TMR_FIQ_ENA`.
const fn guest_timer(intid: IntId) -> Option<u64> {
    match intid {
        VIRTUAL_TIMER => Some(GUEST_VIRTUAL),
        PHYSICAL_TIMER => Some(GUEST_PHYSICAL),
        _ => None,
    }
}

list_registers_by_ich!(Cpu, |cpu, physical| {
    let intid = IntId::new(physical);
    cpu.bank(intid).set_enabled(intid, true)
});

impl InterfaceState for &Cpu {
    fn control(&mut self) -> u64 {
        system::read_ich_vmcr()
    }

    fn set_control(&mut self, value: u64) {
        system::write_ich_vmcr(value);
    }

    fn active_priorities(&mut self, group: interface::Group, number: usize) -> u32 {
        let value = match group {
            interface::Group::Zero => system::read_ich_ap0r(number),
            interface::Group::One => system::read_ich_ap1r(number),
        };
        value as u32
    }

    fn set_active_priorities(&mut self, group: interface::Group, number: usize, value: u32) {
        match group {
            interface::Group::Zero => system::write_ich_ap0r(number, value.into()),
            interface::Group::One => system::write_ich_ap1r(number, value.into()),
        }
    }

    fn preemption_bits(&self) -> u32 {
        self.ich.preemption_bits().into()
    }

    fn count_end_outside(&mut self) {
        self.ich.count_end_outside();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serror_fault_is_known_by_the_kind_of_cpu() {
        for (main_id, expected) in [
            (0x611f_0221, true),  // M1, efficient
            (0x611f_0231, true),  // M1, fast
            (0x611f_0391, true),  // M2 Max
            (0x611f_0421, false), // M3
            (0x410f_d083, false), // Cortex-A72
            (0x410f_0221, false),
        ] {
            assert_eq!(has_serror_fault(main_id), expected, "{main_id:#x}");
        }
    }
}
