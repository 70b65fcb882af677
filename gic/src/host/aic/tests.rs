//! The driver over pages of memory that stand for the AIC, and variables for Apple's system registers.
#![allow(unsafe_code)]

use super::registers::implementation::with;
use super::*;
use crate::host::{Controller, CpuInterface};
use crate::{Affinity, ListRegisters};

const DUE: u64 = 0b101;
const DIE: usize = (0x800 + 5 * 0x40) << 2;

/// Memory for the registers, aligned as devices are.
#[repr(align(4096))]
struct Page([u32; 0x4000]);

struct Machine {
    registers: Box<Page>,
    event: Box<Page>,
    version: Version,
}

impl Machine {
    fn new(version: Version) -> Self {
        let page = || Box::new(Page([0; 0x4000]));
        let mut machine = Self { registers: page(), event: page(), version };
        match version {
            Version::V1 => {
                machine.set(0x4, 0x0038_0380);
                machine.set(0x2000, 3);
            }
            Version::V2 => {
                machine.set(0x4, 1 << 24 | 0x5a0);
                machine.set(0xc, 1 << 24 | 0x800);
            }
        }
        machine
    }

    fn set(&mut self, offset: usize, value: u32) {
        // SAFETY: a reference is valid to write; the driver reads behind the compiler's back.
        unsafe { std::ptr::write_volatile(&mut self.registers.0[offset / 4], value) };
    }

    fn get(&self, offset: usize) -> u32 {
        // SAFETY: a reference is valid to read.
        unsafe { std::ptr::read_volatile(&self.registers.0[offset / 4]) }
    }

    fn report(&mut self, event: u32) {
        match self.version {
            Version::V1 => self.set(0x2004, event),
            // SAFETY: as in `set`.
            Version::V2 => unsafe { std::ptr::write_volatile(&mut self.event.0[0], event) },
        }
    }

    fn controller(&mut self) -> (Distributor, CpuInterface) {
        let frames = Frames {
            version: self.version,
            registers: self.registers.0.as_mut_ptr().expose_provenance(),
            size: size_of::<Page>(),
            event: Some(self.event.0.as_mut_ptr().expose_provenance()),
        };
        // SAFETY: the pages live longer than the driver in each test.
        let distributor = unsafe { Distributor::new(&frames) }.unwrap();
        let controller = Controller::Aic(distributor);
        controller.init_distributor(Affinity::new(0, 0, 1, 2)).unwrap();
        (distributor, controller.init_cpu(Affinity::new(0, 0, 1, 2)).unwrap())
    }
}

fn acknowledged(cpu: &CpuInterface) -> Option<IntId> {
    cpu.acknowledge().map(|interrupt| interrupt.intid())
}

#[test]
fn every_input_is_masked_at_first() {
    let mut machine = Machine::new(Version::V1);
    machine.controller();
    assert_eq!((machine.get(0x4100), machine.get(0x417c)), (u32::MAX, u32::MAX), "MASK_SET");
    assert_eq!(machine.get(0x4180), 0, "MASK_CLR");
    assert_eq!(machine.get(0x2024), 0x8000_0001, "IPI_MASK_SET");

    let mut machine = Machine::new(Version::V2);
    machine.controller();
    assert_eq!(machine.get(0x14), 1, "CONFIG.ENABLE");
    let mask_set = 0x2000 + 0x2000 + 2 * 0x100;
    for offset in [mask_set, mask_set + 0xfc, mask_set + DIE] {
        assert_eq!(machine.get(offset), u32::MAX, "MASK_SET at {offset:#x}");
    }
    assert_eq!(machine.get(mask_set + 0x100), 0, "MASK_CLR");
}

#[test]
fn only_an_input_that_exists_can_be_claimed_and_always_gets_the_same_number() {
    let mut machine = Machine::new(Version::V2);
    let (distributor, _) = machine.controller();
    let first = distributor.claim(0, 0x59f).unwrap();
    let second = distributor.claim(1, 0x59f).unwrap();
    assert!(first != second && first.is_shared() && second.is_shared());
    assert_eq!(distributor.claim(0, 0x59f), Some(first));
    assert_eq!(distributor.claim(0, 0x5a0), None, "no such input");
    assert_eq!(distributor.claim(2, 0), None, "no such die");
    assert_eq!((0..100).filter_map(|n| distributor.claim(0, n)).count(), 62, "64 in all");
}

#[test]
fn an_input_is_reported_and_unmasked_when_it_is_deactivated() {
    for (version, word) in [
        (Version::V1, 0x4180 + 605 / 32 * 4),
        (Version::V2, 0x2000 + 0x2000 + 3 * 0x100 + 605 / 32 * 4),
    ] {
        let mut machine = Machine::new(version);
        let (distributor, cpu) = machine.controller();
        let uart = distributor.claim(0, 605).unwrap();
        cpu.enable(uart);
        assert_eq!(machine.get(word), 1 << (605 % 32), "{version:?}: MASK_CLR");
        machine.set(word, 0);
        machine.report(1 << 16 | 605);
        let interrupt = cpu.acknowledge().unwrap();
        assert_eq!(interrupt.intid(), uart);
        cpu.priority_drop(interrupt);
        assert_eq!(machine.get(word), 0);
        cpu.deactivate(interrupt);
        assert_eq!(machine.get(word), 1 << (605 % 32), "{version:?}: MASK_CLR again");
    }
}

#[test]
fn an_input_of_the_second_die_has_registers_of_its_own() {
    let mut machine = Machine::new(Version::V2);
    let (distributor, cpu) = machine.controller();
    let uart = distributor.claim(1, 33).unwrap();
    machine.report(1 << 24 | 1 << 16 | 33);
    assert_eq!(acknowledged(&cpu), Some(uart));
    cpu.enable(uart);
    assert_eq!(machine.get(0x2000 + DIE + 0x2000 + 3 * 0x100 + 4), 1 << 1);
}

#[test]
fn a_stray_input_is_left_masked_and_ends_the_search_in_the_end() {
    let mut machine = Machine::new(Version::V1);
    let (_, cpu) = machine.controller();
    // Memory does not forget the event, as the AIC does: the search has to end nevertheless.
    machine.report(1 << 16 | 7);
    assert_eq!(acknowledged(&cpu), None);
    assert_eq!(machine.get(0x4180), 0);
    machine.report(0);
    assert_eq!(acknowledged(&cpu), None);
}

#[test]
fn version_1_is_told_by_its_own_number_where_an_input_goes() {
    let mut machine = Machine::new(Version::V1);
    let (distributor, cpu) = machine.controller();
    let uart = distributor.claim(0, 605).unwrap();
    cpu.target_self(uart);
    assert_eq!(machine.get(0x3000 + 4 * 605), 1 << 3);
}

#[test]
fn a_kick_is_a_fast_ipi_and_clears_itself() {
    let mut machine = Machine::new(Version::V1);
    let (_, cpu) = machine.controller();
    with(|fake| fake.ipi_status.set(1));
    assert_eq!(acknowledged(&cpu), Some(KICK));
    assert_eq!(acknowledged(&cpu), None);
}

#[test]
fn a_kick_goes_to_a_neighbour_or_to_another_cluster() {
    let mut machine = Machine::new(Version::V1);
    let (_, cpu) = machine.controller();
    let target = |affinity: Affinity| crate::host::SgiTarget(affinity.mpidr());
    cpu.send_sgi(KICK, target(Affinity::new(0, 1, 1, 3)));
    assert_eq!(with(|fake| (fake.ipi_local.take(), fake.ipi_global.take())), (Some(3), None));
    cpu.send_sgi(KICK, target(Affinity::new(0, 0, 2, 1)));
    assert_eq!(
        with(|fake| (fake.ipi_local.take(), fake.ipi_global.take())),
        (None, Some(0x2_0001))
    );
}

#[test]
fn a_guests_timer_is_reported_once_until_it_is_deactivated() {
    let mut machine = Machine::new(Version::V1);
    let (_, cpu) = machine.controller();
    with(|fake| {
        fake.virtual_timer.set(DUE);
        fake.physical_timer.set(DUE);
    });
    assert_eq!(acknowledged(&cpu), None, "not enabled");
    cpu.enable(VIRTUAL_TIMER);
    cpu.enable(PHYSICAL_TIMER);
    assert_eq!(acknowledged(&cpu), Some(VIRTUAL_TIMER));
    assert_eq!(acknowledged(&cpu), Some(PHYSICAL_TIMER));
    assert_eq!(acknowledged(&cpu), None);
    assert!(cpu.is_active(VIRTUAL_TIMER) && cpu.is_pending(VIRTUAL_TIMER));
    // As the virtual controller does when the guest ends its interrupt.
    ListRegisters::deactivate(&mut &cpu, VIRTUAL_TIMER.get());
    assert_eq!(acknowledged(&cpu), Some(VIRTUAL_TIMER));
    with(|fake| fake.virtual_timer.set(DUE | 0b10));
    cpu.clear_active(VIRTUAL_TIMER);
    assert_eq!(acknowledged(&cpu), None, "the guest has masked it");
    assert!(!cpu.is_pending(VIRTUAL_TIMER));
}

#[test]
fn the_hypervisors_timer_is_due_as_long_as_it_says_so() {
    let mut machine = Machine::new(Version::V2);
    let (_, cpu) = machine.controller();
    with(|fake| fake.hypervisor_timer.set(DUE));
    assert_eq!(acknowledged(&cpu), Some(HYPERVISOR_TIMER));
    assert_eq!(acknowledged(&cpu), Some(HYPERVISOR_TIMER));
    with(|fake| fake.hypervisor_timer.set(0));
    assert_eq!(acknowledged(&cpu), None);
}
