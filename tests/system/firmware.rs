//! U-Boot as a guest.

use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::fit::Raw;
use xtask::setup::Guest;

use crate::host::{self, Host};
use crate::{Case, case};

const LIMIT: Duration = Duration::from_secs(120);
const MEMORY: u64 = 256 << 20;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let hosts = match full {
        true => host::matrix().filter(|host| host.cpus == 2).collect(),
        false => vec![
            Host { gic: 3, cpu: "cortex-a72", cpus: 2 },
            Host { gic: 2, cpu: "cortex-a72", cpus: 1 },
        ],
    };
    hosts
        .into_iter()
        .map(|host| case(format!("firmware::u_boot_reaches_its_prompt/{host}"), move || run(host)))
        .collect()
}

fn run(host: Host) -> Result<()> {
    let mut vm = host::vm("uboot", host::fetched(Guest::UBoot)?, 1, MEMORY);
    vm.raw = Some(Raw { load: 0x4020_0000, entry: 0x4020_0000 });
    let mut emulator = host.boot(&[vm], LIMIT)?;
    emulator.expect("U-Boot 20")?;
    emulator.expect("DRAM:")?;
    let memory = emulator.expect("\n")?;
    ensure!(memory.contains("256 MiB"), "U-Boot finds {memory:?} of memory, not 256 MiB");
    emulator.expect("Hit any key to stop autoboot")?;
    emulator.send("\n")?;
    emulator.expect("=> ")?;
    emulator.send("echo an''swer\n")?;
    emulator.expect("answer")?;
    emulator.expect("=> ")?;
    emulator.send("poweroff\n")?;
    emulator.finish().map(drop)
}
