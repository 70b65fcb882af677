//! Xen, as Debian packages it, without a first domain: it starts the guest that the device tree names (Xen,
//! docs/misc/arm/device-tree/booting.txt).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use super::super::counter;
use super::super::figures::{self, Figures};
use super::super::linux::{self, Payload, Rows};
use super::super::machine::{self, CPUS, MODELS};
use crate::apt::{self, PrivateApt};
use crate::arch::Arch;
use crate::build;
use crate::process;
use crate::qemu;
use crate::vmfile::Size;
use crate::workspace::Workspace;

const PACKAGE: &str = "xen-hypervisor-4.17-arm64";
const FILE: &str = "./boot/xen-4.17-arm64";
const HOST_MEMORY: Size = Size(2 << 30);
/// Memory of the guest in KiB.
const GUEST_KIB: u32 = 256 << 10;
/// Where the guest's kernel and RAM disk wait.
const KERNEL: u32 = 0x6000_0000;
const RAMDISK: u32 = 0x7000_0000;
/// What Xen is told. Memory that it clears first would only take time.
const OPTIONS: &str = "console=dtuart dtuart=/pl011@9000000 bootscrub=0";
const LIMIT: Duration = Duration::from_secs(900);
/// Rows that a guest without a disk does not have.
const DISK_ROWS: [&str; 2] = ["disk-read", "disk-write"];

/// Fetches Xen, unless it is there.
///
/// # Errors
/// As apt's.
pub fn fetch(workspace: &Workspace) -> Result<PathBuf> {
    let file = workspace.guests().join("xen/xen.img");
    if !file.is_file() {
        let root = workspace.guests().join("apt-xen");
        let apt = PrivateApt::create(&root, &apt::system_mirror()?, Arch::Aarch64)?;
        apt.update()?;
        apt.extract(&apt.download(PACKAGE)?, FILE, &file)?;
        fs::remove_dir_all(&root)?;
    }
    Ok(file)
}

/// A file that waits in the host's memory.
#[derive(Debug, Clone, Copy)]
struct Module<'a> {
    kind: &'static str,
    address: u32,
    file: &'a Path,
    length: u32,
}

impl<'a> Module<'a> {
    fn new(kind: &'static str, address: u32, file: &'a Path) -> Result<Self> {
        let length = fs::metadata(file).with_context(|| file.display().to_string())?.len();
        Ok(Module { kind, address, file, length: u32::try_from(length)? })
    }
}

/// The host's device tree `host` with a guest of `cpus` virtual CPUs in it.
fn tree(host: &[u8], cpus: u32, command_line: &str, modules: &[Module<'_>]) -> Result<Vec<u8>> {
    let wrong = |error: &dyn std::fmt::Display| anyhow!("the emulator's device tree: {error}");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(host).map_err(|error| wrong(&error))?);
    let text = |name: &str, value: &str| DeviceTreeProperty::new_unchecked(name, value);
    let texts = |name: &str, value: &[&str]| DeviceTreeProperty::new_unchecked(name, value);
    let cells = |name: &str, value: &[u32]| DeviceTreeProperty::new_unchecked(name, value);
    let two = [cells("#address-cells", &[2]), cells("#size-cells", &[2])];
    let mut domain = DeviceTreeNode::new_unchecked("domU1");
    for property in two.clone().into_iter().chain([
        text("compatible", "xen,domain"),
        cells("memory", &[0, GUEST_KIB]),
        cells("cpus", &[cpus]),
        cells("vpl011", &[]),
    ]) {
        domain.add_property(property);
    }
    for Module { kind, address, length, .. } in modules {
        let mut module = DeviceTreeNode::new_unchecked(format!("module@{address:x}"));
        module.add_property(texts("compatible", &[kind, "multiboot,module"]));
        module.add_property(cells("reg", &[0, *address, 0, *length]));
        if *address == KERNEL {
            module.add_property(text("bootargs", command_line));
        }
        domain.add_child(module);
    }
    let chosen = tree.root.child_mut("chosen").context("the emulator's device tree: no /chosen")?;
    for property in two.into_iter().chain([text("xen,xen-bootargs", OPTIONS)]) {
        chosen.add_property(property);
    }
    chosen.add_child(domain);
    Ok(tree.to_dtb())
}

/// The emulator with Xen and a guest of `modules`.
fn host(
    workspace: &Workspace,
    xen: &Path,
    (host_cpus, cpus): (u32, u32),
    command_line: &str,
    modules: &[Module<'_>],
) -> Result<Command> {
    let [model, ..] = MODELS;
    let machine = qemu::Machine { gic: 3, cpu: Some(machine::model(model)), smp: None };
    let command = || -> Result<Command> {
        let mut command = machine.command(Arch::Aarch64, host_cpus, HOST_MEMORY)?;
        command.args(["-machine", "dtb-randomness=off", "-nodefaults"]);
        Ok(command)
    };
    let file = workspace.target().join("bench-xen.dtb");
    let dump = format!("dumpdtb={}", file.display().to_string().replace(',', ",,"));
    process::output(command()?.args(["-machine", &dump]))?;
    fs::write(&file, tree(&fs::read(&file)?, cpus, command_line, modules)?)?;
    let mut command = command()?;
    command.arg("-kernel").arg(xen).arg("-dtb").arg(&file);
    for Module { address, file, .. } in modules {
        let file = file.display().to_string().replace(',', ",,");
        let device = format!("loader,file={file},addr={address:#x},force-raw=on");
        command.args(["-device", &device]);
    }
    machine::counting(&mut command);
    Ok(command)
}

/// The exits that the benchmark's guest counts.
///
/// # Errors
/// When the emulator fails or the guest does not come to its end.
pub fn figures(workspace: &Workspace) -> Result<Figures> {
    let xen = fetch(workspace)?;
    let guest = build::guest(workspace, Arch::Aarch64, "bench");
    let modules = [Module::new("multiboot,kernel", KERNEL, &guest)?];
    let mut all = Figures::new();
    for (host_cpus, mode) in [(CPUS, ""), (1, "shared")] {
        let options = format!("mode={mode}");
        let command = host(workspace, &xen, (host_cpus, CPUS), &options, &modules)?;
        let text = machine::output(command, 1, LIMIT)?;
        fs::write(workspace.target().join(format!("bench-xen-{host_cpus}.log")), &text)?;
        all.extend(figures::parse(&text)?);
    }
    Ok(all)
}

/// The workloads of Linux, those without a disk.
///
/// # Errors
/// As [`figures()`].
pub fn linux(workspace: &Workspace, payload: &Payload) -> Result<Rows> {
    let xen = fetch(workspace)?;
    let modules = [
        Module::new("multiboot,kernel", KERNEL, &payload.kernel)?,
        Module::new("multiboot,ramdisk", RAMDISK, &payload.initrd)?,
    ];
    let mut command = host(workspace, &xen, (1, 1), "console=ttyAMA0", &modules)?;
    let counter = counter::build(workspace)?;
    let out = workspace.target().join("bench-xen.count");
    counter::add(&mut command, &counter, &counter::range(&xen)?, &out);
    let text = machine::output(command, 1, LIMIT)?;
    fs::write(workspace.target().join("bench-xen-linux.log"), text)?;
    let mut rows = linux::rows(&counter::read(&out)?)?;
    rows.retain(|name, _| !DISK_ROWS.contains(&name.as_str()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use dtoolkit::{Node, Property};

    use super::*;

    #[test]
    fn the_guest_is_in_the_device_tree() {
        let mut host = DeviceTree::new();
        host.root.add_child(DeviceTreeNode::new("chosen").unwrap());
        let file = Path::new("kernel");
        let module = Module { kind: "multiboot,kernel", address: KERNEL, file, length: 5 };
        let made = tree(&host.to_dtb(), 2, "mode=x", &[module]).unwrap();
        let made = DeviceTree::from_fdt(&Fdt::new(&made).unwrap());
        let value = |node: &str, name: &str| {
            made.find_node(node).unwrap().property(name).unwrap().value().to_vec()
        };
        assert_eq!(value("/chosen/domU1", "cpus"), [0, 0, 0, 2]);
        let module = "/chosen/domU1/module@60000000";
        assert_eq!(value(module, "reg"), [0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(value(module, "compatible"), b"multiboot,kernel\0multiboot,module\0");
        assert_eq!(value(module, "bootargs"), b"mode=x\0");
        assert!(tree(b"something else", 1, "", &[]).is_err());
    }
}
