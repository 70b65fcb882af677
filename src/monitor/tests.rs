//! The monitor over machines of the fake backend.

use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::config::MachineConfig;
use crate::exit::{Exit, PowerRequest};
use crate::fake::vcpu::Op;
use crate::fake::world::{Step, World, vm};
use crate::vm::State;

/// A guest that does something and turns its only virtual CPU off, so that its host CPU is free.
const WORK: &[Op] = &[Op::Exit(Exit::Debug), Op::Exit(Exit::Power(PowerRequest::CpuOff))];

fn two() -> std::rc::Rc<World> {
    let config = MachineConfig::new(vec![vm("web", 1), vm("db", 2)]);
    let world = World::start(2, &config, &[(&[WORK], &[]), (&[WORK], &[])]);
    world.hypervisor.complete_start();
    world
}

fn run(world: &World, session: &mut Session, line: &str) -> String {
    let shown =
        session.feed(world.hypervisor, line.as_bytes()) + &session.feed(world.hypervisor, b"\r");
    for cpu in 0..2 {
        world.step(cpu);
    }
    let start = format!("{line}\r\n");
    let answer = shown.strip_prefix(&start).expect("the echo of the command");
    answer.strip_suffix(PROMPT).expect("a prompt").replace('\r', "")
}

#[test]
fn machines_are_stopped_started_paused_and_resumed() {
    let world = two();
    let mut session = Session::new(true);
    let state = |vm: usize| world.vms[vm].state();
    for (line, answer, holds) in [
        (
            "pause web",
            "",
            (|web, db| matches!(web, State::Paused(_)) && db == State::Running)
                as fn(State, State) -> bool,
        ),
        ("pause web", "vm \"web\" is paused; try again in a moment\n", |_, _| true),
        ("start web", "vm \"web\" is paused; `resume` lets it go on\n", |_, _| true),
        ("resume web", "", |web, _| web == State::Running),
        ("resume web", "vm \"web\" is running; only a paused one can be resumed\n", |_, _| true),
        ("stop 1", "", |web, db| web == State::Stopped && db == State::Running),
        ("stop 1", "vm \"web\" is off; `start` starts it\n", |_, _| true),
        ("stop db", "", |web, db| web == State::Stopped && db == State::Stopped),
        ("start web", "", |web, db| web == State::Running && db == State::Stopped),
        ("start web", "vm \"web\" is running; `reset` restarts it\n", |_, _| true),
        ("reset web", "", |web, _| web == State::Running),
        ("reset nothing", "no VM \"nothing\"; `vms` lists them\n", |_, _| true),
        ("reset 3", "no VM \"3\"; `vms` lists them\n", |_, _| true),
    ] {
        assert_eq!(run(&world, &mut session, line), answer, "{line}");
        assert!(holds(state(0), state(1)), "{line}: {:?} {:?}", state(0), state(1));
        assert!(!world.host.powered_off.load(SeqCst));
    }
    assert_eq!(world.vms[0].starts(), 3);
}

#[test]
fn the_host_turns_off_when_told_to() {
    let world = two();
    let mut session = Session::new(true);
    run(&world, &mut session, "stop web");
    run(&world, &mut session, "stop db");
    assert_eq!(world.settle(), Step::Asleep);
    // The other host CPU looks around before the home of the machine has started it.
    session.feed(world.hypervisor, b"start db\r");
    assert_eq!(world.step(0), Step::Asleep);
    assert_eq!(world.step(1), Step::Went);
    assert_eq!(world.vms[1].state(), State::Running);
    session.feed(world.hypervisor, b"poweroff\r");
    assert_eq!(world.settle(), Step::PoweredOff);
}

#[test]
fn reports_name_what_there_is() {
    let world = two();
    let mut session = Session::new(true);
    for _ in 0..3 {
        run(&world, &mut session, "help");
    }
    for (line, parts) in [
        ("help", &["start VM", "resume VM", "trace"][..]),
        ("vms", &["web", "db", "running", "2 MiB", "NAME"]),
        ("stats", &["vm \"web\" is running", "vcpu 1 on host CPU", "other 1"]),
        ("stats db", &["vm \"db\""]),
        ("mem", &["free       1048576 KiB", "2048 KiB  web"]),
        ("trace", &["host CPU 0", "host CPU 1", "web 0", "other", "0xc0de 0xadd"]),
        ("trace 1", &["host CPU 1"]),
        ("trace raw 0", &["trace cpu 0 frequency 2000", " web 0 other 0xc0de 0xadd"]),
        ("trace 7", &["no host CPU 7; there are 0 to 1"]),
        ("nonsense", &["nonsense: no such command"]),
        ("log", &["\n"]),
        ("balloon web 1M", &["vm \"web\" has no balloon; its VM file needs `balloon = true`"]),
    ] {
        let answer = run(&world, &mut session, line);
        for part in parts {
            assert!(answer.contains(part), "{line}: {part:?} in\n{answer}");
        }
    }
    assert!(!run(&world, &mut session, "stats db").contains("web"));
}

#[test]
fn a_program_gets_answers_without_an_echo() {
    let world = two();
    let mut session = Session::new(false);
    let shown = session.feed(world.hypervisor, b"mem\n");
    assert!(shown.starts_with("free "), "{shown}");
    assert!(shown.ends_with(PROMPT));
    let shown = session.feed(world.hypervisor, b"console db\n");
    assert!(shown.starts_with("console: only whoever sits at the terminal"), "{shown}");
}

/// The flight recorder is in the report of a guest that dies.
#[test]
fn a_death_is_reported_with_what_came_before() {
    crate::fake::journal::begin();
    let fatal = Exit::Fatal(crate::exit::Fatal::ExceptionLoop);
    let exits = [Op::Exit(Exit::Debug), Op::Exit(Exit::Hypercall { function: 7 }), Op::Exit(fatal)];
    World::of_one(&exits).settle();
    let told = crate::fake::journal::take().join("\n");
    assert!(told.contains("ticks before: hypercall, cause 0xc0de, address 0xadd"), "{told}");
}
