//! Virtual interrupts with physical ones behind them.

use super::*;

const TIMER: u32 = 27;

fn with_timer(version: Version, hardware_deactivation: bool) -> Machine {
    let mut machine = Machine::with(version, 2, 4, hardware_deactivation);
    machine.write(V0, CTLR, 0b11);
    for vcpu in [V0, V1] {
        machine.vgic.link_physical(ppi(vcpu, TIMER), TIMER);
    }
    machine
}

fn fire(machine: &mut Machine, line: Line, cpu: usize, physical: u32) {
    assert!(machine.cpus[cpu].physical.insert(physical), "an active interrupt doesn't fire");
    let effects = machine.vgic.inject_linked(line);
    machine.apply(effects);
}

#[test]
fn the_guests_end_deactivates_the_physical_interrupt_without_an_exit() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        machine.enable(V0, TIMER);
        for _ in 0..3 {
            fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
            assert_eq!(machine.cpus[0].holding(TIMER).unwrap().physical, Some(TIMER));
            assert!(machine.vgic.is_physical_active(ppi(V0, TIMER)));
            assert_eq!(machine.acknowledge(V0), Some(TIMER));
            machine.cpus[0].priority_drop();
            machine.cpus[0].deactivate_virtual(IntId::new(TIMER), 0);
            assert!(
                machine.cpus[0].physical.is_empty() && !machine.cpus[0].maintenance(),
                "{version:?}"
            );
        }
    }
}

#[test]
fn an_interrupt_that_comes_while_disabled_stays_active_until_the_guest_takes_it() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
        assert!(machine.cpus[0].physical.contains(&TIMER));
        machine.enable(V0, TIMER);
        machine.disable(V0, TIMER);
        assert!(machine.cpus[0].physical.contains(&TIMER), "{version:?}");
        machine.enable(V0, TIMER);
        assert_eq!(machine.acknowledge(V0), Some(TIMER));
        machine.disable(V0, TIMER);
        machine.end(V0, TIMER);
        assert!(
            machine.cpus[0].physical.is_empty(),
            "{version:?}: disabling an active interrupt orphans nothing"
        );
    }
}

#[test]
fn clearing_the_pending_state_gives_the_physical_interrupt_back() {
    for version in BOTH {
        for enabled in [false, true] {
            let mut machine = with_timer(version, true);
            if enabled {
                machine.enable(V0, TIMER);
            }
            fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
            machine.write(V0, ICPENDR, 1 << TIMER);
            assert!(machine.cpus[0].physical.is_empty(), "{version:?} {enabled}");
            assert!(!machine.vgic.is_physical_active(ppi(V0, TIMER)));
            assert_eq!(machine.acknowledge(V0), None);
        }
    }
}

#[test]
fn clearing_the_active_state_gives_the_physical_interrupt_back() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        machine.enable(V0, TIMER);
        fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
        assert_eq!(machine.acknowledge(V0), Some(TIMER));
        machine.write(V0, ICACTIVER, 1 << TIMER);
        assert!(machine.cpus[0].physical.is_empty(), "{version:?}");
        assert_eq!(machine.cpus[0].used(), []);
    }
}

#[test]
fn a_timer_that_is_stopped_before_the_guest_looks_withdraws_its_interrupt() {
    let mut machine = with_timer(Version::V3, true);
    machine.enable(V0, TIMER);
    fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
    machine.level(ppi(V0, TIMER), false);
    assert!(machine.cpus[0].physical.is_empty());
    assert_eq!(machine.acknowledge(V0), None);
    fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
    assert_eq!(machine.acknowledge(V0), Some(TIMER));
    machine.level(ppi(V0, TIMER), false);
    assert!(machine.cpus[0].physical.contains(&TIMER), "an acknowledged one is the guest's to end");
    machine.end(V0, TIMER);
    assert!(machine.cpus[0].physical.is_empty());
}

#[test]
fn without_hardware_help_the_end_is_seen_by_maintenance() {
    let mut machine = with_timer(Version::V3, false);
    machine.enable(V0, TIMER);
    for _ in 0..3 {
        fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
        let listed = machine.cpus[0].holding(TIMER).unwrap();
        assert!(listed.physical.is_none() && listed.eoi_maintenance);
        assert_eq!(machine.acknowledge(V0), Some(TIMER));
        machine.switch(V0);
        machine.end(V0, TIMER);
        assert!(machine.cpus[0].physical.is_empty());
        assert_eq!(machine.acknowledge(V0), None);
    }
}

#[test]
fn software_pending_of_a_linked_interrupt_touches_nothing_physical() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        machine.enable(V0, TIMER);
        machine.write(V0, ISPENDR, 1 << TIMER);
        assert_eq!(machine.cpus[0].holding(TIMER).unwrap().physical, None);
        assert_eq!(machine.acknowledge(V0), Some(TIMER));
        // Now the timer fires as well, and the guest has two to end.
        fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
        machine.end(V0, TIMER);
        assert_eq!(machine.acknowledge(V0), Some(TIMER), "{version:?}");
        machine.end(V0, TIMER);
        assert!(machine.cpus[0].physical.is_empty());
    }
}

#[test]
fn a_shared_physical_interrupt_follows_the_guests_routing() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        machine.set_up(50, V1);
        machine.vgic.link_physical(spi(50), 150);
        fire(&mut machine, spi(50), 1, 150);
        assert_eq!(machine.cpus[1].holding(50).unwrap().physical, Some(150));
        assert_eq!(machine.acknowledge(V1), Some(50));
        machine.switch(V1);
        machine.end(V1, 50);
        assert!(machine.cpus[1].physical.is_empty(), "{version:?}");
    }
}

#[test]
fn reset_gives_back_what_is_physically_active() {
    let mut machine = with_timer(Version::V3, true);
    machine.set_up(50, V0);
    machine.vgic.link_physical(spi(50), 150);
    fire(&mut machine, spi(50), 0, 150);
    assert_eq!(machine.acknowledge(V0), Some(50));
    for vcpu in [V0, V1] {
        let _ = machine.vgic.fold(vcpu, &mut machine.cpus[vcpu.get()]);
        machine.vgic.unloaded(vcpu);
    }
    let mut deactivated = Vec::new();
    machine.vgic.reset(|physical| deactivated.push(physical));
    assert_eq!(deactivated, [150]);
    assert!(!machine.vgic.is_physical_active(spi(50)));
}

#[test]
fn resetting_a_vcpu_gives_its_timer_back() {
    let mut machine = with_timer(Version::V2, true);
    machine.enable(V1, TIMER);
    fire(&mut machine, ppi(V1, TIMER), 1, TIMER);
    assert_eq!(machine.acknowledge(V1), Some(TIMER));
    let _ = machine.vgic.reset_vcpu(V1, &mut machine.cpus[1]);
    assert!(machine.cpus[1].physical.is_empty());
    machine.cpus[1].priority_drop();
    machine.apply(Effects { kick: VcpuSet::only(V1) });
    machine.enable(V1, TIMER);
    fire(&mut machine, ppi(V1, TIMER), 1, TIMER);
    assert_eq!(machine.acknowledge(V1), Some(TIMER));
}

#[test]
fn the_physical_state_of_a_timer_moves_with_its_vcpu() {
    for version in BOTH {
        let mut machine = with_timer(version, true);
        machine.enable(V0, TIMER);
        fire(&mut machine, ppi(V0, TIMER), 0, TIMER);
        assert_eq!(machine.acknowledge(V0), Some(TIMER));
        let _ = machine.vgic.fold(V0, &mut machine.cpus[0]);
        machine.vgic.unloaded(V0);
        assert!(machine.vgic.is_physical_active(ppi(V0, TIMER)));
        machine.cpus[0].physical.clear();
        // The guest, on another vCPU, deactivates it; nothing physical is active that could be.
        if version == Version::V3 {
            let frame = Frame::Redistributor(V0);
            let _ = machine.vgic.write(frame, V1, SGI_BASE + ICACTIVER, Width::Word, 1 << TIMER);
            assert!(!machine.vgic.is_physical_active(ppi(V0, TIMER)));
        }
        machine.vgic.loaded(V0);
        if machine.vgic.is_physical_active(ppi(V0, TIMER)) {
            machine.cpus[0].physical.insert(TIMER);
        }
        let effects = machine.vgic.fill(V0, &mut machine.cpus[0]);
        machine.apply(effects);
        machine.end(V0, TIMER);
        assert!(machine.cpus[0].physical.is_empty(), "{version:?}");
    }
}

#[test]
fn a_line_that_falls_in_the_handler_costs_one_read_and_one_write() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        assert_eq!(machine.acknowledge(V0), Some(40));
        (machine.cpus[0].reads, machine.cpus[0].writes) = (0, 0);
        machine.level(spi(40), false);
        assert_eq!((machine.cpus[0].reads, machine.cpus[0].writes), (1, 1), "{version:?}");
        assert_eq!(machine.read(V0, ISACTIVER + 4), 1 << 8);
    }
}
