//! From an input or an SGI to the guest's acknowledgement and back.

use super::*;

#[test]
fn a_level_interrupt_is_delivered_until_its_line_falls() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        assert_eq!(machine.acknowledge(V0), Some(40));
        machine.end(V0, 40);
        assert_eq!(machine.acknowledge(V0), Some(40), "{version:?}: the line is still high");
        machine.level(spi(40), false);
        assert!(
            !machine.cpus[0].holding(40).unwrap().eoi_maintenance,
            "the end needs no exit any more"
        );
        machine.end(V0, 40);
        assert_eq!(machine.acknowledge(V0), None);
    }
}

#[test]
fn a_line_that_falls_before_the_acknowledgement_is_not_delivered() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        machine.level(spi(40), false);
        assert_eq!(machine.acknowledge(V0), None, "{version:?}");
    }
}

#[test]
fn an_edge_is_delivered_once_and_again_for_an_edge_while_active() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.set_up(41, V0);
        machine.set_edge(41, true);
        for level in [true, false, true, false] {
            machine.level(spi(41), level);
        }
        assert_eq!(machine.acknowledge(V0), Some(41));
        machine.level(spi(41), true);
        machine.end(V0, 41);
        assert_eq!(machine.acknowledge(V0), Some(41));
        machine.end(V0, 41);
        assert_eq!(machine.acknowledge(V0), None, "{version:?}: a high level is no edge");
    }
}

#[test]
fn a_disabled_interrupt_waits_for_its_enable() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.route(40, V0);
        machine.level(spi(40), true);
        assert_eq!(machine.acknowledge(V0), None);
        machine.enable(V0, 40);
        assert_eq!(machine.cpus[0].used(), [40]);
        machine.disable(V0, 40);
        assert_eq!(machine.cpus[0].used(), [], "{version:?}: pulled out of its list register");
        machine.enable(V0, 40);
        assert_eq!(machine.acknowledge(V0), Some(40));
    }
}

#[test]
fn disabling_an_active_interrupt_leaves_it_to_be_ended() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        assert_eq!(machine.acknowledge(V0), Some(40));
        machine.disable(V0, 40);
        assert!(machine.cpus[0].holding(40).unwrap().state.active);
        machine.end(V0, 40);
        assert_eq!(machine.cpus[0].missed, 0);
        assert_eq!(machine.read(V0, ISACTIVER + 4), 0);
        assert_eq!(machine.acknowledge(V0), None);
        machine.enable(V0, 40);
        assert_eq!(machine.acknowledge(V0), Some(40));
    }
}

#[test]
fn nothing_is_forwarded_while_the_distributor_is_off() {
    for version in BOTH {
        let mut machine = Machine::new(version, 2, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        machine.enable(V1, 2);
        machine.send_sgi(V0, 0b10, 2);
        assert_eq!((machine.acknowledge(V0), machine.acknowledge(V1)), (None, None));
        machine.write(V0, CTLR, 0b11);
        assert_eq!(machine.cpus[0].used(), [40]);
        machine.write(V0, CTLR, 0);
        assert_eq!(machine.cpus[0].used(), [], "{version:?}");
        machine.write(V0, CTLR, 0b11);
        assert_eq!((machine.acknowledge(V0), machine.acknowledge(V1)), (Some(40), Some(2)));
    }
}

#[test]
fn a_group_is_forwarded_only_if_enabled() {
    for version in BOTH {
        let mut machine = Machine::new(version, 1, 4);
        for intid in [40, 41] {
            machine.set_up(intid, V0);
            machine.level(spi(intid), true);
        }
        machine.write(V0, IGROUPR + 4, 1 << 9);
        machine.write(V0, CTLR, 0b10);
        assert_eq!(machine.cpus[0].used(), [41], "{version:?}");
        assert!(machine.cpus[0].holding(41).unwrap().group1);
        machine.write(V0, CTLR, 0b01);
        assert_eq!(machine.cpus[0].used(), [40]);
        assert!(!machine.cpus[0].holding(40).unwrap().group1);
        machine.write(V0, IGROUPR + 4, 0);
        assert_eq!(machine.cpus[0].used(), [40, 41]);
    }
}

#[test]
fn sgi_from_two_senders_is_delivered_twice() {
    let mut machine = Machine::started(Version::V2, 4, 4);
    let v2 = VcpuIndex::new(2);
    machine.send_sgi(V1, 0b0001, 3);
    machine.send_sgi(v2, 0b0001, 3);
    machine.send_sgi(v2, 0b0001, 3);
    let mut sources = Vec::new();
    while let Some((intid, source)) = machine.cpus[0].acknowledge() {
        assert_eq!(intid.get(), 3);
        sources.push(source);
        machine.end_from(V0, 3, source);
    }
    sources.sort_unstable();
    assert_eq!(sources, [1, 2]);
}

#[test]
fn an_sgi_sent_while_active_is_delivered_after_its_end() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.enable(V0, 5);
        machine.send_sgi(V0, 1, 5);
        assert_eq!(machine.acknowledge(V0), Some(5));
        machine.send_sgi(V0, 1, 5);
        assert_eq!(machine.acknowledge(V0), None);
        machine.end(V0, 5);
        assert_eq!(machine.acknowledge(V0), Some(5), "{version:?}");
        machine.end(V0, 5);
        assert_eq!(machine.acknowledge(V0), None);
    }
}

#[test]
fn an_sgi_to_self_costs_one_read_and_one_write_of_list_registers() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.enable(V0, 5);
        for round in 0..3 {
            (machine.cpus[0].reads, machine.cpus[0].writes) = (0, 0);
            machine.send_sgi(V0, 1, 5);
            assert!(
                machine.cpus[0].reads <= 1 && machine.cpus[0].writes <= 1,
                "{version:?} round {round}"
            );
            assert_eq!(machine.acknowledge(V0), Some(5));
            machine.end(V0, 5);
        }
    }
}

#[test]
fn sgi1r_reaches_those_it_names() {
    let affinities: Vec<_> = (0..34u8).map(|n| Affinity::new(0, 0, n / 17, n % 17)).collect();
    let config = Config {
        version: Version::V3,
        vcpus: &affinities,
        spis: 32,
        priority_bits: 5,
        hardware_deactivation: true,
    };
    let reach = |value: u64| {
        let mut vgic = Vgic::new(&config).unwrap();
        let _ = vgic.write(Frame::Distributor, V0, CTLR, Width::Word, 0b10);
        for n in 0..34 {
            let frame = Frame::Redistributor(VcpuIndex::new(n));
            let _ = vgic.write(frame, V0, SGI_BASE + ISENABLER, Width::Word, 0xffff);
        }
        vgic.write_sgi1r(V1, value).kick.bits()
    };
    for (name, value, expected) in [
        ("target list", 0x0000_0000_0300_0005, 0b101),
        ("Aff1", 0x0000_0000_0301_0003, 0b11 << 17),
        ("range selector", 0x0000_1000_0300_0001, 1 << 16),
        ("nobody there", 0x0000_1000_0300_0002, 0),
        ("wrong Aff2", 0x0000_0001_0300_0001, 0),
        ("wrong Aff3", 0x0001_0000_0300_0001, 0),
        ("all others", 0x0000_0100_0300_0000, 0x3_ffff_fffd),
    ] {
        assert_eq!(reach(value), expected, "{name}");
    }
}

#[test]
fn sgi0r_makes_only_group_0_pending() {
    let mut machine = Machine::started(Version::V3, 1, 4);
    machine.write(V0, ISENABLER, 0xffff);
    machine.write(V0, IGROUPR, !1);
    let send = |machine: &mut Machine, sgi: u64| {
        let value = sgi << 24 | 1;
        let mut effects = machine.vgic.write_sgi0r(V0, value);
        effects.merge(machine.vgic.write_asgi1r(V0, value));
        machine.apply(effects);
    };
    send(&mut machine, 1);
    assert_eq!(machine.acknowledge(V0), None);
    send(&mut machine, 0);
    assert_eq!(machine.acknowledge(V0), Some(0));
}

#[test]
fn more_interrupts_than_list_registers_come_by_priority() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        for n in 0..20 {
            machine.set_up(32 + n, V0);
            machine.set_edge(32 + n, true);
            machine.set_priority(V0, 32 + n, (8 * (n * 7 % 20)) as u8);
        }
        for n in 0..20 {
            machine.level(spi(32 + n), true);
        }
        assert!(machine.cpus[0].underflow);
        let mut last = 0;
        for _ in 0..20 {
            let priority = machine.cpus[0].best().unwrap().priority;
            assert!(priority >= last, "{version:?}: {priority:#x} after {last:#x}");
            last = priority;
            let intid = machine.acknowledge(V0).unwrap();
            machine.end(V0, intid);
        }
        assert_eq!(machine.acknowledge(V0), None);
        assert!(!machine.cpus[0].underflow);
    }
}

#[test]
fn an_urgent_latecomer_displaces_a_pending_interrupt() {
    let mut machine = Machine::started(Version::V3, 1, 2);
    for (intid, priority) in [(32, 0x80), (33, 0x90), (34, 0x10)] {
        machine.set_up(intid, V0);
        machine.set_priority(V0, intid, priority);
        machine.level(spi(intid), true);
    }
    assert_eq!(machine.cpus[0].used(), [32, 34]);
    assert_eq!(machine.acknowledge(V0), Some(34));
}

#[test]
fn an_interrupt_that_has_become_urgent_while_it_waits_displaces_another() {
    let mut machine = Machine::started(Version::V3, 1, 2);
    for (intid, priority) in [(32, 0x20), (33, 0x30), (34, 0x40)] {
        machine.set_up(intid, V0);
        machine.set_priority(V0, intid, priority);
        machine.level(spi(intid), true);
    }
    machine.set_priority(V0, 34, 0);
    assert_eq!(machine.acknowledge(V0), Some(34));
}

#[test]
fn an_ended_interrupt_does_not_come_again_before_a_more_urgent_one_that_waits() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 2);
        machine.cpus[0].split = true;
        for (intid, priority) in [(32, 0x80), (33, 0x20), (34, 0x30)] {
            machine.set_up(intid, V0);
            machine.set_priority(V0, intid, priority);
        }
        machine.level(spi(32), true);
        assert_eq!(machine.acknowledge(V0), Some(32));
        machine.cpus[0].priority_drop();
        machine.level(spi(33), true);
        assert_eq!(machine.acknowledge(V0), Some(33));
        machine.level(spi(34), true);
        machine.cpus[0].deactivate_virtual(IntId::new(32), 0);
        machine.maintain();
        machine.cpus[0].priority_drop();
        assert_eq!(
            machine.acknowledge(V0),
            Some(34),
            "{version:?}: the line of 32 is high, but less urgent"
        );
    }
}

#[test]
fn list_registers_full_of_active_interrupts_make_no_storm_and_lose_nothing() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 2);
        machine.cpus[0].split = true;
        for intid in [32, 33] {
            machine.set_up(intid, V0);
            machine.set_edge(intid, true);
            machine.level(spi(intid), true);
            assert_eq!(machine.acknowledge(V0), Some(intid));
            machine.cpus[0].priority_drop();
        }
        machine.set_up(34, V0);
        machine.set_edge(34, true);
        machine.level(spi(34), true);
        assert!(!machine.cpus[0].maintenance(), "{version:?}: nothing to do now");
        machine.cpus[0].deactivate_virtual(IntId::new(32), 0);
        machine.maintain();
        assert_eq!(machine.acknowledge(V0), Some(34));
    }
}

#[test]
fn a_pending_interrupt_follows_its_route_and_an_active_one_stays() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.set_up(40, V0);
        machine.level(spi(40), true);
        machine.route(40, V1);
        assert_eq!(
            (machine.cpus[0].used(), machine.cpus[1].used()),
            (vec![], vec![40]),
            "{version:?}"
        );
        assert_eq!(machine.acknowledge(V1), Some(40));
        machine.route(40, V0);
        assert_eq!((machine.cpus[0].used(), machine.cpus[1].used()), (vec![], vec![40]));
        machine.end(V1, 40);
        assert_eq!(machine.acknowledge(V0), Some(40), "{version:?}: the line is high");
    }
}

#[test]
fn priority_changes_reach_a_pending_interrupt() {
    let mut machine = Machine::started(Version::V3, 1, 4);
    machine.set_up(40, V0);
    machine.level(spi(40), true);
    machine.set_priority(V0, 40, 0x37);
    assert_eq!(machine.cpus[0].holding(40).unwrap().priority, 0x30, "five bits");
}

#[test]
fn a_switch_of_vcpus_keeps_pending_and_active_state() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.enable(V0, 1);
        machine.send_sgi(V1, 1, 1);
        machine.switch(V0);
        let (intid, source) = machine.cpus[0].acknowledge().unwrap();
        assert_eq!((intid.get(), source), (1, if version == Version::V2 { 1 } else { 0 }));
        machine.send_sgi(V1, 1, 1);
        machine.switch(V0);
        machine.end_from(V0, 1, source);
        assert_eq!(machine.cpus[0].missed, 0);
        assert_eq!(machine.acknowledge(V0), Some(1));
    }
}

#[test]
fn wfi_returns_for_what_is_more_urgent_than_the_mask() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.set_up(40, V0);
        machine.set_priority(V0, 40, 0x80);
        assert!(!machine.vgic.has_deliverable(V0, 0xff));
        machine.level(spi(40), true);
        let _ = machine.vgic.fold(V0, &mut machine.cpus[0]);
        assert!(machine.vgic.has_deliverable(V0, 0x88), "{version:?}");
        assert!(!machine.vgic.has_deliverable(V0, 0x80));
        assert!(!machine.vgic.has_deliverable(V1, 0xff));
        machine.apply(Effects { kick: VcpuSet::only(V0) });
        assert_eq!(machine.acknowledge(V0), Some(40));
        let _ = machine.vgic.fold(V0, &mut machine.cpus[0]);
        assert!(!machine.vgic.has_deliverable(V0, 0xff), "an active one is no reason");
    }
}

#[test]
fn resetting_a_vcpu_forgets_its_interrupts_and_frees_what_it_held() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.set_up(40, V1);
        machine.enable(V1, 1);
        machine.send_sgi(V0, 0b10, 1);
        machine.level(spi(40), true);
        let intid = machine.acknowledge(V1).unwrap();
        assert_eq!(intid, 1, "the lower number of the same priority");
        machine.cpus[1].priority_drop();
        let effects = machine.vgic.reset_vcpu(V1, &mut machine.cpus[1]);
        assert_eq!(effects.others(V1), VcpuSet::EMPTY);
        machine.apply(Effects { kick: VcpuSet::only(V1) });
        assert_eq!(
            machine.cpus[1].used(),
            [40],
            "{version:?}: the shared interrupt is still pending"
        );
        assert_eq!(machine.read(V1, ISACTIVER), 0);
    }
}

#[test]
fn reset_returns_everything_but_the_inputs_to_the_start() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.set_up(40, V1);
        machine.level(spi(40), true);
        machine.send_sgi(V1, 0b01, 1);
        for n in 0..2 {
            let _ = machine.vgic.fold(VcpuIndex::new(n), &mut machine.cpus[n]);
            machine.vgic.unloaded(VcpuIndex::new(n));
        }
        machine.vgic.reset(|_| panic!("nothing physical is active"));
        for n in 0..2 {
            machine.vgic.loaded(VcpuIndex::new(n));
            assert!(!machine.vgic.needs_update(VcpuIndex::new(n)));
        }
        assert_eq!(machine.read(V0, CTLR) & 0b11, 0);
        assert_eq!(machine.read(V0, ISENABLER + 4), 0);
        assert_eq!(machine.read(V0, ISPENDR + 4), 1 << 8, "{version:?}: the line is an input");
        assert_eq!(machine.read(V0, ISPENDR), 0);
    }
}

#[test]
fn preemption_goes_deeper_than_there_are_list_registers() {
    const PHYSICAL: u32 = 100;
    for version in BOTH {
        for list_registers in [1, 2, 4] {
            let mut machine = Machine::started(version, 1, list_registers);
            let interrupts: Vec<u32> = (32..47).collect();
            for (depth, &intid) in interrupts.iter().enumerate() {
                machine.set_up(intid, V0);
                machine.set_priority(V0, intid, 0xe0 - 0x10 * depth as u8);
                if depth % 3 == 0 {
                    machine.vgic.link_physical(spi(intid), intid + PHYSICAL);
                    machine.cpus[0].physical.insert(intid + PHYSICAL);
                }
                machine.level(spi(intid), true);
                assert_eq!(machine.acknowledge(V0), Some(intid), "{version:?}");
                machine.level(spi(intid), false);
            }
            assert!(machine.cpus[0].end_outside_maintenance);
            machine.switch(V0);
            for &intid in interrupts.iter().rev() {
                assert_eq!(machine.read(V0, ISACTIVER + 4) >> (intid - 32), 1, "{version:?}");
                let cpu = &mut machine.cpus[0];
                cpu.priority_drop();
                cpu.deactivate_virtual(IntId::new(intid), 0);
                if intid % 2 == 0 {
                    machine.maintain();
                }
                assert_eq!(machine.read(V0, ISACTIVER + 4) >> (intid - 32), 0, "{version:?}");
                let active = machine.cpus[0].physical.contains(&(intid + PHYSICAL));
                assert!(!active, "{version:?}: {intid} physically active");
            }
            assert!(machine.cpus[0].physical.is_empty());
            assert!(!machine.cpus[0].end_outside_maintenance, "{version:?}");
        }
    }
}

#[test]
fn an_end_that_was_counted_before_any_eviction_ends_nothing() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 1);
        for (intid, priority) in [(32, 0x80), (33, 0x20)] {
            machine.set_up(intid, V0);
            machine.set_edge(intid, true);
            machine.set_priority(V0, intid, priority);
        }
        machine.level(spi(32), true);
        assert_eq!(machine.acknowledge(V0), Some(32));
        machine.cpus[0].deactivate_virtual(IntId::new(40), 0);
        machine.level(spi(33), true);
        assert_eq!(machine.acknowledge(V0), Some(33));
        assert_eq!(machine.read(V0, ISACTIVER + 4), 0b11, "{version:?}");
    }
}

#[test]
fn a_priority_changed_while_active_counts_from_the_next_acknowledgement_on() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 2);
        for (intid, priority) in [(32, 0x80), (33, 0x60), (34, 0x40), (35, 0x20)] {
            machine.set_up(intid, V0);
            machine.set_edge(intid, true);
            machine.set_priority(V0, intid, priority);
            machine.level(spi(intid), true);
            assert_eq!(machine.acknowledge(V0), Some(intid));
            machine.level(spi(intid), false);
        }
        machine.set_priority(V0, 32, 0x00);
        machine.set_priority(V0, 34, 0xf0);
        for intid in [35, 34, 33, 32] {
            machine.end(V0, intid);
            let left = (1 << (intid - 32)) - 1;
            assert_eq!(machine.read(V0, ISACTIVER + 4), left, "{version:?}: the end of {intid}");
        }
    }
}
