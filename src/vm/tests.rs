//! The life cycle of virtual machines on the fake backend.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::config::MachineConfig;
use crate::exit::{Exit, Fatal, PowerAnswer, PowerRequest};
use crate::fake::device::Asked;
use crate::fake::vcpu::{BOOT_CONTEXT, Event, IMAGE, Op};
use crate::fake::world::{Step, World, vm};

const OFF: Op = Op::Exit(Exit::Power(PowerRequest::SystemOff));
const RESET: Op = Op::Exit(Exit::Power(PowerRequest::SystemReset));
const STEP_1: Op = Op::Do(|world| {
    world.step(1);
});

fn on(target: usize, entry: u64) -> Op {
    let entry = crate::address::GuestAddress(entry);
    Op::Exit(Exit::Power(PowerRequest::CpuOn { target: VcpuId(target), entry, context: 0 }))
}

fn machines(names: &[&str], vcpus: u32) -> MachineConfig {
    MachineConfig::new(names.iter().map(|name| vm(name, vcpus)).collect())
}

#[test]
fn a_machine_boots_from_its_configuration() {
    let world = World::of_one(&[Op::Work(1)]);
    let one = &world.vms[0];
    assert_eq!(one.state(), State::Running);
    assert_eq!(one.vcpus.len(), 1);
    assert_eq!(*one.machine.memory.lock().unwrap(), IMAGE);
    world.step(0);
    let start = Event::Start(0, 0x4000_0000, BOOT_CONTEXT);
    assert_eq!(
        one.machine.take_trace(),
        [Event::MachineReset, start, Event::Load(0), Event::Save(0)]
    );
    assert_eq!(world.settle(), Step::Asleep);
}

#[test]
fn a_machine_that_does_not_start_by_itself_waits_for_the_user() {
    let mut config = machines(&["one"], 1);
    config.vms[0].autostart = false;
    let world = World::start(1, &config, &[(&[&[Op::Work(3), OFF], &[OFF]], &[])]);
    let one = &world.vms[0];
    let backend = &world.hypervisor.backend;
    assert_eq!(world.settle(), Step::Asleep);
    assert_eq!(one.state(), State::Created);
    assert_eq!(one.request(backend, Transition::Reset), Outcome::Impossible);
    for boots in 1..=2 {
        assert!(one.start(backend));
        assert!(!one.start(backend), "it runs already");
        assert_eq!(world.settle(), Step::Asleep);
        assert_eq!(one.state(), State::Stopped);
        assert_eq!(one.machine.resets.load(SeqCst), boots);
    }
}

/// Everybody is in the middle of guest code when the third one restarts the machine.
#[test]
fn a_reset_waits_until_all_virtual_cpus_have_left() {
    let first = [
        on(1, 0x100),
        on(2, 0x200),
        Op::Store(0, b'!'),
        STEP_1,
        Op::Do(|world| panic!("goes on after the reset of {:?}", world.vms[0].state())),
    ];
    let second = [
        Op::Do(|world| {
            world.step(2);
        }),
        Op::Do(|world| panic!("goes on after the reset of {:?}", world.vms[0].state())),
    ];
    let third = [RESET];
    let again = [Op::Work(2)];
    let config = machines(&["one"], 3);
    let others: [(u64, &[Op]); 2] = [(0x100, &second), (0x200, &third)];
    let world = World::start(3, &config, &[(&[&first, &again], &others)]);
    world.devices[0].take();
    let one = &world.vms[0];
    world.step(0);
    assert_eq!(one.state(), State::Changing);
    while one.prepare(&world.hypervisor.backend) == Progress::Again {}
    let events = one.machine.take_trace();
    let reset = events.iter().skip(1).position(|e| *e == Event::MachineReset).unwrap() + 1;
    let left = |who| events[..reset].contains(&Event::Save(who));
    assert!(left(0) && left(1) && left(2), "{events:?}");
    assert_eq!(one.state(), State::Running);
    assert_eq!(one.machine.resets.load(SeqCst), 2);
    assert_eq!(*one.machine.memory.lock().unwrap(), IMAGE);
    // The device has a window in each address space.
    assert_eq!(world.devices[0].take(), [Asked::Reset; 2]);
    let powers: Vec<_> = one.vcpus.iter().map(|vcpu| vcpu.power()).collect();
    assert!(matches!(powers[..], [Power::OnPending { .. }, Power::Off, Power::Off]));
    world.settle();
    let started: Vec<_> = one.machine.take_trace();
    assert_eq!(started.first(), Some(&Event::Start(0, 0x4000_0001, BOOT_CONTEXT)));
    assert_eq!(one.machine.resets.load(SeqCst), 2);
}

#[test]
fn a_reset_takes_sleepers_along() {
    let first = [on(1, 0x100), RESET];
    let sleeper = [Op::Timer(100), Op::Await];
    let world = World::start(2, &machines(&["one"], 2), &[(&[&first, &[]], &[(0x100, &sleeper)])]);
    let one = &world.vms[0];
    assert_eq!(one.vcpus[1].turn_on(crate::address::GuestAddress(0x100), 0), PowerAnswer::Success);
    // The other host CPU idles with the sleeper loaded.
    world.when_idle(|world| {
        world.step(0);
        assert_eq!(world.vms[0].state(), State::Draining(Transition::Reset));
    });
    world.step(1);
    while one.prepare(&world.hypervisor.backend) == Progress::Again {}
    assert_eq!(one.machine.resets.load(SeqCst), 2);
    assert_eq!(one.vcpus[1].power(), Power::Off);
    assert_eq!(world.settle(), Step::Asleep);
    assert_eq!(world.host.now(), 0, "nobody waits for the sleeper's timer");
}

#[test]
fn the_first_of_two_requests_wins() {
    let first = [
        Op::Do(|world| {
            let one = &world.vms[0];
            let backend = &world.hypervisor.backend;
            assert_ne!(one.request(backend, Transition::Off), Outcome::Impossible);
            assert_eq!(one.request(backend, Transition::Reset), Outcome::Impossible);
            assert_eq!(one.state(), State::Draining(Transition::Off));
        }),
        Op::Work(1000),
    ];
    let world = World::of_one(&first);
    world.settle();
    assert_eq!(world.vms[0].state(), State::Stopped);
    assert_eq!(world.host.now(), 0);
}

#[test]
fn a_machine_that_nobody_runs_stops_at_once() {
    let world = World::of_one(&[]);
    world.settle();
    assert_ne!(
        world.vms[0].request(&world.hypervisor.backend, Transition::Off),
        Outcome::Impossible
    );
    assert_eq!(world.vms[0].state(), State::Stopped);
}

#[test]
fn a_guest_that_dies_stops_alone() {
    let config = machines(&["dies", "lives"], 1);
    let dies = [Op::Work(20), Op::Exit(Exit::Fatal(Fatal::ExceptionLoop)), Op::Work(1000)];
    let lives = [Op::Work(200)];
    for cpus in 1..=2 {
        let world = World::start(cpus, &config, &[(&[&dies], &[]), (&[&lives], &[])]);
        world.hypervisor.complete_start();
        world.devices[0].take();
        assert_eq!(world.settle(), Step::Asleep);
        assert_eq!(world.vms[0].state(), State::Stopped);
        assert_eq!(world.devices[0].take(), [Asked::Reset; 2], "its devices are silent");
        assert_eq!(world.vms[0].vcpus[0].power(), Power::Off);
        assert_eq!(world.vms[1].state(), State::Running);
        assert_eq!(world.host.now(), 220);
    }
}

#[test]
fn images_that_cannot_be_loaded_leave_the_machine_as_it_was() {
    let world = World::of_one(&[OFF]);
    let one = &world.vms[0];
    let backend = &world.hypervisor.backend;
    world.settle();
    one.machine.loadable.store(false, SeqCst);
    assert!(!one.start(backend));
    assert_eq!(one.state(), State::Stopped);
    one.machine.loadable.store(true, SeqCst);
    assert!(one.start(backend));
}

#[test]
fn a_machine_that_cannot_be_loaded_again_is_stopped() {
    let first =
        [Op::Do(|world| world.vms[0].machine.loadable.store(false, SeqCst)), RESET, Op::Work(9)];
    let world = World::of_one(&first);
    world.hypervisor.complete_start();
    assert_eq!(world.settle(), Step::PoweredOff);
    assert_eq!(world.vms[0].state(), State::Stopped);
    assert_eq!(world.host.now(), 0);
}

/// Both virtual CPUs are in the middle of something when the pause comes.
#[test]
fn a_paused_machine_stands_still_and_goes_on_where_it_was() {
    let first = [
        on(1, 0x100),
        Op::Do(|world| {
            let one = &world.vms[0];
            assert_ne!(
                one.request(&world.hypervisor.backend, Transition::Pause),
                Outcome::Impossible
            );
            assert_eq!(
                one.request(&world.hypervisor.backend, Transition::Pause),
                Outcome::Impossible
            );
        }),
        Op::Work(10),
        OFF,
    ];
    let sleeper = [Op::Timer(500), Op::Await];
    for cpus in 1..=2 {
        let code = [(&[&first[..]][..], &[(0x100, &sleeper[..])][..])];
        let world = World::start(cpus, &machines(&["one"], 2), &code);
        let one = &world.vms[0];
        let backend = &world.hypervisor.backend;
        world.hypervisor.complete_start();
        world.settle();
        let State::Paused(since) = one.state() else { panic!("{:?}", one.state()) };
        assert_eq!(world.settle(), Step::Asleep, "a machine that stands still has not stopped");
        one.machine.take_trace();
        assert!(one.resume(backend));
        assert!(!one.resume(backend));
        let still = world.host.now() - since.0;
        assert_eq!(one.machine.take_trace(), [Event::StoodStill(still)]);
        assert_eq!(world.settle(), Step::PoweredOff);
        assert!(world.host.now() >= 10);
    }
}

#[test]
fn an_interrupt_that_comes_during_a_pause_is_taken_afterwards() {
    let world = World::of_one(&[Op::Await, Op::Work(7), OFF]);
    let one = &world.vms[0];
    let backend = &world.hypervisor.backend;
    world.when_idle(|world| {
        assert_ne!(
            world.vms[0].request(&world.hypervisor.backend, Transition::Pause),
            Outcome::Impossible
        );
    });
    world.settle();
    assert!(matches!(one.state(), State::Paused(_)));
    one.machine.raise(0);
    assert_eq!(world.settle(), Step::Asleep);
    assert!(one.resume(backend));
    world.settle();
    assert_eq!(one.state(), State::Stopped);
}

#[test]
fn what_ends_a_run_ends_a_pause() {
    for (transition, starts) in [(Transition::Off, 1), (Transition::Reset, 2)] {
        let world = World::of_one(&[Op::Await]);
        let one = &world.vms[0];
        let backend = &world.hypervisor.backend;
        world.when_idle(|world| {
            assert_ne!(
                world.vms[0].request(&world.hypervisor.backend, Transition::Pause),
                Outcome::Impossible
            );
        });
        world.settle();
        assert_ne!(one.request(backend, transition), Outcome::Impossible);
        while one.prepare(backend) == Progress::Again {}
        assert!(!one.resume(backend));
        assert_eq!(one.starts(), starts);
        // And while virtual CPUs are still leaving.
        let again = if transition == Transition::Off { one.start(backend) } else { true };
        assert!(again);
        world.when_idle(|world| {
            let (one, backend) = (&world.vms[0], &world.hypervisor.backend);
            assert_ne!(one.request(backend, Transition::Pause), Outcome::Impossible);
            assert_ne!(one.request(backend, Transition::Off), Outcome::Impossible);
            assert_eq!(one.state(), State::Draining(Transition::Off));
        });
        world.settle();
        assert_eq!(one.state(), State::Stopped);
    }
}
