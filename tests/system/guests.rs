//! The small guests of this project on the machines of the matrix.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::{self, Host};
use crate::{Case, case, tap};

const LIMIT: Duration = Duration::from_secs(120);

const MEMORY: u64 = 64 << 20;

/// Virtual CPUs of a guest: more than some hosts have.
const VCPUS: u32 = 4;

const NAMES: [&str; 6] = ["hello", "timer", "gic", "psci", "memory", "sysreg"];

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in NAMES {
        let hosts = match full {
            true => host::matrix().collect(),
            false => vec![
                Host { gic: 3, cpu: "cortex-a72", cpus: 4 },
                Host { gic: 2, cpu: "cortex-a53", cpus: 2 },
                Host { gic: 3, cpu: "max", cpus: 1 },
            ],
        };
        for host in hosts {
            cases.push(case(format!("guest::{name}/{host}"), move || run(name, host)));
        }
    }
    cases
}

fn run(name: &str, host: Host) -> Result<()> {
    let vm = host::vm(name, host::small(name)?, VCPUS, MEMORY);
    let emulator = host.boot(&[vm], LIMIT)?;
    // A guest powers off when it is done, and the host with its last guest.
    let text = emulator.finish()?;
    tap::judge(&text).with_context(|| format!("of this output:\n{text}"))
}
