//! Reads of state that lies in the list registers of running vCPUs.

use super::*;

const STATE: u64 = ISACTIVER + 4;

fn read(machine: &mut Machine, vcpu: VcpuIndex, offset: u64) -> Read {
    machine.vgic.read(Frame::Distributor, vcpu, offset, Width::Word)
}

fn running(version: Version) -> Machine {
    let mut machine = Machine::started(version, 2, 4);
    for (intid, vcpu) in [(40, V0), (41, V1)] {
        machine.set_up(intid, vcpu);
        machine.level(spi(intid), true);
        assert_eq!(machine.acknowledge(vcpu), Some(intid));
    }
    machine
}

#[test]
fn active_state_is_exact_across_vcpus() {
    for version in BOTH {
        let mut machine = running(version);
        assert_eq!(machine.read(V0, STATE), 0b11 << 8);
        machine.level(spi(41), false);
        machine.end(V1, 41);
        assert_eq!(machine.read(V0, STATE), 1 << 8, "{version:?}");
        assert_eq!(machine.read(V1, STATE), 1 << 8);
        assert_eq!(machine.read(V0, ISPENDR + 4), 1 << 8, "its line is high");
    }
}

#[test]
fn a_read_is_answered_although_the_other_vcpu_fills_again() {
    let mut machine = running(Version::V3);
    assert_eq!(read(&mut machine, V0, STATE), Read::Retry(VcpuSet::from_bits(0b11)));
    let _ = machine.vgic.fold(V0, &mut machine.cpus[0]);
    assert!(machine.vgic.needs_update(V1), "asked to fold");
    let _ = machine.vgic.fill(V1, &mut machine.cpus[1]);
    assert_eq!(machine.cpus[1].used(), [41], "and filled again");
    assert_eq!(read(&mut machine, V0, STATE), Read::Value(0b11 << 8));
    assert_eq!(
        read(&mut machine, V0, STATE),
        Read::Retry(VcpuSet::from_bits(0b10)),
        "each read asks anew"
    );
}

#[test]
fn an_answer_is_used_once_even_if_the_repeated_read_needs_none() {
    let ask = Read::Retry(VcpuSet::only(V1));
    let mut machine = Machine::started(Version::V3, 2, 4);
    machine.set_up(41, V1);
    machine.level(spi(41), true);
    assert_eq!(machine.acknowledge(V1), Some(41));
    machine.level(spi(41), false);
    assert_eq!(read(&mut machine, V0, STATE), ask);
    machine.end(V1, 41);
    machine.apply(Effects { kick: VcpuSet::only(V1) });
    assert_eq!(read(&mut machine, V0, STATE), Read::Value(0));
    machine.level(spi(41), true);
    assert_eq!(machine.acknowledge(V1), Some(41));
    assert_eq!(read(&mut machine, V0, STATE), ask);
}

#[test]
fn two_vcpus_that_ask_about_each_other_both_get_on() {
    let mut machine = running(Version::V2);
    let mut values = [None, None];
    let mut rounds = 0;
    while values.contains(&None) {
        rounds += 1;
        assert!(rounds < 10, "livelock");
        // Each executes its read, exits, does what it is told, and enters again.
        for vcpu in [V0, V1] {
            if values[vcpu.get()].is_some() {
                continue;
            }
            loop {
                match read(&mut machine, vcpu, STATE) {
                    Read::Value(value) => values[vcpu.get()] = Some(value),
                    Read::Retry(set) if set.contains(vcpu) => {
                        let _ = machine.vgic.fold(vcpu, &mut machine.cpus[vcpu.get()]);
                        continue;
                    }
                    Read::Retry(_) => {}
                }
                break;
            }
        }
        for vcpu in [V0, V1] {
            let _ = machine.vgic.fill(vcpu, &mut machine.cpus[vcpu.get()]);
        }
    }
    assert_eq!(values, [Some(0b11 << 8); 2]);
}

#[test]
fn a_vcpu_that_has_left_its_cpu_is_not_waited_for() {
    let mut machine = running(Version::V3);
    let _ = machine.vgic.fold(V1, &mut machine.cpus[1]);
    machine.vgic.unloaded(V1);
    let _ = machine.vgic.fold(V0, &mut machine.cpus[0]);
    assert_eq!(read(&mut machine, V0, STATE), Read::Value(0b11 << 8));
}

#[test]
fn other_registers_are_answered_at_once() {
    let mut machine = running(Version::V3);
    for offset in [
        CTLR,
        4,
        8,
        IGROUPR + 4,
        ISENABLER + 4,
        ICENABLER + 4,
        IPRIORITYR + 40,
        ICFGR + 8,
        ISACTIVER + 8,
    ] {
        assert!(matches!(read(&mut machine, V0, offset), Read::Value(_)), "{offset:#x}");
    }
}

#[test]
fn a_disable_is_pending_until_the_other_vcpu_has_noticed() {
    const RWP: u64 = 1 << 31;
    let mut machine = running(Version::V3);
    assert_eq!(machine.read(V0, CTLR) & RWP, 0);
    let effects = machine.vgic.write(Frame::Distributor, V0, ICENABLER + 4, Width::Word, 1 << 9);
    assert_eq!(effects.kick, VcpuSet::only(V1));
    assert_eq!(machine.read(V0, CTLR) & RWP, RWP);
    machine.apply(effects);
    assert_eq!(machine.read(V0, CTLR) & RWP, 0);
}

#[test]
fn pending_senders_of_an_sgi_are_exact() {
    let mut machine = Machine::started(Version::V2, 2, 4);
    machine.send_sgi(V1, 0b01, 6);
    const SPENDSGIR: u64 = 0xf20;
    const CPENDSGIR: u64 = 0xf10;
    assert_eq!(machine.read_sized(V0, SPENDSGIR + 6, Width::Byte), 0b10);
    assert_eq!(machine.read(V0, SPENDSGIR + 4), 0b10 << 16);
    assert_eq!(machine.cpus[0].used(), [6]);
    machine.write_sized(V0, CPENDSGIR + 6, Width::Byte, 0b10);
    assert_eq!(machine.acknowledge(V0), None);
    machine.write(V0, SPENDSGIR + 4, 0b11 << 16);
    assert_eq!(machine.cpus[0].used(), [6]);
    machine.write(V0, CPENDSGIR + 4, 0b01 << 16);
    assert_eq!(machine.cpus[0].acknowledge(), Some((IntId::new(6), 1)));
}
