//! Machines that stop, what the user is told, and the end of the host.

use std::sync::atomic::Ordering::SeqCst;

use crate::config::{MachineConfig, VmConfig};
use crate::exit::{Exit, Fatal, PowerRequest};
use crate::fake::journal;
use crate::fake::vcpu::Op;
use crate::fake::world::{Step, World, vm};
use crate::vm::State;

const OFF: Op = Op::Exit(Exit::Power(PowerRequest::SystemOff));
const RESET: Op = Op::Exit(Exit::Power(PowerRequest::SystemReset));

#[test]
fn the_report_of_a_death_tells_the_registers_and_the_cause() {
    for (reason, text) in [
        (Fatal::InvalidState, "invalid guest state"),
        (Fatal::ExceptionLoop, "unhandled exception loop"),
        (Fatal::HardwareError, "hardware error"),
        (Fatal::Unknown, "unknown exit"),
    ] {
        journal::begin();
        World::of_one(&[Op::Exit(Exit::Fatal(reason))]).settle();
        let [_, report, exits, end] = &journal::take()[..] else { panic!("four lines") };
        assert!(
            exits.starts_with("INFO vm \"one\": exits: ") && exits.ends_with("other 1"),
            "{exits}"
        );
        for part in
            ["ERROR", "vm \"one\"", "vcpu 0", text, "0xc0de", "0xde7", "0xadd", "entry 0x40000000"]
        {
            assert!(report.contains(part), "{part} in {report}");
        }
        assert_eq!(end, "ERROR vm \"one\": stopped after a fatal error");
    }
}

#[test]
fn the_user_is_told_of_every_transition() {
    let crash = Op::Exit(Exit::Power(PowerRequest::SystemCrash));
    for (op, expected) in [
        (OFF, &["INFO vm \"one\": off"][..]),
        (RESET, &["INFO vm \"one\": reset", "INFO vm \"one\": off"]),
        (
            crash,
            &[
                "WARN vm \"one\": the guest reports a crash",
                "ERROR vm \"one\": stopped after a fatal error",
            ],
        ),
    ] {
        journal::begin();
        let config = MachineConfig::new(vec![vm("one", 1)]);
        World::start(1, &config, &[(&[&[op], &[OFF]], &[])]).settle();
        let mut told = journal::take();
        told.retain(|line| !line.contains("started"));
        let counted = |line: &&String| line.starts_with("INFO vm \"one\": exits: ");
        assert_eq!(told.iter().filter(counted).count(), 1, "{told:?}");
        let rest: Vec<&String> = told.iter().filter(|line| !counted(line)).collect();
        assert_eq!(rest, expected);
    }
}

#[test]
fn the_user_is_told_why_a_machine_does_not_start() {
    journal::begin();
    let config = MachineConfig::new(vec![VmConfig { autostart: false, ..vm("one", 1) }]);
    let world = World::start(1, &config, &[(&[&[OFF]], &[])]);
    world.vms[0].machine.loadable.store(false, SeqCst);
    assert!(!world.vms[0].start(&world.hypervisor.backend));
    assert_eq!(world.vms[0].state(), State::Created);
    assert_eq!(journal::take(), ["ERROR vm \"one\": kernel: not there; put it there"]);
}

#[test]
fn the_host_is_turned_off_when_the_last_machine_stops() {
    let config = MachineConfig::new(vec![vm("a", 1), vm("b", 1)]);
    for cpus in 1..=2 {
        let late = [Op::Work(100), OFF];
        let world = World::start(cpus, &config, &[(&[&[OFF]], &[]), (&[&late], &[])]);
        world.hypervisor.complete_start();
        while world.vms[0].state() != State::Stopped {
            assert_eq!(world.step(0), Step::Went);
        }
        assert!(!world.host.powered_off.load(SeqCst));
        assert_eq!(world.settle(), Step::PoweredOff);
        assert_eq!(world.vms[1].state(), State::Stopped);
        assert_eq!(world.host.now(), 100);
    }
}

#[test]
fn the_host_stays_on_until_start_up_is_complete() {
    let world = World::of_one(&[OFF]);
    assert_eq!(world.settle(), Step::Asleep);
    assert_eq!(world.vms[0].state(), State::Stopped);
    world.hypervisor.complete_start();
    assert_eq!(world.settle(), Step::PoweredOff);
}

#[test]
fn a_host_whose_machines_never_ran_stays_on() {
    let config = MachineConfig::new(vec![VmConfig { autostart: false, ..vm("one", 1) }]);
    let world = World::start(1, &config, &[(&[&[OFF]], &[])]);
    world.hypervisor.complete_start();
    assert_eq!(world.settle(), Step::Asleep);
}

#[test]
fn fifty_resets_in_a_row_end_as_the_first() {
    let boots: [&[Op]; 51] = std::array::from_fn(|i| if i < 50 { &[RESET][..] } else { &[OFF] });
    let config = MachineConfig::new(vec![vm("one", 1)]);
    let world = World::start(1, &config, &[(&boots, &[])]);
    world.hypervisor.complete_start();
    assert_eq!(world.settle(), Step::PoweredOff);
    assert_eq!(world.vms[0].machine.resets.load(SeqCst), 51);
}
