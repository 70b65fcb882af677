//! A Raspberry Pi 4, entered in the three ways of its firmware: by QEMU's own boot loader, by a stub at EL3 as the
//! firmware has one, and by Trusted Firmware-A.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::boards::File;
use xtask::setup::Guest;
use xtask::workspace::Workspace;
use xtask::{build, process};

use crate::emulator::Emulator;
use crate::linux::{self, PROMPT, answer};
use crate::{Case, case, host};

const LIMIT: Duration = Duration::from_secs(180);
const VCPUS: u32 = 4;

const TREE: u64 = 0x0800_0000;
const KERNEL: u64 = 0x0020_0000;
const BUNDLE: u64 = 0x1000_0000;
/// Where firmware at EL3 expects the addresses of device tree and kernel, 32 bits each.
const ADDRESSES: std::ops::Range<usize> = 0xf8..0x100;
/// Before them a mark that the boot loader clears when it has written them.
const MARK: std::ops::Range<usize> = 0xf0..0xf8;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let entries =
        [("kernel", Entry::Kernel), ("tf-a", Entry::TrustedFirmware), ("stub", Entry::Stub)];
    let entries = if full { &entries[..] } else { &entries[..2] };
    let raspberries = entries.iter().map(|(name, entry)| {
        let entry = *entry;
        case(format!("boards::raspberry_pi_4_runs_linux/{name}"), move || raspberry(entry))
    });
    raspberries.collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Kernel,
    Stub,
    TrustedFirmware,
}

fn raspberry(entry: Entry) -> Result<()> {
    let workspace = Workspace::locate();
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle.itb");
    let vm = linux::debian(Guest::Debian61, VCPUS, "")?;
    fs::write(&bundle, xtask::fit::write(Arch::Aarch64, &[vm])?)?;
    let tree = folder.path().join("tree.dtb");
    let source = File::RaspberryTree.path(&workspace);
    fs::copy(&source, &tree)
        .with_context(|| format!("{}: run `cargo xtask test`", source.display()))?;

    let mut command = Command::new(Arch::Aarch64.qemu());
    command.args(["-M", "raspi4b", "-display", "none", "-monitor", "none"]);
    // The first port is the PL011, the second the mini-UART, which the tree chooses; TF-A changes that.
    match entry {
        Entry::TrustedFirmware => command.args(["-serial", "stdio"]),
        Entry::Kernel | Entry::Stub => command.args(["-serial", "null", "-serial", "stdio"]),
    };
    if entry == Entry::Kernel {
        command.arg("-kernel").arg(host::image()?);
        command.arg("-dtb").arg(&tree).arg("-initrd").arg(&bundle);
    } else {
        complete_tree(&tree, fs::metadata(&bundle)?.len())?;
        let firmware = match entry {
            Entry::TrustedFirmware => File::RaspberryFirmware.path(&workspace),
            Entry::Kernel | Entry::Stub => build::machine(&workspace, "raspberry_stub"),
        };
        let prepared = folder.path().join("firmware.bin");
        fs::write(&prepared, with_addresses(&firmware)?)?;
        for (file, address) in
            [(prepared, 0), (host::image()?, KERNEL), (tree, TREE), (bundle, BUNDLE)]
        {
            let file = file.display();
            let loader = format!("loader,file={file},addr={address:#x},force-raw=on");
            command.args(["-device", &loader]);
        }
    }
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    emulator.expect("on Raspberry Pi 4 Model B")?;
    emulator.expect("4 of 4 CPUs")?;
    let memory = emulator.expect("GICv2")?;
    // The second range, behind the hole, is there only where firmware has said so.
    let free: u64 = memory
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .context("no amount of free memory")?;
    ensure!(free > if entry == Entry::Kernel { 800 } else { 1800 }, "only {free} MiB are free");
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "nproc")? == "4", "nproc does not say 4");
    // Only firmware gives a seed. Without one a device would let the driver wait for ever.
    let source = answer(&mut emulator, "cat /sys/class/misc/hw_random/rng_current")?;
    let expected = if entry == Entry::Kernel { "none" } else { "virtio_rng.0" };
    ensure!(source == expected, "random numbers come from {source}, not from {expected}");
    emulator.send("reboot\n")?;
    emulator.expect("vm \"linux\": started")?;
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "nproc")? == "4", "nproc does not say 4 after the restart");
    emulator.send("poweroff\n")?;
    // The watchdog ends the emulator, by the hypervisor's hand or by the firmware's.
    emulator.finish().map(drop)
}

/// Fills in what the firmware of the board does: memory with a hole, the bundle, and random bytes.
fn complete_tree(tree: &Path, bundle: u64) -> Result<()> {
    let put = |node: &str, property: &str, values: &[u64]| {
        let mut command = Command::new("fdtput");
        command.args(["-t", "x"]).arg(tree).args([node, property]);
        command.args(values.iter().map(|value| format!("{value:x}")));
        process::output(&mut command).map(drop)
    };
    // Two cells of address, one of size.
    put("/memory@0", "reg", &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0x4000_0000])?;
    put("/chosen", "linux,initrd-start", &[0, BUNDLE])?;
    put("/chosen", "linux,initrd-end", &[0, BUNDLE + bundle])?;
    put("/chosen", "rng-seed", &[0x7c0f_11d2, 0x93ae_54b8, 0x1d66_e70f, 0xc25b_8a39])
}

/// Firmware with the addresses that the board's boot loader writes into it.
fn with_addresses(file: &Path) -> Result<Vec<u8>> {
    let mut firmware =
        fs::read(file).with_context(|| format!("{}: run `cargo xtask test`", file.display()))?;
    let addresses = [TREE as u32, KERNEL as u32].map(u32::to_le_bytes).concat();
    let too_short = "the firmware is too short";
    firmware.get_mut(MARK).context(too_short)?.fill(0);
    firmware.get_mut(ADDRESSES).context(too_short)?.copy_from_slice(&addresses);
    Ok(firmware)
}
