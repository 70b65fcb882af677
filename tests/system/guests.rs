//! The small guests of this project on the machines of the matrix.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::fit::Vm;

use crate::host::{self, Host, USUAL};
use crate::{Case, case, tap};

const LIMIT: Duration = Duration::from_secs(180);

const MEMORY: u64 = 64 << 20;

/// Virtual CPUs of a guest: more than some hosts have.
const VCPUS: u32 = 4;

/// Guests that test something, say what in TAP, and power off.
const TESTS: [&str; 6] = ["hello", "timer", "gic", "psci", "memory", "sysreg"];

/// Restarts from random states.
const RESTARTS: usize = 30;

/// How the hostile guest goes on when it has tried everything: exceptions
/// without vectors, translation without tables, a loop with all masked.
const ENDS: [&str; 3] = ["vectors", "tables", "spin"];

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let selection = [
        Host { gic: 3, cpu: "cortex-a72", cpus: 4 },
        Host { gic: 2, cpu: "cortex-a53", cpus: 2 },
        Host { gic: 3, cpu: "max", cpus: 1 },
    ];
    let hosts = if full { host::matrix().collect() } else { selection.to_vec() };
    let mut cases = Vec::new();
    for host in hosts {
        for name in TESTS {
            cases.push(case(format!("guest::{name}/{host}"), move || judged(name, host, "")));
        }
        let seeds = if full { 1..=20 } else { 1..=2 };
        for seed in seeds {
            let name = format!("guest::hostile/seed{seed}/{host}");
            let arguments = format!("seed={seed} rounds=300");
            cases.push(case(name, move || judged("hostile", host, &arguments)));
        }
        cases.push(case(format!("guest::reset/{host}"), move || restarts(host)));
    }
    for end in ENDS {
        cases.push(case(format!("guest::a_neighbour_survives_{end}"), move || neighbour(end)));
    }
    cases.push(case("guest::a_neighbour_survives_a_vm_that_cannot_start", unloadable));
    cases
}

fn guest(name: &str, arguments: &str) -> Result<Vm> {
    let mut vm = host::vm(name, host::small(name)?, VCPUS, MEMORY);
    vm.command_line = arguments.to_string();
    Ok(vm)
}

/// A guest powers off when it is done, and the host with its last guest.
fn judged(name: &str, host: Host, arguments: &str) -> Result<()> {
    let text = host.boot(&[guest(name, arguments)?], LIMIT)?.finish()?;
    tap::judge(&text).with_context(|| format!("of this output:\n{text}"))
}

fn restarts(host: Host) -> Result<()> {
    const STARTED: &str = "vm \"reset\": started, ";
    let mut emulator = host.boot(&[guest("reset", "")?], LIMIT)?;
    let first = emulator.expect_line(STARTED)?;
    for restart in 1..=RESTARTS {
        emulator.expect("# boot")?;
        let report = emulator.expect(STARTED)?;
        ensure!(
            !report.contains("not ok"),
            "restart {restart} brought no fresh machine:\n{report}"
        );
        let now = emulator.expect("\n")?;
        ensure!(now.trim() == first, "restart {restart}: {now:?}, but at first it was {first:?}");
    }
    Ok(())
}

/// Two guests share two host CPUs; the one goes mad, the other finishes.
fn neighbour(end: &str) -> Result<()> {
    let mut mad = guest("hostile", &format!("rounds=20 end={end}"))?;
    let mut sane = guest("memory", "")?;
    mad.cpus = vec![0, 1];
    sane.cpus = vec![1, 2];
    let mut emulator = USUAL.boot(&[mad, sane], LIMIT)?;
    emulator.expect("vm \"memory\": off")?;
    // The host goes on as long as a guest does.
    emulator.survive(Duration::from_secs(2))
}

fn unloadable() -> Result<()> {
    let broken = host::vm("broken", b"neither an Image nor ELF".to_vec(), 1, MEMORY);
    let mut emulator = USUAL.boot(&[broken, guest("hello", "")?], LIMIT)?;
    emulator.expect("vm \"broken\": ")?;
    let text = emulator.finish()?;
    tap::judge(&text).with_context(|| format!("of this output:\n{text}"))
}
