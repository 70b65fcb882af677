//! Trees of the shape that real boards have.

use super::*;

/// The shape of a Raspberry Pi 4: root cells 2/1, a translating bus, spin tables, two serial ports.
fn raspberry_pi(stdout: &str) -> TestBlob {
    let cpu = |number: u32| {
        move |n: TestBlob| {
            n.text("device_type", "cpu")
                .text("compatible", "arm,cortex-a72")
                .cells("reg", &[number])
                .text("enable-method", "spin-table")
                .cells("cpu-release-addr", &[0, 0xd8 + 8 * number])
        }
    };
    let soc = |n: TestBlob| {
        n.cells("#address-cells", &[1])
            .cells("#size-cells", &[1])
            .cells(
                "ranges",
                &[
                    0x7e00_0000,
                    0,
                    0xfe00_0000,
                    0x180_0000,
                    0x7c00_0000,
                    0,
                    0xfc00_0000,
                    0x200_0000,
                    0x4000_0000,
                    0,
                    0xff80_0000,
                    0x80_0000,
                ],
            )
            .leaf("serial@7e201000", |n| {
                n.text("compatible", "arm,pl011|arm,primecell")
                    .cells("reg", &[0x7e20_1000, 0x200])
                    .cells("interrupts", &[0, 0x79, 4])
                    .cells("clocks", &[9, 19])
            })
            .leaf("serial@7e201400", |n| {
                n.text("compatible", "arm,pl011|arm,primecell")
                    .cells("reg", &[0x7e20_1400, 0x200])
                    .text("status", "disabled")
            })
            .leaf("serial@7e215040", |n| {
                n.text("compatible", "brcm,bcm2835-aux-uart")
                    .cells("reg", &[0x7e21_5040, 0x40])
                    .cells("interrupts", &[0, 0x5d, 4])
            })
            .leaf("interrupt-controller@40041000", |n| {
                n.text("compatible", "arm,gic-400")
                    .cells("phandle", &[1])
                    .flag("interrupt-controller")
                    .cells("#interrupt-cells", &[3])
                    .cells(
                        "reg",
                        &[
                            0x4004_1000,
                            0x1000,
                            0x4004_2000,
                            0x2000,
                            0x4004_4000,
                            0x2000,
                            0x4004_6000,
                            0x2000,
                        ],
                    )
            })
            .leaf("watchdog@7e100000", |n| {
                n.text("compatible", "brcm,bcm2711-pm|brcm,bcm2835-pm-wdt")
                    .cells("reg", &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24])
            })
    };
    let mut blob = TestBlob::root(2, 1)
        .text("compatible", "raspberrypi,4-model-b|brcm,bcm2711")
        .text("model", "Raspberry Pi 4 Model B")
        .cells("interrupt-parent", &[1])
        .leaf("aliases", |n| {
            n.text("serial0", "/soc/serial@7e201000").text("serial1", "/soc/serial@7e215040")
        })
        .leaf("chosen", |n| {
            n.text("stdout-path", stdout)
                .text("bootargs", "quiet")
                .cells("linux,initrd-start", &[0x800_0000])
                .cells("linux,initrd-end", &[0x800_4000])
        })
        .leaf("memory@0", |n| {
            n.text("device_type", "memory")
                .cells("reg", &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000, 1, 0, 0x8000_0000])
        })
        .nop()
        .leaf("soc", soc)
        .leaf("timer", |n| {
            n.text("compatible", "arm,armv8-timer")
                .cells("interrupts", &[1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08])
        })
        .leaf("arm-pmu", |n| {
            n.text("compatible", "arm,cortex-a72-pmu|arm,armv8-pmuv3")
                .cells("interrupts", &[0, 16, 4, 0, 17, 4, 0, 18, 4, 0, 19, 4])
        })
        .leaf("cpus", |n| {
            let n = n.cells("#address-cells", &[1]).cells("#size-cells", &[0]);
            n.leaf("cpu@0", cpu(0))
                .leaf("cpu@1", cpu(1))
                .leaf("cpu@2", cpu(2))
                .leaf("cpu@3", cpu(3))
                .leaf("l2-cache", |n| n)
        })
        .end();
    blob.reservations = vec![(0, 0x1000)];
    blob
}

#[test]
fn a_raspberry_pi_4_is_understood() {
    let platform = discover(raspberry_pi("serial1:115200n8")).unwrap();
    let usable = platform.usable_memory();
    assert_eq!(
        usable,
        [
            region(0x1000, 0x3b3f_f000),
            region(0x4000_0000, 0xbc00_0000),
            region(1 << 32, 0x8000_0000)
        ]
    );
    let releases: Vec<_> = platform.cpus.iter().map(|cpu| cpu.enable_method.clone()).collect();
    let release = |address| EnableMethod::SpinTable { release: PhysicalAddress::new(address) };
    assert_eq!(releases, [release(0xd8), release(0xe0), release(0xe8), release(0xf0)]);
    assert_eq!(platform.psci, None);
    let expected = GicV2 {
        gicd: region(0xff84_1000, 0x1000),
        gicc: region(0xff84_2000, 0x2000),
        gich: Some(region(0xff84_4000, 0x2000)),
        gicv: Some(region(0xff84_6000, 0x2000)),
        maintenance: Interrupt::gic(25, Trigger::LevelHigh),
    };
    assert_eq!(platform.interrupt_controller, InterruptController::GicV2(expected));
    assert_eq!(platform.timer.virtual_timer, Some(Interrupt::gic(27, Trigger::LevelLow)));
    assert_eq!(
        platform.pmu.iter().map(|i| i.int_id().unwrap().get()).collect::<Vec<_>>(),
        [48, 49, 50, 51]
    );
    assert_eq!(platform.reset, Some(ResetDevice::Bcm2835Watchdog(region(0xfe10_0000, 0x114))));
    assert_eq!(platform.chosen.initrd, Some(region(0x800_0000, 0x4000)));
    assert_eq!(platform.chosen.bootargs.as_deref(), Some("quiet"));
    let ports: Vec<_> =
        platform.serial_ports.iter().map(|port| port.registers.base().get()).collect();
    assert_eq!(ports, [0xfe20_1000, 0xfe21_5040]);
}

#[test]
fn stdout_path_chooses_between_the_serial_ports_of_a_raspberry_pi() {
    let cases = [
        ("serial1:115200n8", ConsoleKind::Bcm2835Aux, 0xfe21_5040, 125, Some("115200n8")),
        ("serial0", ConsoleKind::Pl011, 0xfe20_1000, 153, None),
        ("/soc/serial@7e215040", ConsoleKind::Bcm2835Aux, 0xfe21_5040, 125, None),
        // Nothing there: the alias serial0 remains.
        ("serial7", ConsoleKind::Pl011, 0xfe20_1000, 153, None),
    ];
    for (stdout, kind, base, int_id, options) in cases {
        let console = discover(raspberry_pi(stdout)).unwrap().console.unwrap();
        assert_eq!(console.kind, kind, "{stdout}");
        assert_eq!(console.registers.base().get(), base);
        assert_eq!(console.interrupt, Some(Interrupt::gic(int_id, Trigger::LevelHigh)));
        assert_eq!(console.options.as_deref(), options);
        assert_eq!((console.io_width, console.clock_hz), (4, None));
    }
}

#[test]
fn the_port_that_is_wired_wins_over_the_choice_of_the_tree() {
    let platform = discover(raspberry_pi("serial1:115200n8")).unwrap();
    for (wired, kind) in [
        (Some(ConsoleKind::Pl011), ConsoleKind::Pl011),
        (Some(ConsoleKind::Bcm2835Aux), ConsoleKind::Bcm2835Aux),
        (None, ConsoleKind::Bcm2835Aux),
        // Not on this board: any is better than none.
        (Some(ConsoleKind::S5l), ConsoleKind::Bcm2835Aux),
    ] {
        assert_eq!(platform.console_of_kind(wired.as_ref()).unwrap().kind, kind, "{wired:?}");
    }
}

/// The shape of Apple silicon as m1n1 leaves it.
fn apple(compatible: &str, cells: u32, reg: &[u32]) -> TestBlob {
    let aic = |kind: u32, number: u32| {
        if cells == 4 { vec![kind, 0, number, 4] } else { vec![kind, number, 4] }
    };
    let fiqs: Vec<u32> = [2, 3, 0, 1].into_iter().flat_map(|number| aic(1, number)).collect();
    TestBlob::root(2, 2)
        .text("compatible", "apple,j274|apple,t8103|apple,arm-platform")
        .leaf("aliases", |n| n.text("serial0", "/soc/serial@235200000"))
        .leaf("chosen", |n| n.text("stdout-path", "serial0"))
        .leaf("memory@800000000", |n| {
            n.text("device_type", "memory").cells("reg", &[8, 0x1_0000, 1, 0])
        })
        .leaf("cpus", |n| {
            n.cells("#address-cells", &[2])
                .cells("#size-cells", &[0])
                .nop()
                .leaf("cpu@0", |n| {
                    n.text("device_type", "cpu")
                        .text("compatible", "apple,icestorm")
                        .cells("reg", &[0, 0])
                        .text("enable-method", "spin-table")
                        .cells("cpu-release-addr", &[8, 0x1234])
                })
                .leaf("cpu@10100", |n| {
                    n.text("device_type", "cpu")
                        .cells("reg", &[0, 0x1_0100])
                        .text("enable-method", "spin-table")
                        .cells("cpu-release-addr", &[8, 0x5678])
                })
        })
        .leaf("timer", |n| {
            n.text("compatible", "arm,armv8-timer")
                .cells("interrupt-parent", &[3])
                .text("interrupt-names", "phys|virt|hyp-phys|hyp-virt")
                .cells("interrupts", &fiqs)
        })
        .leaf("pmu-e", |n| {
            n.text("compatible", "apple,icestorm-pmu")
                .cells("interrupt-parent", &[3])
                .cells("interrupts", &aic(1, 4))
        })
        .leaf("soc", |n| {
            n.cells("#address-cells", &[2])
                .cells("#size-cells", &[2])
                .flag("ranges")
                .flag("nonposted-mmio")
                .leaf("serial@235200000", |n| {
                    n.text("compatible", "apple,s5l-uart")
                        .cells("reg", &[2, 0x3520_0000, 0, 0x1000])
                        .cells("interrupt-parent", &[3])
                        .cells("interrupts", &aic(0, 605))
                })
                .leaf("interrupt-controller@23b100000", |n| {
                    n.text("compatible", compatible)
                        .cells("#interrupt-cells", &[cells])
                        .flag("interrupt-controller")
                        .cells("phandle", &[3])
                        .cells("reg", reg)
                })
                .leaf("watchdog@23d2b0000", |n| {
                    n.text("compatible", "apple,t8103-wdt|apple,wdt")
                        .cells("reg", &[2, 0x3d2b_0000, 0, 0x4000])
                })
        })
        .end()
}

#[test]
fn apple_silicon_is_understood() {
    let v1: &[u32] = &[2, 0x3b10_0000, 0, 0x8000];
    let v2: &[u32] = &[2, 0x8e10_0000, 0, 0xc000, 2, 0x8e10_c000, 0, 4];
    let event = Some(region(0x2_8e10_c000, 4));
    let cases = [
        ("apple,t8103-aic|apple,aic", 3, v1, AicVersion::V1, region(0x2_3b10_0000, 0x8000), None),
        ("apple,t6000-aic|apple,aic2", 4, v2, AicVersion::V2, region(0x2_8e10_0000, 0xc000), event),
        ("apple,t8112-aic|apple,aic2", 3, v2, AicVersion::V2, region(0x2_8e10_0000, 0xc000), event),
        ("apple,t8122-aic3", 3, v2, AicVersion::V3, region(0x2_8e10_0000, 0xc000), event),
    ];
    for (compatible, cells, reg, version, registers, event) in cases {
        let platform = discover(apple(compatible, cells, reg)).unwrap();
        let expected = Aic { version, registers, event, cells: cells as usize };
        assert_eq!(platform.interrupt_controller, InterruptController::Aic(expected));
        let fiq = |number| {
            Some(Interrupt {
                source: InterruptSource::AicFiq { die: 0, number },
                trigger: Trigger::LevelHigh,
            })
        };
        let timer = TimerInterrupts {
            secure_physical: None,
            physical: fiq(2),
            virtual_timer: fiq(3),
            hypervisor_physical: fiq(0),
            hypervisor_virtual: fiq(1),
        };
        assert_eq!(platform.timer, timer);
        assert_eq!(platform.pmu, [fiq(4).unwrap()]);
        let console = platform.console.unwrap();
        assert_eq!(console.kind, ConsoleKind::S5l);
        assert_eq!(console.registers, region(0x2_3520_0000, 0x1000));
        let source = InterruptSource::AicIrq { die: 0, number: 605 };
        assert_eq!(console.interrupt.unwrap().source, source);
        assert_eq!(platform.reset, Some(ResetDevice::AppleWatchdog(region(0x2_3d2b_0000, 0x4000))));
        let cpus: Vec<_> = platform.cpus.iter().map(|cpu| cpu.mpidr.get()).collect();
        assert_eq!(cpus, [0, 0x1_0100]);
        assert_eq!(platform.psci, None);
        assert_eq!(platform.memory, [region(0x8_0001_0000, 1 << 32)]);
    }
}

#[test]
fn a_version_2_aic_without_event_register_is_refused() {
    let error = discover(apple("apple,aic2", 3, &[2, 0, 0, 0x1000])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device tree: /soc/interrupt-controller@23b100000: property \"reg\": it has fewer entries than the device needs"
    );
}
