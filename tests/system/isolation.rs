//! What one guest can do to another: nothing, but for the host CPU that they share.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::emulator::Emulator;
use crate::host::USUAL;
use crate::monitor::{ask, debian, focus_on, shell, shell_of};
use crate::{Case, case};

const LIMIT: Duration = Duration::from_secs(300);

/// What the neighbour does, and how.
const DISTURBANCES: [(&str, &str); 3] = [
    ("fork bomb", "bomb() { bomb | bomb & }; bomb"),
    ("console flood", "yes > /dev/console &"),
    ("interrupt storm", "for i in 1 2 3 4 5 6 7 8; do while :; do usleep 20; done & done"),
];

/// A neighbour leaves this share of its undisturbed speed, in percent: on host CPUs of its own all,
/// but the emulator's host CPUs are threads that share ours and each other's locks.
const APART: u64 = 25;
/// On the same host CPU its weight leaves a half.
const TOGETHER: u64 = 20;

pub(crate) fn trials() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, cpu, share) in [("apart", 1, APART), ("together", 0, TOGETHER)] {
        cases.push(case(format!("isolation::disturbances_{name}"), move || disturbed(cpu, share)));
    }
    cases
}

/// Rounds of a computation in three seconds by the guest's clock.
fn speed(emulator: &mut Emulator) -> Result<u64> {
    let count = "rm -f /tmp/n; timeout 3 sh -c 'i=0; while :; do i=$((i+1)); echo $i >> /tmp/n; done'; tail -n 1 /tmp/n";
    let text = shell(emulator, count)?;
    let last = text.lines().rev().find_map(|line| line.trim().parse().ok());
    last.with_context(|| format!("{text:?} has no number"))
}

/// The first guest works on host CPU 0; the other one, on host CPU `cpu`, does its worst.
fn disturbed(cpu: u32, share: u64) -> Result<()> {
    let mut emulator = USUAL.boot(&[debian("victim", &[0])?, debian("rogue", &[cpu])?], LIMIT)?;
    emulator.expect("guest# ")?;
    shell_of(&mut emulator, 2)?;
    focus_on(&mut emulator, 1)?;
    speed(&mut emulator)?;
    let quiet = speed(&mut emulator)?;
    for (name, command) in DISTURBANCES {
        focus_on(&mut emulator, 2)?;
        emulator.send(&format!("\n{command}\n"))?;
        emulator.survive(Duration::from_secs(1))?;
        focus_on(&mut emulator, 1)?;
        let found = speed(&mut emulator).with_context(|| format!("beside a {name}"))?;
        println!("{name} on host CPU {cpu}: {found} rounds beside {quiet} undisturbed");
        ensure!(found * 100 >= quiet * share, "{name}: {found} rounds in 3 s, undisturbed {quiet}");
        ask(&mut emulator, "reset rogue")?;
        emulator.expect("vm \"rogue\": started")?;
        focus_on(&mut emulator, 2)?;
        emulator.expect("guest# ")?;
    }
    Ok(())
}
