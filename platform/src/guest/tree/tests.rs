use super::*;
use crate::discover::{Conduit, ConsoleKind, EnableMethod, InterruptController, Platform, Trigger};
use crate::tree::Tree;
use std::collections::BTreeSet;

fn description<'a>(gic: GuestGic, vcpus: &'a [Mpidr]) -> GuestDescription<'a> {
    GuestDescription {
        vcpus,
        cpu_compatible: "arm,cortex-a72",
        memory: GuestRange::new(layout::RAM_BASE, 1 << 30).unwrap(),
        gic,
        pmu: true,
        bootargs: None,
        initrd: None,
        rng_seed: &[7; 32],
        kaslr_seed: Some(0x1234),
        virtio_slots: &[],
        reserved: &[],
    }
}

fn vcpus(count: u64) -> Vec<Mpidr> {
    (0..count).map(Mpidr::from_register).collect()
}

fn tree(guest: &GuestDescription<'_>) -> Tree {
    Tree::from_blob(&build(guest).unwrap()).unwrap()
}

/// Properties that name other nodes; their numbers are arbitrary.
const REFERENCES: [&str; 4] = ["phandle", "clocks", "interrupt-parent", "cpu"];
/// Random in each start of QEMU.
const SEEDS: [&str; 2] = ["rng-seed", "kaslr-seed"];

fn facts(tree: &Tree) -> BTreeSet<String> {
    tree.nodes()
        .flat_map(|node| {
            node.properties().map(move |property| {
                let name = property.name();
                let value = match name {
                    _ if REFERENCES.contains(&name) => "phandle".to_owned(),
                    _ if SEEDS.contains(&name) => format!("{} bytes", property.value().len()),
                    _ => format!("{:02x?}", property.value()),
                };
                format!("{} {name} {value}", node.path())
            })
        })
        .collect()
}

#[test]
fn everything_in_the_tree_is_as_qemu_has_it() {
    let qemu: [(&[u8], GuestGic, u64); 4] = [
        (include_bytes!("../../../tests/data/qemu-virt-guest-gicv2-1cpu.dtb"), GuestGic::V2, 1),
        (include_bytes!("../../../tests/data/qemu-virt-guest-gicv2-4cpu.dtb"), GuestGic::V2, 4),
        (
            include_bytes!("../../../tests/data/qemu-virt-guest-gicv3-1cpu.dtb"),
            GuestGic::V3WithIts,
            1,
        ),
        (
            include_bytes!("../../../tests/data/qemu-virt-guest-gicv3-4cpu.dtb"),
            GuestGic::V3WithIts,
            4,
        ),
    ];
    let slots: Vec<u8> = (0..32).collect();
    for (blob, gic, count) in qemu {
        let vcpus = vcpus(count);
        let guest = GuestDescription { virtio_slots: &slots, ..description(gic, &vcpus) };
        let (ours, qemu) = (facts(&tree(&guest)), facts(&Tree::from_blob(blob).unwrap()));
        // QEMU leaves out how to start a second CPU where there is none, and has room for 123 redistributors.
        let expected = |fact: &&String| {
            fact.contains("enable-method") || fact.starts_with("/intc@8000000 reg")
        };
        let more: Vec<_> = ours.difference(&qemu).filter(|fact| !expected(fact)).collect();
        assert!(more.is_empty(), "{more:#?}");
        // Devices of QEMU that our guests don't have.
        let absent = [
            "/platform-bus@",
            "/fw-cfg@",
            "/gpio-keys",
            "/pl061@",
            "/pcie@",
            "/flash@",
            "/intc@8000000/v2m@",
            "/intc@8000000/its@8080000 phandle",
            "/intc@8000000 reg",
        ];
        let less: Vec<_> = qemu
            .difference(&ours)
            .filter(|fact| !absent.iter().any(|device| fact.starts_with(device)))
            .collect();
        assert!(less.is_empty(), "{less:#?}");
    }
}

#[test]
fn references_lead_to_the_right_nodes() {
    let vcpus = vcpus(3);
    let tree = tree(&GuestDescription { virtio_slots: &[4], ..description(GuestGic::V3, &vcpus) });
    assert_eq!(tree.root().reference("interrupt-parent"), tree.node("/intc"));
    for (path, name, target) in [
        ("/pl011", "clocks", "/apb-pclk"),
        ("/pl031", "clocks", "/apb-pclk"),
        ("/cpus/cpu-map/socket0/cluster0/core0", "cpu", "/cpus/cpu@0"),
        ("/cpus/cpu-map/socket0/cluster0/core2", "cpu", "/cpus/cpu@2"),
    ] {
        assert_eq!(tree.node(path).unwrap().reference(name), tree.node(target), "{path}");
    }
    assert_eq!(tree.alias("serial0"), tree.node("/pl011@9000000"));
}

#[test]
fn our_own_discovery_understands_the_guest_machine() {
    let vcpus = [Mpidr::from_register(0), Mpidr::from_register(0x1_0000_0001)];
    let initrd = GuestRange::new(GuestAddress::new(0x4800_0000), 0x1000);
    let reserved = [GuestReserved {
        name: "shared",
        range: GuestRange::new(GuestAddress::new(0x5000_0000), 0x1000).unwrap(),
        no_map: true,
    }];
    let guest = GuestDescription {
        bootargs: Some("console=ttyAMA0"),
        initrd,
        virtio_slots: &[31, 0],
        reserved: &reserved,
        pmu: false,
        rng_seed: &[],
        kaslr_seed: None,
        ..description(GuestGic::V3, &vcpus)
    };
    let platform = Platform::discover(&tree(&guest)).unwrap();
    assert_eq!(platform.cpus.iter().map(|cpu| cpu.mpidr).collect::<Vec<_>>(), vcpus);
    assert!(platform.cpus.iter().all(|cpu| cpu.enable_method == EnableMethod::Psci));
    assert_eq!(platform.psci.unwrap().conduit, Conduit::Hvc);
    assert_eq!(platform.console.unwrap().kind, ConsoleKind::Pl011);
    assert!(platform.pmu.is_empty());
    assert_eq!(platform.chosen.bootargs.as_deref(), Some("console=ttyAMA0"));
    assert_eq!(platform.chosen.initrd.unwrap().base().get(), 0x4800_0000);
    assert!(platform.chosen.rng_seed.is_empty() && platform.chosen.kaslr_seed.is_none());
    let InterruptController::GicV3(gic) = platform.interrupt_controller else { panic!() };
    assert_eq!(gic.redistributors[0].size(), 2 * layout::REDISTRIBUTOR_BYTES);
    assert!(gic.its.is_empty());
    let virtio: Vec<_> = platform
        .virtio
        .iter()
        .map(|transport| (transport.registers.base().get(), transport.interrupt.unwrap()))
        .map(|(base, interrupt)| (base, interrupt.int_id().unwrap().get(), interrupt.trigger))
        .collect();
    assert_eq!(
        virtio,
        [(0xa00_0000, 48, Trigger::EdgeRising), (0xa00_3e00, 79, Trigger::EdgeRising)]
    );
    assert_eq!(virtio[1].1, layout::virtio_int_id(31).unwrap());
    assert_eq!(platform.reserved.len(), 1);
    assert!(platform.reserved[0].no_map);
}

#[test]
fn other_readers_accept_the_tree() {
    let vcpus = vcpus(2);
    let blob = build(&description(GuestGic::V2, &vcpus)).unwrap();
    dtoolkit::fdt::Fdt::new(&blob).unwrap();
    let fdt = fdt::Fdt::new(&blob).unwrap();
    assert_eq!(fdt.cpus().count(), 2);
    assert_eq!(fdt.memory().regions().next().unwrap().size, Some(1 << 30));
    assert_eq!(fdt.chosen().stdout().unwrap().name, "pl011@9000000");
}

#[test]
fn a_passed_device_stands_in_the_tree_with_its_interrupts_and_clock() {
    let registers = [GuestRange::new(GuestAddress::new(0x903_0000), 0x1000).unwrap()];
    let interrupts =
        [GuestInterrupt { int_id: 39, edge: false }, GuestInterrupt { int_id: 20, edge: true }];
    let device = GuestDevice {
        name: "pl061",
        compatible: &["arm,pl061", "arm,primecell"],
        registers: &registers,
        interrupts: &interrupts,
        clock_names: &["apb_pclk"],
        properties: &[("gpio-controller", &[]), ("#gpio-cells", &[0, 0, 0, 2])],
    };
    let vcpus = vcpus(2);
    let blob = build_with_devices(&description(GuestGic::V2, &vcpus), &[device]).unwrap();
    let tree = Tree::from_blob(&blob).unwrap();
    let node = tree.compatible(&["arm,pl061"]).next().unwrap();
    assert_eq!(node.path().to_string(), "/pl061@9030000");
    assert_eq!(node.mapped_reg(0).unwrap().base().get(), 0x903_0000);
    let cells: Vec<_> = node.interrupts().map(|i| i.unwrap().cells.as_slice().to_vec()).collect();
    assert_eq!(cells, [[0, 7, 4], [1, 4, 0x301]]);
    assert_eq!(node.reference("clocks"), tree.node("/apb-pclk"));
    assert!(node.property("gpio-controller").is_some());
    assert_eq!(node.u32("#gpio-cells"), Some(2));
}

#[test]
fn impossible_devices_are_refused_in_words() {
    let registers = [GuestRange::new(GuestAddress::new(0x903_0000), 0x1000).unwrap()];
    let good = GuestDevice {
        name: "dev",
        compatible: &["x"],
        registers: &registers,
        interrupts: &[],
        clock_names: &[],
        properties: &[],
    };
    let name =
        |what| format!("the name of a {what} may have 1 to 31 letters, digits and -,._+ only");
    let interrupt = |int_id| GuestInterrupt { int_id, edge: true };
    let (low, high) = ([interrupt(15)], [interrupt(1020)]);
    let cases = [
        (GuestDevice { name: "a@1", ..good }, name("device")),
        (GuestDevice { name: "a-name-of-more-than-31-characters", ..good }, name("device")),
        (GuestDevice { properties: &[("a b", &[])], ..good }, name("property")),
        (
            GuestDevice { registers: &[], ..good },
            "a device needs a range of registers; this one has none".into(),
        ),
        (
            GuestDevice { interrupts: &low, ..good },
            "interrupt 15 can't be a device's; there are 16 to 1019".into(),
        ),
        (
            GuestDevice { interrupts: &high, ..good },
            "interrupt 1020 can't be a device's; there are 16 to 1019".into(),
        ),
        (
            GuestDevice { compatible: &["a\0b"], ..good },
            "the compatible or clock name contains a NUL character".into(),
        ),
    ];
    let vcpus = vcpus(1);
    let guest = description(GuestGic::V3, &vcpus);
    for (device, message) in cases {
        assert_eq!(build_with_devices(&guest, &[device]).unwrap_err().to_string(), message);
    }
    build_with_devices(&guest, &[good]).unwrap();
}

#[test]
fn impossible_descriptions_are_refused_in_words() {
    let many = vcpus(124);
    let good = description(GuestGic::V3, &many[..1]);
    let reserved = |name| GuestReserved {
        name,
        range: GuestRange::new(GuestAddress::new(0), 1).unwrap(),
        no_map: false,
    };
    let (slash, empty) = ([reserved("a/b")], [reserved("")]);
    let cases = [
        (GuestDescription { vcpus: &[], ..good }, "a virtual machine needs at least one vCPU"),
        (
            GuestDescription { vcpus: &many, ..good },
            "124 vCPUs are too many: the interrupt controller of this machine serves 123",
        ),
        (
            GuestDescription { vcpus: &many[..9], gic: GuestGic::V2, ..good },
            "9 vCPUs are too many: the interrupt controller of this machine serves 8",
        ),
        (
            GuestDescription { virtio_slots: &[3, 32], ..good },
            "there is no virtio transport 32; the last one is 31",
        ),
        (
            GuestDescription { bootargs: Some("a\0b"), ..good },
            "the command line contains a NUL character",
        ),
        (
            GuestDescription { cpu_compatible: "\0", ..good },
            "the CPU type contains a NUL character",
        ),
        (
            GuestDescription { reserved: &slash, ..good },
            "the name of a reserved range may have 1 to 31 letters, digits and -,._+ only",
        ),
        (
            GuestDescription { reserved: &empty, ..good },
            "the name of a reserved range may have 1 to 31 letters, digits and -,._+ only",
        ),
    ];
    for (guest, message) in cases {
        assert_eq!(build(&guest).unwrap_err().to_string(), message);
    }
    build(&GuestDescription { vcpus: &many[..123], ..good }).unwrap();
}
