//! How the image is entered, and what it does with nothing to run.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use xtask::arch::Arch;
use xtask::setup::Guest;

use crate::emulator::Emulator;
use crate::host::{self, Host, USUAL};
use crate::linux;
use crate::{Case, case};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Case> {
    vec![
        case("boot::without_a_bundle_the_embedded_guest_runs", embedded),
        case("boot::at_el1_the_image_says_so_and_stays", at_el1),
        case("boot::at_el3_the_image_says_so_and_stays", at_el3),
        case("boot::entered_with_e2h_as_by_m1n1/gic3/max/4cpu", || {
            entered_with_e2h(Host { gic: 3, cpu: "max", cpus: 4 })
        }),
        case("boot::entered_with_e2h_as_by_m1n1/gic2/max/1cpu", || {
            entered_with_e2h(Host { gic: 2, cpu: "max", cpus: 1 })
        }),
    ]
}

fn embedded() -> Result<()> {
    let mut emulator = USUAL.boot_image(&fs::read(host::image()?)?, None, LIMIT)?;
    emulator.expect("Hello from a guest at EL1")?;
    // The host ends with its last guest.
    emulator.finish().map(drop)
}

fn at_el1() -> Result<()> {
    let mut command = std::process::Command::new(Arch::Aarch64.qemu());
    command
        .args(["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-m", "512M", "-nographic"])
        .args(["-nodefaults", "-serial", "mon:stdio", "-kernel"])
        .arg(host::image()?);
    let mut emulator = Emulator::start(command, LIMIT, None)?;
    emulator.expect("started at EL1")?;
    emulator.survive(Duration::from_secs(1))
}

/// Firmware at EL3 that has no wish to leave it jumps to the image.
fn at_el3() -> Result<()> {
    /// Where QEMU leaves the device tree when it has no kernel to give it to.
    const TREE: u32 = 0x4000_0000;
    const STUB: u32 = 0x4020_0000;
    const IMAGE: u32 = 0x4040_0000;
    const BR_X1: u32 = 0xd61f_0020;
    let movz_high = |register: u32, value: u32| 0xd2a0_0000 | (value >> 16) << 5 | register;
    let stub = [movz_high(0, TREE), movz_high(1, IMAGE), BR_X1];

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("stub.bin");
    fs::write(&file, stub.map(u32::to_le_bytes).concat())?;
    let mut command = std::process::Command::new(Arch::Aarch64.qemu());
    command
        .args(["-M", "virt,secure=on,virtualization=on", "-cpu", "cortex-a72", "-m", "512M"])
        .args(["-nographic", "-nodefaults", "-serial", "mon:stdio"]);
    for (file, address) in [(host::image()?, IMAGE), (file, STUB)] {
        let file = file.display();
        command.args(["-device", &format!("loader,file={file},addr={address:#x},force-raw=on")]);
    }
    command.args(["-device", &format!("loader,addr={STUB:#x},cpu-num=0")]);
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    emulator.expect("started at EL3")?;
    emulator.survive(Duration::from_secs(1))
}

fn entered_with_e2h(host: Host) -> Result<()> {
    let bundle =
        xtask::fit::write(Arch::Aarch64, &[linux::debian(Guest::Debian612, 4, linux::SELFTEST)?])?;
    let image = with_e2h_set(&fs::read(host::image()?)?);
    let mut emulator = host.boot_image(&image, Some(&bundle), linux::LIMIT)?;
    emulator.expect("E2H=1")?;
    linux::judge_selftest(&mut emulator, 4)?;
    emulator.finish().map(drop)
}

/// Puts a stub before `image` that leaves HCR_EL2 as m1n1 does. The result is
/// an arm64 `Image` again, so that the emulator passes the device tree in x0.
fn with_e2h_set(image: &[u8]) -> Vec<u8> {
    /// Images start at multiples of 2 MiB.
    const STUB: usize = 2 << 20;
    /// API, APK, TEA, E2H, RW, TGE, AMO, IMO, FMO: m1n1's value for a payload.
    const HCR: u64 = 0x0000_0324_8800_0038;
    /// The stub's code starts behind the header.
    const CODE: usize = 64;
    const NOP: u32 = 0xd503_201f;
    const ISB: u32 = 0xd503_3fdf;
    const MSR_HCR_EL2_X9: u32 = 0xd51c_1109;
    let half = |index: u32| ((HCR >> (16 * index)) & 0xffff) as u32;
    let move_wide = |opcode: u32, index: u32| opcode | index << 21 | half(index) << 5 | 9;
    let movz = |index| move_wide(0xd280_0000, index);
    let movk = |index| move_wide(0xf280_0000, index);
    let branch = |from: usize, to: usize| 0x1400_0000 | ((to - from) / 4) as u32;

    let mut words = vec![branch(0, CODE), NOP];
    let size = (STUB + image.len() + (8 << 20)) as u64;
    // text_offset, image_size, flags (little endian, 4 KiB pages, anywhere), three reserved.
    for double in [0, size, 0b1010, 0, 0, 0] {
        words.extend([double as u32, (double >> 32) as u32]);
    }
    words.extend([u32::from_le_bytes(*b"ARM\x64"), 0]);
    words.extend([movz(0), movk(1), movk(2), movk(3), MSR_HCR_EL2_X9, ISB]);
    words.push(branch(words.len() * 4, STUB));

    let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    file.resize(STUB, 0);
    file.extend_from_slice(image);
    file
}
