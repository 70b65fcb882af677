use super::*;
use crate::config::{
    DiskConfig, DiskExtent, DiskImage, DiskSource, NetConfig, Reservation, UplinkConfig,
};

const WEB: &str = "/configurations/web";
const DISK: &[u8] = &[0xd1; 3 * 4096];
const DISK_AT: usize = 12288;

fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().copied().flat_map(u32::to_be_bytes).collect()
}

fn wide(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// A virtual machine with one of everything, and its uplink.
fn rich() -> Spec {
    let mut spec = spec();
    let images = spec.at("/images");
    images.children.push(image("web-disk-0", "filesystem", DISK_AT, DISK));
    let web = spec.at(WEB);
    for flag in ["pinned", "control", "balloon", "direct-memory"] {
        web.set(&format!("bunshin,{flag}"), vec![]);
    }
    web.set("bunshin,budget", number(2000));
    web.set("bunshin,period", number(10_000));
    let disk = [
        ("image", text("web-disk-0")),
        ("bunshin,size", wide(64 << 20)),
        ("bunshin,extents", cells(&[0, 1, 100, 2])),
    ];
    let host = [
        ("bunshin,host-disk", number(1)),
        ("bunshin,partition", number(2)),
        ("bunshin,read-only", vec![]),
    ];
    web.children = vec![
        Spec::new("disk-0", &disk, vec![]),
        Spec::new("disk-1", &host, vec![]),
        Spec::new("disk-2", &[("bunshin,size", wide(512))], vec![]),
        Spec::new("net-0", &[("bunshin,mac", vec![2, 0, 0, 0, 0, 1])], vec![]),
        Spec::new(
            "net-1",
            &[("bunshin,mac", vec![2, 0, 0, 0, 0, 2]), ("bunshin,vlan", number(4094))],
            vec![],
        ),
        Spec::new("device-0", &[("bunshin,path", text("/pl061@9030000"))], vec![]),
    ];
    let mut other = web.clone();
    other.name = "other".into();
    other.children.clear();
    spec.at("/configurations").children.push(other);
    let uplink =
        Spec::new("uplink-0", &[("bunshin,nic", number(0)), ("bunshin,vlan", number(1))], vec![]);
    spec.children.push(Spec::new("uplinks", &[], vec![uplink]));
    spec
}

fn write_rich(spec: &Spec) -> Vec<u8> {
    let mut blob = write(spec);
    blob.resize(DISK_AT, 0);
    blob.extend_from_slice(DISK);
    blob
}

#[test]
fn devices_are_read_as_they_were_written() {
    let machine = open(&write_rich(&rich())).unwrap();
    let web = &machine.vms[0];
    assert!(web.pinned && web.control && web.balloon && web.direct_memory);
    assert_eq!(web.reservation, Some(Reservation { budget_us: 2000, period_us: 10_000 }));
    let extent = |start, offset, size| DiskExtent { start, data: Payload { offset, size } };
    let extents = vec![extent(0, DISK_AT, 4096), extent(100 * 4096, DISK_AT + 4096, 8192)];
    let image = |size, extents| DiskSource::Image(DiskImage { size, extents });
    let disks = vec![
        DiskConfig { source: image(64 << 20, extents), read_only: false },
        DiskConfig { source: DiskSource::Host { disk: 1, partition: Some(2) }, read_only: true },
        DiskConfig { source: image(512, vec![]), read_only: false },
    ];
    assert_eq!(web.disks, disks);
    let net = |last, vlan| NetConfig { mac: [2, 0, 0, 0, 0, last], vlan };
    assert_eq!(web.nets, [net(1, None), net(2, Some(4094))]);
    assert_eq!(web.devices, ["/pl061@9030000"]);
    assert_eq!(machine.uplinks, [UplinkConfig { nic: 0, vlan: Some(1) }]);
}

#[test]
fn an_image_without_a_map_of_its_own_is_the_whole_disk() {
    let mut spec = rich();
    let disk = spec.at("/configurations/web/disk-0");
    disk.remove("bunshin,size");
    disk.remove("bunshin,extents");
    let machine = open(&write_rich(&spec)).unwrap();
    let data = Payload { offset: DISK_AT, size: DISK.len() };
    let extents = vec![DiskExtent { start: 0, data }];
    let image = DiskImage { size: DISK.len() as u64, extents };
    assert_eq!(machine.vms[0].disks[0].source, DiskSource::Image(image));
}

#[test]
fn a_host_disk_is_shared_by_readers_only() {
    let host = |disk, partition: Option<u32>, read_only: bool| {
        let mut spec = Spec::new("disk-0", &[("bunshin,host-disk", number(disk))], vec![]);
        if let Some(partition) = partition {
            spec.set("bunshin,partition", number(partition));
        }
        if read_only {
            spec.set("bunshin,read-only", vec![]);
        }
        spec
    };
    // disk-1 of the first virtual machine reads partition 2 of disk 1.
    for (second, allowed) in [
        (host(1, Some(2), true), true),
        (host(1, Some(2), false), false),
        (host(1, Some(3), false), true),
        (host(1, None, true), true),
        (host(1, None, false), false),
        (host(0, None, false), true),
        (host(2, None, false), true),
    ] {
        let mut spec = rich();
        spec.at("/configurations/other").children.push(second);
        let message = open(&write_rich(&spec)).err().map(|error| error.to_string());
        let expected = "bundle: /configurations/other/disk-0: /configurations/web/disk-1 has the \
                        same host disk or partition; share it only if all are read_only";
        assert_eq!(message.as_deref(), (!allowed).then_some(expected));
    }
}

#[test]
fn a_contradiction_among_devices_is_named_with_its_node() {
    type Spoil = Box<dyn FnOnce(&mut Spec)>;
    fn set(path: &'static str, property: &'static str, value: Vec<u8>) -> Spoil {
        Box::new(move |spec| spec.at(path).set(property, value))
    }
    fn remove(path: &'static str, property: &'static str) -> Spoil {
        Box::new(move |spec| spec.at(path).remove(property))
    }
    fn name(path: &'static str, name: &'static str) -> Spoil {
        Box::new(move |spec| spec.at(path).name = name.into())
    }
    const DISK_0: &str = "/configurations/web/disk-0";
    const DISK_1: &str = "/configurations/web/disk-1";
    const NET_1: &str = "/configurations/web/net-1";
    const UPLINK: &str = "/uplinks/uplink-0";
    let cases: Vec<(Spoil, &str)> = vec![
        (
            set(WEB, "bunshin,pinned", vec![1]),
            "/configurations/web: property bunshin,pinned is not",
        ),
        (
            set(WEB, "bunshin,control", vec![1]),
            "/configurations/web: property bunshin,control is n",
        ),
        (
            set(WEB, "bunshin,budget", number(0)),
            "/configurations/web: property bunshin,budget is 0",
        ),
        (
            set(WEB, "bunshin,budget", number(10_001)),
            "/configurations/web: property bunshin,budget",
        ),
        (remove(WEB, "bunshin,budget"), "/configurations/web: property bunshin,budget is absent"),
        (remove(WEB, "bunshin,period"), "/configurations/web: property bunshin,period is absent"),
        (
            name(DISK_1, "disk-3"),
            "/configurations/web/disk-3: devices are numbered in order, and th",
        ),
        (
            name(DISK_0, "disk-00"),
            "/configurations/web/disk-00: devices are numbered in order, and ",
        ),
        (
            set(DISK_0, "image", text("web-kernel")),
            "/configurations/web/disk-0: property image is ",
        ),
        (
            set(DISK_0, "image", text("x")),
            "/configurations/web/disk-0: property image names \"x\", ",
        ),
        (
            set(DISK_0, "bunshin,color", vec![]),
            "/configurations/web/disk-0: property bunshin,color",
        ),
        (
            set(DISK_0, "bunshin,size", wide(0)),
            "/configurations/web/disk-0: property bunshin,size ",
        ),
        (
            set(DISK_0, "bunshin,size", wide(513)),
            "/configurations/web/disk-0: property bunshin,siz",
        ),
        (
            set(DISK_0, "bunshin,size", wide(102 * 4096 - 512)),
            "/configurations/web/disk-0: the rang",
        ),
        (
            set(DISK_0, "bunshin,extents", cells(&[0, 1, 100])),
            "/configurations/web/disk-0: the ran",
        ),
        (
            set(DISK_0, "bunshin,extents", cells(&[0, 1, 1, 1])),
            "/configurations/web/disk-0: the ra",
        ),
        (
            set(DISK_0, "bunshin,extents", cells(&[0, 2, 1, 1])),
            "/configurations/web/disk-0: the ra",
        ),
        (
            set(DISK_0, "bunshin,extents", cells(&[9, 3, 9, 0])),
            "/configurations/web/disk-0: the ra",
        ),
        (
            set(DISK_0, "bunshin,extents", cells(&[0, 3, 0xffff_ffff, 0xffff_ffff])),
            "/configurations/web/disk-0: the ra",
        ),
        (
            set(DISK_0, "bunshin,host-disk", number(0)),
            "/configurations/web/disk-0: a disk is eithe",
        ),
        (
            set(DISK_0, "bunshin,partition", number(1)),
            "/configurations/web/disk-0: a disk is eithe",
        ),
        (remove(DISK_1, "bunshin,host-disk"), "/configurations/web/disk-1: a disk is either"),
        (
            set(DISK_1, "bunshin,partition", number(0)),
            "/configurations/web/disk-1: property bunshi",
        ),
        (
            set(DISK_1, "bunshin,read-only", number(0)),
            "/configurations/web/disk-1: property bunshi",
        ),
        (remove(NET_1, "bunshin,mac"), "/configurations/web/net-1: property bunshin,mac is absent"),
        (
            set(NET_1, "bunshin,mac", vec![2; 5]),
            "/configurations/web/net-1: property bunshin,mac i",
        ),
        (
            set(NET_1, "bunshin,mac", vec![1; 6]),
            "/configurations/web/net-1: property bunshin,mac i",
        ),
        (
            set(NET_1, "bunshin,mac", vec![0; 6]),
            "/configurations/web/net-1: property bunshin,mac i",
        ),
        (
            set(NET_1, "bunshin,mac", vec![2, 0, 0, 0, 0, 1]),
            "/configurations/web/net-1: /configurations/web/net-0 has the same MAC address",
        ),
        (
            set(NET_1, "bunshin,vlan", number(0)),
            "/configurations/web/net-1: property bunshin,vlan ",
        ),
        (
            set(NET_1, "bunshin,vlan", number(4095)),
            "/configurations/web/net-1: property bunshin,vl",
        ),
        (
            set("/configurations/web/device-0", "bunshin,path", text("pl061")),
            "/configurations/web/device-0: property bunshin,path is \"pl061\", not a path",
        ),
        (
            Box::new(|spec| {
                let device = spec.at("/configurations/web/device-0").clone();
                spec.at("/configurations/other").children.push(device);
            }),
            "/configurations/other/device-0: /configurations/web/device-0 has the same device",
        ),
        (
            Box::new(|spec| {
                let more = (3..27).map(|i| {
                    Spec::new(&format!("disk-{i}"), &[("bunshin,size", wide(512))], vec![])
                });
                spec.at(WEB).children.extend(more);
            }),
            "/configurations/web: 29 disks and network ports, but a virtual machine has at most 28",
        ),
        (remove(UPLINK, "bunshin,nic"), "/uplinks/uplink-0: property bunshin,nic is absent"),
        (
            set(UPLINK, "bunshin,vlan", number(4095)),
            "/uplinks/uplink-0: property bunshin,vlan is 4",
        ),
        (
            name(UPLINK, "uplink-1"),
            "/uplinks/uplink-1: devices are numbered in order, and the next",
        ),
        (
            Box::new(|spec| {
                let mut again = spec.at(UPLINK).clone();
                again.name = "uplink-1".into();
                spec.at("/uplinks").children.push(again);
            }),
            "/uplinks/uplink-1: another uplink has the same network device of the host",
        ),
    ];
    for (spoil, expected) in cases {
        let mut spec = rich();
        spoil(&mut spec);
        let message = open(&write_rich(&spec)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("bundle: {expected}")), "{message}\nnot {expected}");
        assert!(!message.contains('\n'), "{message}");
    }
}
