//! Writes bundles: a standard flattened image tree with external data.
//!
//! The tree comes first and stays small; the payloads follow, each on a
//! page boundary, named by `data-position` and `data-size` (FIT
//! specification, "External data"). What FIT has no word for is a property
//! of the VM's configuration that starts with `bunshin,`.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use vm_fdt::FdtWriter;

use crate::arch::Arch;

/// Version of the properties that start with `bunshin,`.
pub const VERSION: u32 = 1;

/// Payloads start at multiples of this many bytes.
pub const ALIGNMENT: usize = 4096;

/// Longest name of a VM, so that the names of its images are valid node names.
pub const NAME_LENGTH: usize = 24;

/// Placement of a raw binary in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    /// Address of the first byte.
    pub load: u64,
    /// Address of the first instruction.
    pub entry: u64,
}

/// One virtual machine with its payloads.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Unique name, at most [`NAME_LENGTH`] characters of `[a-z0-9_-]`.
    pub name: String,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Kernel or firmware.
    pub kernel: Vec<u8>,
    /// Placement of a kernel that does not describe itself.
    pub raw: Option<Raw>,
    /// Initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Kernel command line.
    pub command_line: String,
    /// Host CPUs it may run on; empty means any.
    pub cpus: Vec<u32>,
    /// Share of a host CPU.
    pub weight: u32,
    /// Whether it starts at boot.
    pub autostart: bool,
}

/// A payload and the node that describes it.
struct Image<'a> {
    name: String,
    description: String,
    kind: &'static str,
    data: &'a [u8],
    raw: Option<Raw>,
    digest: [u8; 32],
}

/// The bundle of `vms` for a machine of `arch`. Payloads that several VMs share are stored once.
///
/// # Errors
/// When there is no VM or a name is not fit for a node.
pub fn write(arch: Arch, vms: &[Vm]) -> Result<Vec<u8>> {
    ensure!(!vms.is_empty(), "a bundle needs at least one vm");
    let mut images: Vec<Image<'_>> = Vec::new();
    let mut add = |vm: &Vm, kind, suffix: &str, data, raw| {
        let digest: [u8; 32] = Sha256::digest(data).into();
        let same = |i: &&Image<'_>| i.kind == kind && i.raw == raw && i.digest == digest;
        if let Some(image) = images.iter().find(same) {
            return image.name.clone();
        }
        let name = format!("{}-{suffix}", vm.name);
        let description = format!("{suffix} of {}", vm.name);
        images.push(Image { name: name.clone(), description, kind, data, raw, digest });
        name
    };
    let mut references = Vec::new();
    for vm in vms {
        let kind = if vm.raw.is_some() { "standalone" } else { "kernel" };
        let kernel = add(vm, kind, "kernel", &vm.kernel[..], vm.raw);
        let initrd = vm.initrd.as_ref().map(|data| add(vm, "ramdisk", "initrd", data, None));
        references.push((kernel, initrd));
    }

    // The length of the tree does not depend on the values of positions.
    let start = tree(arch, vms, &references, &images, 0)?.len().next_multiple_of(ALIGNMENT);
    let mut bundle = tree(arch, vms, &references, &images, start)?;
    for image in &images {
        bundle.resize(bundle.len().next_multiple_of(ALIGNMENT), 0);
        bundle.extend_from_slice(image.data);
    }
    // Bootloaders copy whole words.
    bundle.resize(bundle.len().next_multiple_of(8), 0);
    Ok(bundle)
}

fn tree(
    arch: Arch,
    vms: &[Vm],
    references: &[(String, Option<String>)],
    images: &[Image<'_>],
    start: usize,
) -> Result<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("description", "Bunshin bundle")?;
    fdt.property_u32("timestamp", timestamp())?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("bunshin,version", VERSION)?;

    let node = fdt.begin_node("images")?;
    let mut position = start;
    for image in images {
        let size = image.data.len();
        let node = fdt.begin_node(&image.name).with_context(|| format!("image {}", image.name))?;
        fdt.property_string("description", &image.description)?;
        fdt.property_u32("data-position", u32::try_from(position).context(TOO_BIG)?)?;
        fdt.property_u32("data-size", u32::try_from(size).context(TOO_BIG)?)?;
        fdt.property_string("type", image.kind)?;
        fdt.property_string("arch", arch.fit())?;
        fdt.property_string("os", "linux")?;
        fdt.property_string("compression", "none")?;
        if let Some(raw) = image.raw {
            fdt.property_u64("load", raw.load)?;
            fdt.property_u64("entry", raw.entry)?;
        }
        let hash = fdt.begin_node("hash-1")?;
        fdt.property_string("algo", "sha256")?;
        fdt.property("value", &image.digest)?;
        fdt.end_node(hash)?;
        fdt.end_node(node)?;
        position = (position + size).next_multiple_of(ALIGNMENT);
    }
    fdt.end_node(node)?;

    let node = fdt.begin_node("configurations")?;
    if let Some(first) = vms.first() {
        fdt.property_string("default", &first.name)?;
    }
    for (vm, (kernel, initrd)) in vms.iter().zip(references) {
        let node = fdt.begin_node(&vm.name).with_context(|| format!("vm {}", vm.name))?;
        fdt.property_string("description", &format!("virtual machine {}", vm.name))?;
        fdt.property_string("kernel", kernel)?;
        if let Some(initrd) = initrd {
            fdt.property_string("ramdisk", initrd)?;
        }
        fdt.property_u32("bunshin,vcpus", vm.vcpus)?;
        fdt.property_u64("bunshin,memory", vm.memory)?;
        fdt.property_string("bunshin,command-line", &vm.command_line)?;
        if !vm.cpus.is_empty() {
            fdt.property_array_u32("bunshin,cpus", &vm.cpus)?;
        }
        fdt.property_u32("bunshin,weight", vm.weight)?;
        if vm.autostart {
            fdt.property_null("bunshin,autostart")?;
        }
        fdt.end_node(node)?;
    }
    fdt.end_node(node)?;
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

const TOO_BIG: &str = "the bundle is 4 GiB or larger; a flattened image tree can't be";

/// Seconds since 1970; 0 unless the user asks for a date, so that the same
/// input always gives the same bundle.
fn timestamp() -> u32 {
    std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn vm(name: &str, kernel: &[u8], initrd: Option<&[u8]>) -> Vm {
        Vm {
            name: name.to_string(),
            vcpus: 4,
            memory: 512 << 20,
            kernel: kernel.to_vec(),
            raw: None,
            initrd: initrd.map(<[u8]>::to_vec),
            command_line: "console=ttyAMA0".to_string(),
            cpus: vec![0, 2],
            weight: 256,
            autostart: true,
        }
    }

    fn tool(program: &str, arguments: &[&str], bundle: &[u8]) -> Option<String> {
        crate::process::find(program)?;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.itb");
        std::fs::write(&file, bundle).unwrap();
        let mut command = Command::new(program);
        match program {
            "fdtget" => command.args(["-t", arguments[0]]).arg(&file).args(&arguments[1..]),
            _ => command.args(arguments).arg(&file),
        };
        Some(crate::process::output(&mut command).unwrap())
    }

    #[test]
    fn payloads_are_aligned_and_stored_once() {
        let initrd = vec![7; 5000];
        let bundle = write(
            Arch::Aarch64,
            &[vm("one", b"kernel", Some(&initrd)), vm("two", b"kernel", None)],
        )
        .unwrap();
        let find = |needle: &[u8]| -> Vec<usize> {
            let at = |start: &usize| bundle[*start..].starts_with(needle);
            (0..bundle.len()).filter(at).collect()
        };
        let initrd_at = find(&initrd)[0];
        assert_eq!(initrd_at % ALIGNMENT, 0);
        assert_eq!(bundle.len(), (initrd_at + initrd.len()).next_multiple_of(8));
        assert_eq!(find(b"kernel").iter().filter(|at| *at % ALIGNMENT == 0).count(), 1);
    }

    #[test]
    fn the_same_input_gives_the_same_bundle() {
        let vms = [vm("one", b"kernel", Some(b"initrd"))];
        assert_eq!(write(Arch::Aarch64, &vms).unwrap(), write(Arch::Aarch64, &vms).unwrap());
    }

    #[test]
    fn a_bundle_without_a_vm_is_refused() {
        assert!(write(Arch::Aarch64, &[]).is_err());
    }

    #[test]
    fn the_tools_of_u_boot_read_the_bundle() {
        let mut firmware = vm("fw", b"firmware", None);
        firmware.raw = Some(Raw { load: 0x4020_0000, entry: 0x4020_0040 });
        let bundle =
            write(Arch::Aarch64, &[vm("web", b"kernel", Some(b"initrd")), firmware]).unwrap();
        let Some(list) = tool("dumpimage", &["-l"], &bundle) else {
            return; // u-boot-tools is not installed
        };
        for expected in
            ["Bunshin bundle", "web-kernel", "web-initrd", "Hash algo:    sha256", "0x40200040"]
        {
            assert!(list.contains(expected), "no {expected} in {list}");
        }
    }

    #[test]
    fn fdtget_reads_the_bundle() {
        let bundle = write(Arch::Aarch64, &[vm("web", b"kernel", None)]).unwrap();
        for (kind, node, property, expected) in [
            ("s", "/configurations", "default", "web"),
            ("s", "/configurations/web", "kernel", "web-kernel"),
            ("u", "/configurations/web", "bunshin,cpus", "0 2"),
            ("u", "/images/web-kernel", "data-size", "6"),
        ] {
            let Some(value) = tool("fdtget", &[kind, node, property], &bundle) else {
                return; // device-tree-compiler is not installed
            };
            assert_eq!(value.trim(), expected, "{node} {property}");
        }
    }
}
