//! The power controller of a virtual machine.

use std::sync::atomic::Ordering::SeqCst;

use crate::address::{GuestAddress, VcpuId};
use crate::config::MachineConfig;
use crate::exit::{Exit, PowerAnswer, PowerRequest};
use crate::fake::vcpu::{BOOT_CONTEXT, Event, Op};
use crate::fake::world::{World, vm};
use crate::vcpu::Power;

pub(super) fn cpu_on(target: usize, entry: u64) -> Exit {
    let (target, entry) = (VcpuId(target), GuestAddress(entry));
    Exit::Power(PowerRequest::CpuOn { target, entry, context: entry.0 + 1 })
}

fn power(request: PowerRequest) -> Op {
    Op::Exit(Exit::Power(request))
}

fn answers(world: &World) -> Vec<Event> {
    let mut events = world.vms[0].machine.take_trace();
    events.retain(|event| matches!(event, Event::Answered(..) | Event::Start(..)));
    events
}

const BOOT: Event = Event::Start(0, 0x4000_0000, BOOT_CONTEXT);

#[test]
fn a_virtual_cpu_starts_where_it_is_told_to_and_only_once() {
    let config = MachineConfig::new(vec![vm("one", 2)]);
    let first = [
        Op::Exit(cpu_on(1, 0x100)),
        Op::Exit(cpu_on(1, 0x200)),
        Op::Do(|world| {
            world.step(1);
        }),
        Op::Raise(1),
        Op::Exit(cpu_on(2, 0x100)),
        Op::Exit(cpu_on(usize::MAX, 0x100)),
        Op::Exit(cpu_on(0, 0x100)),
    ];
    // It sleeps until the first one, in the middle of whose step it runs, has seen it on.
    let second = [
        Op::Do(|world| assert_eq!(world.vms[0].vcpus[1].power(), Power::On)),
        Op::Do(|world| {
            let again = world.vms[0].vcpus[1].turn_on(GuestAddress(0), 0);
            assert_eq!(again, PowerAnswer::AlreadyOn);
        }),
    ];
    let world = World::start(2, &config, &[(&[&first], &[(0x100, &second)])]);
    world.step(0);
    assert_eq!(
        answers(&world),
        [
            BOOT,
            Event::Answered(0, PowerAnswer::Success),
            Event::Answered(0, PowerAnswer::OnPending),
            Event::Start(1, 0x100, 0x101),
            Event::Answered(0, PowerAnswer::InvalidParameters),
            Event::Answered(0, PowerAnswer::InvalidParameters),
            Event::Answered(0, PowerAnswer::AlreadyOn),
        ]
    );
}

#[test]
fn a_virtual_cpu_that_is_off_can_be_started_again() {
    let config = MachineConfig::new(vec![vm("one", 2)]);
    let on = Op::Exit(cpu_on(1, 0x100));
    let run = Op::Do(|world| {
        world.step(1);
    });
    let off = Op::Do(|world| assert_eq!(world.vms[0].vcpus[1].power(), Power::Off));
    let first = [off, on, run, off, on, run, off];
    let second = [power(PowerRequest::CpuOff)];
    let world = World::start(2, &config, &[(&[&first], &[(0x100, &second)])]);
    world.step(0);
    let turn = [Event::Answered(0, PowerAnswer::Success), Event::Start(1, 0x100, 0x101)];
    assert_eq!(answers(&world), [&[BOOT][..], &turn, &turn].concat());
}

#[test]
fn a_virtual_cpu_on_the_same_host_cpu_starts_as_well() {
    let config = MachineConfig::new(vec![vm("one", 3)]);
    let first = [Op::Exit(cpu_on(1, 0x100)), Op::Exit(cpu_on(2, 0x100)), Op::Work(100)];
    let world = World::start(1, &config, &[(&[&first], &[(0x100, &[Op::Work(10)])])]);
    world.settle();
    let events = answers(&world);
    assert!(events.contains(&Event::Start(1, 0x100, 0x101)), "{events:?}");
    assert!(events.contains(&Event::Start(2, 0x100, 0x101)), "{events:?}");
    assert_eq!(world.host.now(), 120);
}

#[test]
fn a_standby_goes_on_where_it_was() {
    let suspend = power(PowerRequest::CpuSuspend { resume: None });
    let world = World::of_one(&[Op::Timer(50), suspend, Op::Await, Op::Work(7)]);
    world.settle();
    assert_eq!(answers(&world), [BOOT, Event::Answered(0, PowerAnswer::Success)]);
    assert_eq!(world.host.now(), 57);
}

#[test]
fn a_power_down_starts_anew_where_it_was_told_to() {
    let resume = Some((GuestAddress(0x300), 9));
    let first = [Op::Timer(50), power(PowerRequest::CpuSuspend { resume }), Op::Work(1000)];
    let config = MachineConfig::new(vec![vm("one", 1)]);
    let world = World::start(1, &config, &[(&[&first], &[(0x300, &[Op::Work(5)])])]);
    world.settle();
    assert_eq!(
        answers(&world),
        [BOOT, Event::Answered(0, PowerAnswer::Success), Event::Start(0, 0x300, 9)]
    );
    assert_eq!(world.host.now(), 55);
}

#[test]
fn a_power_down_beside_a_busy_neighbour_starts_anew_as_well() {
    let resume = Some((GuestAddress(0x300), 9));
    let first = [Op::Timer(50), power(PowerRequest::CpuSuspend { resume }), Op::Work(1000)];
    let config = MachineConfig::new(vec![vm("one", 1), vm("busy", 1)]);
    let code: [_; 2] = [&first[..], &[Op::Work(200)]];
    let world =
        World::start(1, &config, &[(&code[..1], &[(0x300, &[Op::Work(5)])]), (&code[1..], &[])]);
    world.settle();
    assert_eq!(answers(&world).last(), Some(&Event::Start(0, 0x300, 9)));
    assert_eq!(world.host.now(), 205);
}

#[test]
fn the_machine_suspends_only_when_all_others_are_off() {
    let suspend = power(PowerRequest::SystemSuspend { entry: GuestAddress(0x300), context: 4 });
    let first = [
        Op::Exit(cpu_on(1, 0x100)),
        suspend,
        Op::Do(|world| {
            world.step(1);
        }),
        Op::Timer(50),
        suspend,
        Op::Work(1000),
    ];
    let config = MachineConfig::new(vec![vm("one", 2)]);
    let others: [(u64, &[Op]); 2] = [(0x100, &[]), (0x300, &[Op::Work(5)])];
    let world = World::start(2, &config, &[(&[&first], &others)]);
    world.step(0);
    world.settle();
    assert_eq!(
        answers(&world),
        [
            BOOT,
            Event::Answered(0, PowerAnswer::Success),
            Event::Answered(0, PowerAnswer::Denied),
            Event::Start(1, 0x100, 0x101),
            Event::Answered(0, PowerAnswer::Success),
            Event::Start(0, 0x300, 4),
        ]
    );
}

#[test]
fn a_host_cpu_is_kicked_for_the_virtual_cpu_that_starts_on_it() {
    let config = MachineConfig::new(vec![vm("one", 2)]);
    let first = [Op::Exit(cpu_on(1, 0x100)), Op::Exit(cpu_on(1, 0x100))];
    let world = World::start(2, &config, &[(&[&first], &[(0x100, &[])])]);
    world.step(1);
    let kicks = &world.host.cpus[1].kicks;
    let before = kicks.load(SeqCst);
    world.step(0);
    assert_eq!(kicks.load(SeqCst), before + 1, "once for the start, not for its refusal");
}
