//! Devices of a host that guests have for themselves: one that only has registers, and disks that access memory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::setup::Guest;

use crate::emulator::Emulator;
use crate::host::Host;
use crate::linux::{self, PROMPT, answer};
use crate::{Case, case, host};

const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Case> {
    let ports = [2, 3].map(|gic| {
        case(format!("passed::a_guest_uses_a_serial_port_of_the_host/gic{gic}"), move || {
            serial_port(Host { gic, ..host::USUAL })
        })
    });
    let pins = case("passed::a_guest_hears_of_a_pin_of_the_host", pin);
    let disks = [2, 3].map(|gic| {
        case(format!("passed::a_guest_with_direct_memory_drives_a_disk/gic{gic}"), move || {
            disk(Host { gic, ..host::USUAL })
        })
    });
    let refused = case("passed::a_device_that_a_guest_cannot_have_is_named", refused);
    ports.into_iter().chain(disks).chain([pins, refused]).collect()
}

/// The second serial port of QEMU's `virt`, which is there if something is behind it.
const PASSED: &str = "/pl011@9040000";
/// Its interrupt at the guest: the first behind those of the guest's own devices.
const FIRST_INTERRUPT: u32 = 144;

fn serial_port(host: Host) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let line = folder.path().join("line");
    let mut vm = linux::debian(Guest::Debian61, 2, "")?;
    vm.devices = vec![PASSED.to_string()];
    let bundle = folder.path().join("bundle.itb");
    fs::write(&bundle, xtask::fit::write(Arch::Aarch64, &[vm])?)?;
    let mut command = host.command()?;
    command
        .arg("-chardev")
        .arg(format!("socket,id=line,path={},server=on,wait=off", line.display()))
        .args(["-serial", "chardev:line"])
        .arg("-kernel")
        .arg(host::image()?)
        .arg("-initrd")
        .arg(&bundle);
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    emulator.expect(PROMPT)?;
    let mut line = UnixStream::connect(&line)?;
    line.set_read_timeout(Some(LIMIT))?;
    let other_end = thread::spawn(move || -> Result<()> {
        let mut heard = Vec::new();
        while !heard.ends_with(b"ready") {
            let mut byte = [0];
            line.read_exact(&mut byte)?;
            heard.extend(byte);
        }
        Ok(line.write_all(b"from the wire\n")?)
    });
    // `head` waits, and only the device's interrupt wakes it.
    let text = answer(
        &mut emulator,
        "exec 3<>/dev/ttyAMA1; echo ready >&3; head -n 1 <&3; grep pl011 /proc/interrupts; exec 3>&-",
    )?;
    other_end.join().map_err(|_| anyhow::anyhow!("the other end of the line panicked"))??;
    ensure!(text.contains("from the wire"), "the guest read something else: {text}");
    ensure!(interrupts(&text, FIRST_INTERRUPT)? > 0, "the port has not interrupted: {text}");
    emulator.send("poweroff\n")?;
    emulator.finish().map(drop)
}

/// Switches the emulator's line between the guest and its monitor: the escape that `xtask::qemu` gives it, then c.
const MONITOR: &str = "\x1dc";

/// The pins of QEMU's `virt`, a PL061: its power button is the fourth.
fn pin() -> Result<()> {
    let mut vm = linux::debian(Guest::Debian612, 2, "")?;
    vm.devices = vec!["/pl061@9030000".to_string()];
    let mut emulator = host::USUAL.boot(&[vm], LIMIT)?;
    emulator.expect(PROMPT)?;
    let pins = answer(
        &mut emulator,
        "cd /sys/class/gpio; chip=$(basename gpiochip*); pin=$((${chip#gpiochip} + 3)); echo $pin > export; \
         echo both > gpio$pin/edge; cat gpio$pin/edge gpio$pin/value",
    )?;
    ensure!(pins.starts_with("both"), "the pin cannot be watched: {pins}");
    emulator.send(&format!("{MONITOR}system_powerdown\n{MONITOR}"))?;
    let found = answer(&mut emulator, "sleep 2; grep gpiolib /proc/interrupts; cd")?;
    let count: u64 =
        found.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum();
    ensure!(count > 0, "the button was not heard of: {found}");
    emulator.send("poweroff\n")?;
    emulator.finish().map(drop)
}

/// How often interrupt `number` came, by the lines of `/proc/interrupts`.
fn interrupts(text: &str, number: u32) -> Result<u64> {
    let of = |line: &&str| line.split_whitespace().any(|word| word == number.to_string());
    let line = text.lines().find(of).with_context(|| format!("no interrupt {number}: {text}"))?;
    Ok(line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum())
}

/// The page of QEMU's `virt` that has the virtio transports 24 to 31, which are all there, used or not.
const PAGE: u64 = 0xa00_3000;
const TRANSPORT_SIZE: u64 = 0x200;
const TRANSPORTS: u32 = 8;
const SECTOR: usize = 512;

/// When the guest has interrupt `number` go to its other virtual CPU, the physical one goes to that one's host CPU.
fn interrupts_follow(emulator: &mut Emulator, number: u32) -> Result<()> {
    /// `GICD_IROUTER` of SPI 47, the last transport's.
    const ROUTE: u64 = 0x0800_6000 + 8 * (32 + 47);
    let route = |emulator: &mut Emulator| {
        emulator.send(&format!("{MONITOR}xp /1gx {ROUTE:#x}\n{MONITOR}"))?;
        emulator.expect_line(&format!("{ROUTE:016x}: "))
    };
    let before = route(emulator)?;
    answer(
        emulator,
        &format!(
            "echo 2 > /proc/irq/$(grep ' {number} ' /proc/interrupts | cut -d: -f1 | tr -d ' ')/smp_affinity; \
             for part in 1 2 3; do dd if=/dev/vda of=/dev/null bs=64k skip=$part count=1 2>/dev/null; done"
        ),
    )?;
    let after = route(emulator)?;
    ensure!(before != after, "the physical interrupt still goes to {after}");
    Ok(())
}

/// The disk is behind the last transport. Its reads and writes go to the guest's memory without the hypervisor.
fn disk(host: Host) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("disk.img");
    let mut sectors = vec![b'.'; 2048 * SECTOR];
    sectors[SECTOR..][..14].copy_from_slice(b"from the host\n");
    fs::write(&image, &sectors)?;
    let mut vm = linux::debian(Guest::Debian612, 2, "")?;
    vm.direct_memory = true;
    let page = u64::from(TRANSPORTS);
    vm.devices =
        (0..page).map(|slot| format!("/virtio_mmio@{:x}", PAGE + slot * TRANSPORT_SIZE)).collect();
    let bundle = folder.path().join("bundle.itb");
    fs::write(&bundle, xtask::fit::write(Arch::Aarch64, &[vm])?)?;
    let mut command = host.command()?;
    command
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-drive", &format!("if=none,id=disk,format=raw,file={}", image.display())])
        .args(["-device", "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.31"])
        .arg("-kernel")
        .arg(host::image()?)
        .arg("-initrd")
        .arg(&bundle);
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    let place = emulator.expect_line("vm \"linux\": 512 MiB of memory at the host's address 0x")?;
    for (number, word) in [(1, "once"), (2, "again")] {
        emulator.expect(PROMPT)?;
        let memory = answer(&mut emulator, "grep 'System RAM' /proc/iomem | head -n 1")?;
        ensure!(memory.starts_with(&place), "{memory}, but the host's address is {place}");
        let text = answer(
            &mut emulator,
            &format!(
                "dd if=/dev/vda bs=512 skip=1 count=1 2>/dev/null | head -n 1; \
                 echo {word} | dd of=/dev/vda bs=512 seek={} conv=fsync 2>/dev/null; \
                 grep virtio /proc/interrupts",
                number + 1
            ),
        )?;
        ensure!(text.contains("from the host"), "the guest read something else: {text}");
        let last = FIRST_INTERRUPT + TRANSPORTS - 1;
        ensure!(interrupts(&text, last)? > 1, "the disk has not interrupted: {text}");
        let written = fs::read(&image)?;
        let line = written.get((number + 1) * SECTOR..).unwrap_or_default();
        ensure!(line.starts_with(word.as_bytes()), "{word:?} is not on the disk");
        if number == 1 && host.gic == 3 {
            interrupts_follow(&mut emulator, last)?;
        }
        emulator.send(if number == 1 { "reboot\n" } else { "poweroff\n" })?;
        if number == 1 {
            emulator.expect("vm \"linux\": started")?;
        }
    }
    emulator.finish().map(drop)
}

fn refused() -> Result<()> {
    for (path, direct_memory, reason) in [
        ("/pl011@9000000", false, "the hypervisor or another VM has it"),
        ("/virtio_mmio@a000000", false, "may access memory by itself"),
        ("/virtio_mmio@a000000", true, "shares a page of registers with /virtio_mmio@a000200"),
        ("/intc@8000000", true, "a part of the machine"),
        ("/nothing", false, "no device /nothing"),
    ] {
        let mut vm = host::vm("greedy", host::small("hello")?, 1, 16 << 20);
        vm.devices = vec![path.to_string()];
        vm.direct_memory = direct_memory;
        let mut emulator = host::USUAL.boot(&[vm], LIMIT)?;
        emulator.expect("vm \"greedy\": ")?;
        let found = emulator.expect("\n")?;
        ensure!(found.contains(reason), "{path}: {found:?}");
    }
    Ok(())
}
