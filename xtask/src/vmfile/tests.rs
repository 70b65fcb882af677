use super::*;

/// The header of an arm64 `Image`, as far as it matters.
const IMAGE: &[u8] = &{
    let mut header = [0; 64];
    header[0x38] = b'A';
    header[0x39] = b'R';
    header[0x3a] = b'M';
    header[0x3b] = b'd';
    header
};

/// An ELF file for AArch64, as far as it matters.
const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0";

#[test]
fn linux_gets_the_console_of_its_machine_unless_the_user_named_one() {
    for (cmdline, arm, pc) in [
        ("", "console=ttyAMA0", "console=ttyS0"),
        ("quiet a=b", "console=ttyAMA0 quiet a=b", "console=ttyS0 quiet a=b"),
        ("quiet console=hvc0", "quiet console=hvc0", "quiet console=hvc0"),
        ("no_console=1", "console=ttyAMA0 no_console=1", "console=ttyS0 no_console=1"),
    ] {
        assert_eq!(with_console(cmdline, Arch::Aarch64), arm);
        assert_eq!(with_console(cmdline, Arch::X86_64), pc);
    }
}

const WEB: &str = "[machine]\ncpus = 4\nmemory = \"2G\"\n\n[[vm]]\nname = \"web\"\n\
    memory = \"512M\"\nkernel = \"Image\"\n";

#[test]
fn a_short_file_gets_the_defaults() {
    let file = VmFile::parse(WEB, "web.toml").unwrap();
    let vm = file.vms[0].get_ref();
    assert_eq!((vm.vcpus, vm.memory, vm.weight), (1, Size(512 << 20), DEFAULT_WEIGHT));
    assert!(vm.autostart && vm.cpus.is_empty() && vm.initrd.is_none());
    assert_eq!(file.machine.memory, Some(Size(2 << 30)));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let with = |line: &str| format!("{WEB}{line}\n");
    for (text, expected) in [
        (with("colour = 1"), "web.toml:9: unknown field `colour`"),
        (with("vcpus = 0"), "web.toml:5: vm \"web\": vcpus = 0: a vm has 1 to 64"),
        (with("vcpus = 65"), "web.toml:5: vm \"web\": vcpus = 65: a vm has 1 to 64"),
        (with("vcpus = -1"), "web.toml:9: "),
        (with("weight = 0"), "web.toml:5: vm \"web\": weight = 0: a weight is 1 to 1024"),
        (with("cpus = [0, 4]"), "web.toml:5: vm \"web\": cpus names CPU 4"),
        (with("cmdline = \"a\\u0000\""), "web.toml:5: vm \"web\": cmdline holds a NUL"),
        (with("raw = { entry = 1 }"), "web.toml:9: missing field `load`"),
        (with(&WEB[WEB.find("[[vm]]").unwrap()..]), "web.toml:9: vm \"web\": another vm"),
        (WEB.replace("\"web\"", "\"We b\""), "web.toml:5: vm \"We b\": a name has"),
        (WEB.replace("512M", "513K"), "web.toml:5: vm \"web\": memory of 525312 bytes"),
        (WEB.replace("512M", "2G"), "web.toml:5: vm \"web\": memory of 2048 MiB does not"),
        (WEB.replace("512M", "512Q"), "web.toml:7: size \"512Q\": unknown unit"),
        ("[machine]\n".to_string(), "web.toml: no [[vm]]"),
        ("[[vm]]\nname = \"a\"\nmemory = 0\nkernel = \"\"\n".repeat(65), "web.toml: 65 VMs;"),
        ("= 1".to_string(), "web.toml:1: "),
    ] {
        let error = format!("{:#}", VmFile::parse(&text, "web.toml").unwrap_err());
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("4096", Some(4096)),
        ("64K", Some(65536)),
        ("512MiB", Some(512 << 20)),
        ("3G", Some(3 << 30)),
        ("", None),
        ("M", None),
        ("-1M", None),
        ("1.5G", None),
        ("99999999999999G", None),
    ] {
        assert_eq!(text.parse::<Size>().ok(), bytes.map(Size), "{text}");
    }
}

#[test]
fn payloads_are_read_relative_to_the_file_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let guests = folder.path().join("guests");
    fs::create_dir_all(guests.join("u-boot")).unwrap();
    fs::write(guests.join("u-boot/u-boot.bin"), "uboot").unwrap();
    fs::write(folder.path().join("Image"), ELF).unwrap();
    let mut file = VmFile::parse(WEB, "web.toml").unwrap();
    let small = folder.path().join("small");
    let folders = Folders { base: folder.path().to_path_buf(), guests, small: small.clone() };
    let resolve = |file: &VmFile| file.resolve(&folders, Arch::Aarch64);

    let vm = &resolve(&file).unwrap()[0];
    assert_eq!((&vm.kernel[..], vm.raw), (ELF, None));

    file.vms[0].get_mut().kernel = "u-boot".to_string();
    let vm = &resolve(&file).unwrap()[0];
    let raw = fit::Raw { load: 0x4020_0000, entry: 0x4020_0000 };
    assert_eq!((&vm.kernel[..], vm.raw), (&b"uboot"[..], Some(raw)));

    fs::write(folder.path().join("large"), [IMAGE, &vec![0; 3 << 20]].concat()).unwrap();
    file.vms[0].get_mut().memory = Size(MEMORY_GRANULE);
    for (name, reason) in [
        ("debian:6.1", "cargo xtask setup"),
        ("absent", "can't read"),
        ("guest:hello", "cargo xtask build"),
        ("large", "kernel and initrd have 4 MiB; memory of 2 MiB does not hold them"),
    ] {
        file.vms[0].get_mut().kernel = name.to_string();
        let error = format!("{:#}", resolve(&file).unwrap_err());
        assert!(error.starts_with("vm \"web\": ") && error.contains(reason), "{error}");
    }
}

#[test]
fn small_guests_are_kernels_by_name() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello.img"), IMAGE).unwrap();
    let text = WEB.replace("\"Image\"", "\"guest:hello\"");
    let file = VmFile::parse(&text, "web.toml").unwrap();
    assert_eq!(file.small_guests().collect::<Vec<_>>(), ["hello"]);
    let (base, guests) = (PathBuf::new(), PathBuf::new());
    let folders = Folders { base, guests, small: folder.path().to_path_buf() };
    assert_eq!(file.resolve(&folders, Arch::Aarch64).unwrap()[0].kernel, IMAGE);
}

/// A VM with one of everything, and an uplink.
const RICH: &str = r#"
[[vm]]
name = "web"
memory = "512M"
kernel = "Image"
pinned = true
control = true
balloon = true
direct_memory = true
reservation = { budget = 2000, period = 10000 }

[[vm.disk]]
image = "root.img"
size = "1M"

[[vm.disk]]
host = 1
partition = 2
read_only = true

[[vm.disk]]
size = "64M"

[[vm.net]]

[[vm.net]]
mac = "52:54:00:00:01:02"
vlan = 4094

[[vm.device]]
path = "/pl061@9030000"

[[uplink]]
vlan = 7
"#;

#[test]
fn devices_are_resolved() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Image"), IMAGE).unwrap();
    fs::write(folder.path().join("root.img"), [1; 5000]).unwrap();
    let base = folder.path().to_path_buf();
    let folders = Folders { base, guests: PathBuf::new(), small: PathBuf::new() };
    let text = RICH.replace(
        "[[uplink]]",
        "[[vm]]\nname = \"db\"\nmemory = \"64M\"\nkernel = \"Image\"\n[[vm.net]]\n\n[[uplink]]",
    );
    let file = VmFile::parse(&text, "web.toml").unwrap();
    let vms = file.resolve(&folders, Arch::Aarch64).unwrap();
    let web = &vms[0];
    assert!(web.pinned && web.control && web.balloon && web.direct_memory);
    assert_eq!(web.reservation, Some((2000, 10_000)));
    let [root, host, blank] = &web.disks[..] else { panic!("{:?}", web.disks) };
    let fit::DiskSource::Image(image) = &root.source else { panic!("{root:?}") };
    assert_eq!((image.size, &image.extents[..], image.data.len()), (1 << 20, &[(0, 2)][..], 8192));
    assert!(matches!(host.source, fit::DiskSource::Host { disk: 1, partition: Some(2) }));
    assert!(host.read_only && !root.read_only);
    let fit::DiskSource::Image(image) = &blank.source else { panic!("{blank:?}") };
    assert_eq!((image.size, image.data.len()), (64 << 20, 0));
    let ports: Vec<_> = vms.iter().flat_map(|vm| &vm.nets).map(|net| (net.mac, net.vlan)).collect();
    assert_eq!(
        ports,
        [
            ([0x52, 0x54, 0, 0, 0, 0], None),
            ([0x52, 0x54, 0, 0, 1, 2], Some(4094)),
            ([0x52, 0x54, 0, 0, 1, 0], None)
        ]
    );
    assert_eq!(web.devices, ["/pl061@9030000"]);
    let devices = file.host_devices(Path::new("vms"));
    assert_eq!((devices.nics, devices.disks.len()), (1, 0));
    let uplinks = file.resolve_uplinks();
    assert_eq!((uplinks[0].nic, uplinks[0].vlan), (0, Some(7)));
}

#[test]
fn errors_about_devices_name_the_file_and_the_line() {
    let replace = |from: &str, to: &str| {
        assert!(RICH.contains(from), "{from}");
        RICH.replacen(from, to, 1)
    };
    for (text, expected) in [
        (replace("budget = 2000", "budget = 0"), "f:2: vm \"web\": reservation: budget = 0 us is"),
        (replace("budget = 2000", "budget = 10001"), "f:2: vm \"web\": reservation: budget = 100"),
        (
            replace("size = \"1M\"", "size = \"1M\"\nformat = \"ext4\""),
            "f:2: vm \"web\": disk 0: e",
        ),
        (replace("size = \"1M\"", "format = \"fat\""), "f:14: unknown variant `fat`"),
        (replace("size = \"1M\"", "size = 0"), "f:2: vm \"web\": disk 0: size of 0 bytes is not"),
        (replace("size = \"1M\"", "size = 513"), "f:2: vm \"web\": disk 0: size of 513 bytes is "),
        (replace("size = \"1M\"", "partition = 1"), "f:2: vm \"web\": disk 0: partition belongs"),
        (replace("partition = 2", "partition = 0"), "f:2: vm \"web\": disk 1: partition = 0: pa"),
        (replace("partition = 2", "size = \"1M\""), "f:2: vm \"web\": disk 1: a host disk has no"),
        (replace("size = \"64M\"", ""), "f:2: vm \"web\": disk 2: no content: give image"),
        (
            format!("{}\n[machine]\ndisks = [\"a\"]\n", RICH),
            "f:2: vm \"web\": disk 1: host = 1, but the machine has 1 disks",
        ),
        (replace("vlan = 4094", "vlan = 4095"), "f:2: vm \"web\": net 1: vlan = 4095: a VLAN is"),
        (
            replace("52:54:00:00:01:02", "53:54:00:00:01:02"),
            "f:27: mac \"53:54:00:00:01:02\" is no",
        ),
        (replace("52:54:00:00:01:02", "52:54:00:00:01"), "f:27: mac \"52:54:00:00:01\" is not six"),
        (
            replace("52:54:00:00:01:02", "52:54:00:00:00:00"),
            "f:2: vm \"web\": net 1: vm \"web\" has a",
        ),
        (
            replace("/pl061", "pl061"),
            "f:2: vm \"web\": device 0: path \"pl061@9030000\" does not s",
        ),
        (replace("vlan = 7", "vlan = 0"), "f:33: uplink: vlan = 0: a VLAN is 1 to 4094"),
        (format!("{RICH}[[uplink]]\n"), "f:35: uplink: nic = 0: another uplink has it"),
        (
            replace(
                "[[uplink]]",
                "[[vm]]\nname = \"db\"\nmemory = \"2M\"\nkernel = \"k\"\n[[vm.disk]]\nhost = 1\n[[uplink]]",
            ),
            "f:33: vm \"db\": disk 0: vm \"web\" has the same host disk or partition",
        ),
        (
            replace(
                "[[vm.net]]",
                &format!("{}[[vm.net]]", "[[vm.disk]]\nsize = \"1M\"\n".repeat(24)),
            ),
            "f:2: vm \"web\": 29 disks and nets; a vm has at most 28",
        ),
    ] {
        let error = format!("{:#}", VmFile::parse(&text, "f").unwrap_err());
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
    }
}

#[test]
fn more_devices_than_an_architecture_has_places_for_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Image"), IMAGE).unwrap();
    let base = folder.path().to_path_buf();
    let folders = Folders { base, guests: PathBuf::new(), small: PathBuf::new() };
    let refusal = |keys: &str, nets: usize, arch: Arch| {
        let nets = "[[vm.net]]\n".repeat(nets);
        let text =
            format!("[[vm]]\nname = \"web\"\nmemory = \"64M\"\nkernel = \"Image\"\n{keys}\n{nets}");
        let resolved = VmFile::parse(&text, "web.toml").unwrap().resolve(&folders, arch);
        resolved.err().map(|error| format!("{error:#}")).filter(|text| text.contains("places"))
    };
    assert_eq!(refusal("", 28, Arch::Aarch64), None);
    assert_eq!(refusal("control = true\nballoon = true", 28, Arch::Aarch64), None);
    assert_eq!(refusal("", 17, Arch::X86_64), None);
    assert_eq!(
        refusal("", 18, Arch::X86_64).unwrap(),
        "vm \"web\": 18 disks and nets; on x86_64 this vm has places for 17"
    );
    assert!(refusal("control = true\nballoon = true", 16, Arch::X86_64).is_some());
}
