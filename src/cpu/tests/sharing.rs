//! Several virtual CPUs on one host CPU.

use crate::config::{MachineConfig, VmConfig};
use crate::exit::{Exit, PowerRequest};
use crate::fake::vcpu::{Event, Op};
use crate::fake::world::{World, vm};
use crate::statistics::ExitKind;

/// Ticks of a slice.
const SLICE: u64 = 10;

fn weighted(name: &str, weight: u32) -> VmConfig {
    VmConfig { weight, ..vm(name, 1) }
}

fn loads(world: &World, vm: usize) -> u64 {
    let trace = world.vms[vm].machine.take_trace();
    trace.iter().filter(|event| matches!(event, Event::Load(_))).count() as u64
}

#[test]
fn three_virtual_cpus_share_a_host_cpu_by_weight() {
    let config =
        MachineConfig::new(vec![weighted("a", 512), weighted("b", 256), weighted("c", 128)]);
    // Each piece of work tells once that it has been done.
    let done = |op| [Op::Work(1), op, Op::Repeat];
    let count = Op::Store(0, 0);
    let code = done(count);
    let world = World::start(1, &config, &[(&[&code], &[]), (&[&code], &[]), (&[&code], &[])]);
    let mut received = [0u64; 3];
    let mut previous = 0;
    while world.host.now() < 7000 {
        world.step(0);
        let now = world.host.now();
        let ran: Vec<usize> = (0..3).filter(|vm| loads(&world, *vm) > 0).collect();
        assert_eq!(ran.len(), 1);
        received[ran[0]] += now - previous;
        assert!(now - previous <= 4 * SLICE, "{now} - {previous}");
        previous = now;
    }
    for (got, fair) in received.iter().zip([4000u64, 2000, 1000]) {
        assert!(got.abs_diff(fair) <= 4 * SLICE, "{received:?}");
    }
}

#[test]
fn a_lonely_virtual_cpu_is_not_interrupted() {
    let world = World::of_one(&[Op::Work(10_000)]);
    world.settle();
    assert_eq!(world.host.now(), 10_000);
    // The kick of the start.
    assert_eq!(world.vms[0].vcpus[0].exits.get(ExitKind::HostInterrupt), 1);
}

#[test]
fn a_spin_hint_gives_the_rest_of_the_slice_away() {
    let config = MachineConfig::new(vec![vm("spins", 1), vm("works", 1)]);
    let spins = [Op::Work(1), Op::Exit(Exit::SpinHint), Op::Repeat];
    let works = [Op::Work(1), Op::Repeat];
    let world = World::start(1, &config, &[(&[&spins], &[]), (&[&works], &[])]);
    let (mut spun, mut previous) = (0, 0);
    while world.host.now() < 1000 {
        world.step(0);
        if loads(&world, 0) > 0 {
            spun += world.host.now() - previous;
        }
        previous = world.host.now();
    }
    assert!((50..=120).contains(&spun), "{spun}");
}

#[test]
fn a_spin_hint_costs_a_lonely_virtual_cpu_nothing() {
    let world = World::of_one(&[Op::Exit(Exit::SpinHint), Op::Work(5)]);
    world.step(0);
    assert_eq!(world.host.now(), 5);
    assert_eq!(loads(&world, 0), 1);
}

#[test]
fn a_newcomer_gets_its_turn_beside_one_that_ran_alone() {
    let config =
        MachineConfig::new(vec![vm("old", 1), VmConfig { autostart: false, ..vm("new", 1) }]);
    let old = [
        Op::Work(500),
        Op::Do(|world| assert!(world.vms[1].start(&world.hypervisor.backend))),
        Op::Work(500),
    ];
    let world = World::start(1, &config, &[(&[&old], &[]), (&[&[Op::Work(100)]], &[])]);
    while loads(&world, 1) == 0 {
        world.step(0);
    }
    assert!(world.host.now() < 600, "{}", world.host.now());
    world.settle();
    assert_eq!(world.host.now(), 1100);
}

/// Clearing the memory of a machine takes long; whoever shares the host CPU goes on meanwhile.
#[test]
fn a_reset_holds_no_neighbour_up() {
    let config = MachineConfig::new(vec![vm("reset", 1), vm("works", 1)]);
    let works = [Op::Work(1), Op::Repeat];
    let off = Op::Exit(Exit::Power(PowerRequest::SystemOff));
    let reset = [Op::Exit(Exit::Power(PowerRequest::SystemReset))];
    let world = World::start(1, &config, &[(&[&reset, &[off]], &[]), (&[&works], &[])]);
    *world.vms[0].machine.reset_parts.lock().unwrap() = (200, 1);
    let (mut longest, mut waited, mut neighbour) = (0, 0, 0);
    while world.vms[0].starts() < 2 {
        let before = world.host.now();
        world.step(0);
        let passed = world.host.now() - before;
        if loads(&world, 1) > 0 {
            neighbour += passed;
            waited = 0;
        } else {
            waited += passed;
            longest = longest.max(waited);
        }
        assert!(world.host.now() < 3000, "the reset never ends");
    }
    assert!(longest <= SLICE, "the neighbour waited for {longest} ticks");
    assert!(neighbour >= 600, "{neighbour} ticks for the neighbour");
}
