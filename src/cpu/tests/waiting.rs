//! Idle virtual CPUs and what wakes them.

use crate::config::MachineConfig;
use crate::exit::{Exit, PowerRequest};
use crate::fake::vcpu::{Event, Op};
use crate::fake::world::{Step, World, vm};
use crate::statistics::ExitKind;

fn interrupts(world: &World, vm: usize) -> usize {
    let trace = world.vms[vm].machine.take_trace();
    trace.iter().filter(|event| matches!(event, Event::Interrupt(_))).count()
}

#[test]
fn an_idle_guest_stays_loaded_and_is_woken_by_a_kick() {
    let world = World::of_one(&[Op::Await, Op::Await]);
    for _ in 0..2 {
        world.when_idle(|world| world.vms[0].machine.raise(0));
    }
    world.settle();
    let events = world.vms[0].machine.take_trace();
    let switches = events.iter().filter(|event| matches!(event, Event::Load(_))).count();
    assert_eq!(switches, 1, "{events:?}");
    assert_eq!(events.iter().filter(|event| **event == Event::Interrupt(0)).count(), 2);
    assert_eq!(world.vms[0].vcpus[0].exits.get(ExitKind::Idle), 2);
}

#[test]
fn an_idle_guest_is_woken_by_its_own_timer() {
    let world = World::of_one(&[Op::Timer(500), Op::Await]);
    world.settle();
    assert_eq!(interrupts(&world, 0), 1);
    assert_eq!(world.host.now(), 500);
}

#[test]
fn an_interrupt_that_came_before_the_wait_ends_it() {
    let world = World::of_one(&[Op::Raise(0), Op::Await]);
    world.settle();
    assert_eq!(interrupts(&world, 0), 1);
}

#[test]
fn sleepers_that_share_a_host_cpu_are_woken_when_their_timers_are_due() {
    let config = MachineConfig::new(vec![vm("a", 1), vm("b", 1), vm("c", 1)]);
    let sleep = |ticks| [Op::Timer(ticks), Op::Await, Op::Timer(ticks), Op::Await];
    let (a, b, c) = (sleep(300), sleep(100), sleep(220));
    let world = World::start(1, &config, &[(&[&a], &[]), (&[&b], &[]), (&[&c], &[])]);
    assert_eq!(world.settle(), Step::Asleep);
    for vm in 0..3 {
        assert_eq!(interrupts(&world, vm), 2);
    }
    assert_eq!(world.host.now(), 600);
}

#[test]
fn a_sleeper_is_woken_while_its_neighbour_computes() {
    let config = MachineConfig::new(vec![vm("sleeper", 1), vm("busy", 1)]);
    let sleeper = [Op::Timer(25), Op::Await, Op::Exit(Exit::Power(PowerRequest::SystemOff))];
    let busy = [Op::Work(1000)];
    let world = World::start(1, &config, &[(&[&sleeper], &[]), (&[&busy], &[])]);
    while world.host.now() < 50 {
        world.step(0);
    }
    assert_eq!(interrupts(&world, 0), 1);
    assert_eq!(world.settle(), Step::Asleep);
}

#[test]
fn a_guest_wakes_its_neighbour_on_the_same_host_cpu() {
    let config = MachineConfig::new(vec![vm("one", 2)]);
    let on = Op::Exit(super::power::cpu_on(1, 0x100));
    let first = [on, Op::Work(100), Op::Raise(1), Op::Work(100)];
    let second = [Op::Await];
    let world = World::start(1, &config, &[(&[&first], &[(0x100, &second)])]);
    world.settle();
    assert_eq!(interrupts(&world, 0), 1);
    assert_eq!(world.host.now(), 200);
}

#[test]
fn a_sleeper_of_a_stopped_machine_disturbs_nobody() {
    let config = MachineConfig::new(vec![vm("stopped", 2), vm("busy", 1)]);
    let on = Op::Exit(super::power::cpu_on(1, 0x100));
    let stop = Op::Exit(Exit::Power(PowerRequest::SystemOff));
    let first = [on, Op::Work(60), stop];
    let sleeper = [Op::Timer(70), Op::Await];
    let busy = [Op::Work(1000)];
    let world = World::start(1, &config, &[(&[&first], &[(0x100, &sleeper)]), (&[&busy], &[])]);
    world.settle();
    assert_eq!(world.host.now(), 1060);
    let interrupted = world.vms[1].vcpus[0].exits.get(ExitKind::HostInterrupt);
    assert!(interrupted < 30, "{interrupted} interruptions");
}

/// Both interrupts come with one kick, and the one that is loaded sees it.
#[test]
fn a_woken_guest_leaves_its_neighbour_its_turn() {
    // The last to idle stays loaded.
    let config = MachineConfig::new(vec![vm("short", 1), vm("long", 1)]);
    let short = [Op::Await, Op::Work(10)];
    let long = [Op::Await, Op::Work(1000)];
    let world = World::start(1, &config, &[(&[&short], &[]), (&[&long], &[])]);
    world.when_idle(|world| {
        world.vms[0].machine.raise(0);
        world.vms[1].machine.raise(0);
    });
    while interrupts(&world, 0) == 0 {
        world.step(0);
    }
    assert!(world.host.now() < 100, "{}", world.host.now());
    world.settle();
    assert_eq!(world.host.now(), 1010);
}
