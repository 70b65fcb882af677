//! Discovery, feature by feature.

mod boards;
mod device;

use super::*;
use crate::PhysicalAddress;
use crate::tree::test_blob::TestBlob;

const VIRT: [(&[u8], u32, usize); 4] = [
    (include_bytes!("../../../tests/data/qemu-virt-gicv2-1cpu.dtb"), 2, 1),
    (include_bytes!("../../../tests/data/qemu-virt-gicv2-4cpu.dtb"), 2, 4),
    (include_bytes!("../../../tests/data/qemu-virt-gicv3-1cpu.dtb"), 3, 1),
    (include_bytes!("../../../tests/data/qemu-virt-gicv3-4cpu.dtb"), 3, 4),
];

fn region(base: u64, size: u64) -> Region {
    Region::new(PhysicalAddress::new(base), size).unwrap()
}

fn discover(blob: TestBlob) -> Result<Platform, Refusal> {
    Platform::discover(&Tree::from_blob(&blob.finish()).unwrap())
}

#[test]
fn qemu_virt_is_understood() {
    for (blob, gic, cpus) in VIRT {
        let platform = Platform::discover(&Tree::from_blob(blob).unwrap()).unwrap();
        assert_eq!(platform.model, "linux,dummy-virt");
        assert_eq!(platform.memory, [region(0x4000_0000, 1 << 30)]);
        assert_eq!(platform.usable_memory(), platform.memory);
        assert_eq!(platform.cpus.len(), cpus);
        for (number, cpu) in platform.cpus.iter().enumerate() {
            assert_eq!(cpu.mpidr, Mpidr::from_register(number as u64));
            assert_eq!(cpu.compatible, "arm,cortex-a72");
            let expected =
                if cpus == 1 { EnableMethod::Unknown(String::new()) } else { EnableMethod::Psci };
            assert_eq!(cpu.enable_method, expected);
        }
        let psci = platform.psci.unwrap();
        assert_eq!((psci.conduit, psci.version), (Conduit::Smc, PsciVersion::V1_0));
        let console = platform.console.unwrap();
        assert_eq!(console.kind, ConsoleKind::Pl011);
        assert_eq!(console.registers, region(0x900_0000, 0x1000));
        assert_eq!(console.interrupt, Some(Interrupt::gic(33, Trigger::LevelHigh)));
        assert_eq!(console.clock_hz, Some(24_000_000));
        assert_eq!(platform.serial_ports.len(), 1);
        let gicd = region(0x800_0000, 0x1_0000);
        let maintenance = Interrupt::gic(25, Trigger::LevelHigh);
        let expected = if gic == 2 {
            InterruptController::GicV2(GicV2 {
                gicd,
                gicc: region(0x801_0000, 0x1_0000),
                gich: Some(region(0x803_0000, 0x1_0000)),
                gicv: Some(region(0x804_0000, 0x1_0000)),
                maintenance,
            })
        } else {
            InterruptController::GicV3(GicV3 {
                gicd,
                redistributors: vec![region(0x80a_0000, 0xf6_0000)],
                redistributor_stride: None,
                its: vec![region(0x808_0000, 0x2_0000)],
                maintenance,
            })
        };
        assert_eq!(platform.interrupt_controller, expected);
        let ppi = |number| Some(Interrupt::gic(number, Trigger::LevelHigh));
        let timer = TimerInterrupts {
            secure_physical: ppi(29),
            physical: ppi(30),
            virtual_timer: ppi(27),
            hypervisor_physical: ppi(26),
            hypervisor_virtual: None,
        };
        assert_eq!(platform.timer, timer);
        assert_eq!(platform.pmu, [ppi(23).unwrap()]);
        assert_eq!(platform.reset, None);
        assert_eq!(platform.chosen.rng_seed.len(), 32);
        assert!(platform.chosen.kaslr_seed.is_some());
        assert_eq!(platform.virtio.len(), 32);
        let expected = VirtioTransport {
            registers: region(0xa00_0000, 0x200),
            interrupt: Some(Interrupt::gic(48, Trigger::EdgeRising)),
        };
        assert_eq!(platform.virtio[0], expected);
    }
}

/// The smallest machine that isn't refused, open for more.
fn minimal() -> TestBlob {
    TestBlob::root(2, 2)
        .cells("interrupt-parent", &[1])
        .leaf("memory", |n| n.text("device_type", "memory").cells("reg", &[0, 0, 0, 0x1000]))
        .leaf("cpus", |n| {
            n.cells("#address-cells", &[1])
                .cells("#size-cells", &[0])
                .leaf("cpu", |n| n.text("device_type", "cpu").cells("reg", &[0]))
        })
        .leaf("gic", |n| {
            n.text("compatible", "arm,gic-400")
                .flag("interrupt-controller")
                .cells("phandle", &[1])
                .cells("#interrupt-cells", &[3])
                .cells("reg", &[0, 0x1000, 0, 0x1000, 0, 0x2000, 0, 0x2000])
        })
}

#[test]
fn a_machine_needs_only_memory_a_cpu_and_an_interrupt_controller() {
    let platform = discover(minimal().end()).unwrap();
    assert_eq!(platform.model, "");
    assert_eq!((platform.psci, platform.console, platform.reset), (None, None, None));
    assert_eq!(platform.timer, TimerInterrupts::default());
    assert_eq!(platform.chosen, Chosen::default());
    let InterruptController::GicV2(gic) = platform.interrupt_controller else { panic!() };
    // Old firmware of the Raspberry Pi 4 says nothing about the maintenance interrupt.
    assert_eq!((gic.gich, gic.maintenance), (None, Interrupt::gic(25, Trigger::LevelHigh)));
}

#[test]
fn a_cpu_without_release_address_is_known_but_cannot_be_started() {
    let blob = TestBlob::root(1, 1)
        .leaf("memory", |n| n.text("device_type", "memory").cells("reg", &[0, 0x1000]))
        .leaf("cpus", |n| {
            let n = n.cells("#address-cells", &[1]).cells("#size-cells", &[0]);
            n.leaf("cpu@0", |n| n.cells("reg", &[0]).text("enable-method", "spin-table"))
                .leaf("cpu@1", |n| n.cells("reg", &[1]).text("enable-method", "vendor,smp"))
                .leaf("cpu@2", |n| n.cells("reg", &[2]))
        })
        .leaf("gic", |n| n.text("compatible", "arm,gic-400").cells("reg", &[1, 1, 2, 2]))
        .end();
    let methods: Vec<_> =
        discover(blob).unwrap().cpus.into_iter().map(|cpu| cpu.enable_method).collect();
    let unknown = |method: &str| EnableMethod::Unknown(method.to_owned());
    assert_eq!(methods, [unknown("spin-table"), unknown("vendor,smp"), unknown("")]);
}

#[test]
fn a_machine_that_cannot_run_guests_is_refused_in_words() {
    let cpus = |n: TestBlob| {
        n.cells("#address-cells", &[1])
            .cells("#size-cells", &[0])
            .leaf("cpu", |n| n.cells("reg", &[0]))
    };
    let memory = |n: TestBlob| n.text("device_type", "memory").cells("reg", &[0x1000, 0x1000]);
    let root = || TestBlob::root(1, 1);
    let cases = [
        (root().end(), "device tree: no memory node; the bootloader must add one"),
        (
            root()
                .leaf("memory@0", |n| n.text("device_type", "memory").cells("reg", &[0, 0]))
                .end(),
            "device tree: /memory@0: property \"reg\": no memory in it; the bootloader must fill it",
        ),
        (
            root().leaf("memory", |n| n.text("device_type", "memory").cells("reg", &[0])).end(),
            "device tree: /memory: property \"reg\": the value isn't a whole number of entries",
        ),
        (root().leaf("memory", memory).end(), "device tree: /cpus: no enabled CPU in it"),
        (
            root()
                .leaf("memory", memory)
                .leaf("cpus", |n| n.leaf("cpu", |n| n.text("status", "disabled")))
                .end(),
            "device tree: /cpus: no enabled CPU in it",
        ),
        (
            root()
                .leaf("memory", memory)
                .leaf("cpus", |n| {
                    n.cells("#size-cells", &[0]).leaf("cpu", |n| {
                        n.cells("reg", &[0, 1])
                            .text("enable-method", "spin-table")
                            .cells("cpu-release-addr", &[1, 2, 3])
                    })
                })
                .end(),
            "device tree: /cpus/cpu: property \"cpu-release-addr\": the value isn't one number of 4 or 8 bytes",
        ),
        (
            root()
                .leaf("memory", memory)
                .leaf("cpus", |n| {
                    n.cells("#size-cells", &[0]).leaf("cpu", |n| n.cells("reg", &[0, 0x8000_0000]))
                })
                .end(),
            "device tree: /cpus/cpu: property \"reg\": it has bits outside of the affinity fields of MPIDR_EL1",
        ),
        (
            root().leaf("memory", memory).leaf("cpus", cpus).end(),
            "device tree: no GICv2, GICv3 or Apple AIC; the interrupt controller here is absent",
        ),
        (
            root()
                .cells("interrupt-parent", &[7])
                .leaf("memory", memory)
                .leaf("cpus", cpus)
                .leaf("intc@7", |n| {
                    n.text("compatible", "brcm,bcm2836-l1-intc|x").cells("phandle", &[7])
                })
                .end(),
            "device tree: no GICv2, GICv3 or Apple AIC; the interrupt controller here is /intc@7 (brcm,bcm2836-l1-intc)",
        ),
        (
            root()
                .leaf("memory", memory)
                .leaf("cpus", cpus)
                .leaf("gic", |n| n.text("compatible", "arm,gic-v3").cells("reg", &[1, 2]))
                .end(),
            "device tree: /gic: property \"reg\": it has fewer entries than the device needs",
        ),
    ];
    for (blob, message) in cases {
        assert_eq!(discover(blob).unwrap_err().to_string(), message);
    }
}

#[test]
fn usable_memory_is_all_memory_without_the_reserved() {
    let memory = |n: TestBlob| n.text("device_type", "memory");
    let mut blob = minimal()
        .leaf("memory@1", |n| {
            memory(n).cells("reg", &[0, 0x1000, 0, 0x1000, 0, 0, 0, 0, 1, 0, 0, 0x10_0000])
        })
        .leaf("memory@2", |n| memory(n).text("status", "disabled").cells("reg", &[9, 0, 0, 0x1000]))
        .leaf("memory@3", |n| memory(n).cells("reg", &[2, 0, 1, 0]))
        .leaf("reserved-memory", |n| {
            n.cells("#address-cells", &[2])
                .cells("#size-cells", &[2])
                .flag("ranges")
                .leaf("firmware", |n| {
                    n.cells("reg", &[1, 0x1000, 0, 0x1000, 1, 0x8000, 0, 0x1000]).flag("no-map")
                })
                .leaf("dynamic", |n| n.cells("size", &[0, 0x4000]))
                .leaf("off", |n| n.cells("reg", &[1, 0, 0, 0x10_0000]).text("status", "disabled"))
        })
        .end();
    blob.reservations = vec![(0, 0x1000)];
    let platform = discover(blob).unwrap();
    assert_eq!(
        platform.memory,
        [region(0, 0x2000), region(1 << 32, 0x10_0000), region(2 << 32, 1 << 32)]
    );
    let reserved = |base, no_map, node: &str| Reserved {
        region: region(base, 0x1000),
        no_map,
        node: node.into(),
    };
    assert_eq!(
        platform.reserved,
        [
            reserved(0, false, ""),
            reserved(0x1_0000_1000, true, "firmware"),
            reserved(0x1_0000_8000, true, "firmware"),
        ]
    );
    assert_eq!(
        platform.usable_memory(),
        [
            region(0x1000, 0x1000),
            region(1 << 32, 0x1000),
            region(0x1_0000_2000, 0x6000),
            region(0x1_0000_9000, 0xf_7000),
            region(2 << 32, 1 << 32),
        ]
    );
}

#[test]
fn gic_interrupts_become_intids_within_their_ranges() {
    type Case = (&'static [u32], Option<(u32, Trigger)>);
    let cases: [Case; 10] = [
        (&[0, 0, 4], Some((32, Trigger::LevelHigh))),
        (&[0, 987, 1], Some((1019, Trigger::EdgeRising))),
        (&[0, 988, 1], None),
        (&[1, 15, 0xf08], Some((31, Trigger::LevelLow))),
        (&[1, 16, 4], None),
        (&[2, 0, 2], Some((4096, Trigger::EdgeFalling))),
        (&[3, 63, 0], Some((1119, Trigger::LevelHigh))),
        (&[3, 64, 0], None),
        (&[4, 0, 0], None),
        (&[0, u32::MAX, 0], None),
    ];
    for (cells, expected) in cases {
        let blob = minimal().leaf("dev", |n| n.cells("interrupts", cells)).end();
        let tree = Tree::from_blob(&blob.finish()).unwrap();
        let interrupt = Interrupt::first_of(&tree.node("/dev").unwrap());
        assert_eq!(
            interrupt,
            expected.map(|(number, trigger)| Interrupt::gic(number, trigger)),
            "{cells:?}"
        );
    }
}

#[test]
fn psci_is_used_only_where_the_tree_says_how() {
    type Case = (&'static str, Option<&'static str>, Option<(Conduit, PsciVersion)>);
    let cases: [Case; 6] = [
        (
            "arm,psci-1.0|arm,psci-0.2|arm,psci",
            Some("smc"),
            Some((Conduit::Smc, PsciVersion::V1_0)),
        ),
        ("arm,psci-0.2", Some("hvc"), Some((Conduit::Hvc, PsciVersion::V0_2))),
        ("arm,psci", Some("smc"), Some((Conduit::Smc, PsciVersion::V0_1))),
        ("arm,psci-1.0", None, None),
        ("arm,psci-1.0", Some("magic"), None),
        ("other", Some("smc"), None),
    ];
    for (compatible, method, expected) in cases {
        let node = |n: TestBlob| {
            let n = n.text("compatible", compatible).cells("cpu_on", &[0x8400_0003]);
            match method {
                Some(method) => n.text("method", method),
                None => n,
            }
        };
        let platform =
            discover(minimal().leaf("firmware", |n| n.leaf("psci", node)).end()).unwrap();
        assert_eq!(
            platform.psci.map(|psci| (psci.conduit, psci.version)),
            expected,
            "{compatible} {method:?}"
        );
        assert!(platform.psci.is_none_or(|psci| psci.cpu_on == Some(0x8400_0003)));
    }
}

#[test]
fn serial_ports_of_the_16550_family_have_their_own_layout() {
    let blob = minimal()
        .leaf("a", |n| {
            n.text("compatible", "snps,dw-apb-uart")
                .cells("reg", &[0, 0x100, 0, 0x100])
                .cells("reg-shift", &[2])
                .cells("reg-io-width", &[4])
                .cells("clock-frequency", &[1_843_200])
        })
        .leaf("b", |n| {
            n.text("compatible", "ns16550a")
                .cells("reg", &[0, 0x200, 0, 0x100])
                .cells("reg-offset", &[0x10])
        })
        .leaf("c", |n| {
            n.text("compatible", "ns16550")
                .cells("reg", &[0, 0x300, 0, 8])
                .cells("reg-shift", &[99])
                .cells("reg-offset", &[8])
        })
        .leaf("d", |n| n.text("compatible", "vendor,uart").cells("reg", &[0, 0x400, 0, 8]))
        .leaf("chosen", |n| n.text("stdout-path", "/d"))
        .end();
    let platform = discover(blob).unwrap();
    let ports: Vec<_> = platform
        .serial_ports
        .iter()
        .map(|port| (port.registers, port.reg_shift, port.io_width, port.clock_hz))
        .collect();
    // The third has no registers left behind its offset.
    assert_eq!(
        ports,
        [(region(0x100, 0x100), 2, 4, Some(1_843_200)), (region(0x210, 0xf0), 0, 1, None)]
    );
    assert_eq!(platform.console.unwrap().kind, ConsoleKind::Unknown("vendor,uart".into()));
}

#[test]
fn the_last_redistributor_region_may_be_one_of_several() {
    let gic = |count: u32, reg: &'static [u32]| {
        TestBlob::root(1, 1)
            .leaf("memory", |n| n.text("device_type", "memory").cells("reg", &[0, 0x1000]))
            .leaf("cpus", |n| n.cells("#size-cells", &[0]).leaf("cpu", |n| n.cells("reg", &[0, 1])))
            .leaf("gic", |n| {
                n.text("compatible", "arm,gic-v3")
                    .cells("#redistributor-regions", &[count])
                    .cells("redistributor-stride", &[0, 0x4_0000])
                    .cells("reg", reg)
            })
            .end()
    };
    let platform =
        discover(gic(2, &[0x1000, 0x1000, 0x10_0000, 0x8_0000, 0x20_0000, 0x8_0000])).unwrap();
    let InterruptController::GicV3(gic_v3) = platform.interrupt_controller else { panic!() };
    assert_eq!(gic_v3.redistributors, [region(0x10_0000, 0x8_0000), region(0x20_0000, 0x8_0000)]);
    assert_eq!(gic_v3.redistributor_stride, Some(0x4_0000));
    for count in [0, 3, 65, u32::MAX] {
        assert!(
            discover(gic(count, &[0x1000, 0x1000, 0x10_0000, 0x8_0000, 0x20_0000, 0x8_0000]))
                .is_err()
        );
    }
}
