use super::*;
use std::process::Command;

fn vm(name: &str, kernel: &[u8], initrd: Option<&[u8]>) -> Vm {
    Vm {
        initrd: initrd.map(<[u8]>::to_vec),
        command_line: "console=ttyAMA0".to_string(),
        cpus: vec![0, 2],
        ..Vm::new(name, kernel.to_vec(), 4, 512 << 20)
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
    let bundle =
        write(Arch::Aarch64, &[vm("one", b"kernel", Some(&initrd)), vm("two", b"kernel", None)])
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
    let bundle = write(Arch::Aarch64, &[vm("web", b"kernel", Some(b"initrd")), firmware]).unwrap();
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

/// A VM with one of everything.
fn rich() -> Vm {
    let mut data = vec![0; 2 * 4096];
    data.fill(7);
    let image = SparseImage { size: 1 << 20, extents: vec![(0, 1), (9, 1)], data };
    let disk = |source| Disk { source, read_only: false };
    Vm {
        pinned: true,
        reservation: Some((2000, 10_000)),
        disks: vec![
            disk(DiskSource::Image(image)),
            disk(DiskSource::Image(SparseImage::blank(4096))),
            Disk { source: DiskSource::Host { disk: 0, partition: Some(2) }, read_only: true },
        ],
        nets: vec![Net { mac: [0x52, 0x54, 0, 0, 1, 2], vlan: Some(7) }],
        devices: vec!["/pl061@9030000".to_string()],
        ..vm("web", b"kernel", None)
    }
}

#[test]
fn fdtget_reads_devices() {
    let bundle =
        write_with_uplinks(Arch::Aarch64, &[rich()], &[Uplink { nic: 1, vlan: None }]).unwrap();
    for (kind, node, property, expected) in [
        ("u", "/configurations/web", "bunshin,budget", "2000"),
        ("s", "/configurations/web/disk-0", "image", "web-disk-0"),
        ("u", "/configurations/web/disk-0", "bunshin,extents", "0 1 9 1"),
        ("s", "/images/web-disk-0", "type", "filesystem"),
        ("u", "/configurations/web/disk-1", "bunshin,size", "0 4096"),
        ("u", "/configurations/web/disk-2", "bunshin,partition", "2"),
        ("bx", "/configurations/web/net-0", "bunshin,mac", "52 54 0 0 1 2"),
        ("u", "/configurations/web/net-0", "bunshin,vlan", "7"),
        ("s", "/configurations/web/device-0", "bunshin,path", "/pl061@9030000"),
        ("u", "/uplinks/uplink-0", "bunshin,nic", "1"),
    ] {
        let Some(value) = tool("fdtget", &[kind, node, property], &bundle) else {
            return; // device-tree-compiler is not installed
        };
        assert_eq!(value.trim(), expected, "{node} {property}");
    }
}
