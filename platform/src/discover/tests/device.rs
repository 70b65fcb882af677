//! Devices that guests get.

use super::*;
use crate::discover::{DeviceRefusal, HostDevice};

const PAGE: u64 = 0x1000;

/// A machine with a GIC and, in a bus, some devices.
fn machine() -> Tree {
    let reg = |base: u32, size: u32| [0, base, 0, size];
    let blob = TestBlob::root(2, 2)
        .cells("interrupt-parent", &[1])
        .leaf("intc@8000000", |n| {
            n.text("compatible", "arm,gic-v3")
                .flag("interrupt-controller")
                .cells("#interrupt-cells", &[3])
                .cells("phandle", &[1])
                .cells("reg", &[reg(0x800_0000, 0x1_0000), reg(0x80a_0000, 0x2_0000)].concat())
        })
        .leaf("gpio@9030000", |n| {
            n.property("compatible", b"arm,pl061\0arm,primecell\0")
                .cells("reg", &reg(0x903_0000, 0x1000))
                .cells("interrupts", &[0, 7, 4])
                .cells("phandle", &[9])
                .cells("#gpio-cells", &[2])
                .flag("gpio-controller")
                .cells("pinctrl-0", &[3])
                .cells("vdd-supply", &[4])
        })
        .leaf("serial@9041000", |n| {
            n.text("compatible", "arm,pl011").cells("reg", &reg(0x904_1000, 0x200))
        })
        .leaf("timer@9041800", |n| {
            n.text("compatible", "arm,sp804").cells("reg", &reg(0x904_1800, 0x200))
        })
        .leaf("mmc@9050000", |n| {
            n.text("compatible", "arm,pl180").cells("reg", &reg(0x905_0000, 0x1000))
        })
        .leaf("off@9060000", |n| {
            n.text("compatible", "arm,pl011")
                .text("status", "disabled")
                .cells("reg", &reg(0x906_0000, 0x1000))
        })
        .leaf("bare", |n| n.text("compatible", "arm,pl011"))
        .leaf("odd@9070000", |n| {
            n.text("compatible", "arm,pl011")
                .cells("reg", &reg(0x907_0000, 0x1000))
                .cells("interrupt-parent", &[9])
                .cells("interrupts", &[3, 4])
        });
    Tree::from_blob(&blob.end().finish()).unwrap()
}

#[test]
fn a_device_that_only_has_registers_is_found_with_its_interrupts() {
    let tree = machine();
    let device = HostDevice::find(&tree, "/gpio@9030000", PAGE).unwrap();
    assert_eq!(device.registers, [region(0x903_0000, 0x1000)]);
    assert_eq!(device.interrupts, [Interrupt::gic(39, Trigger::LevelHigh)]);
    let names: Vec<_> = device.properties().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["#gpio-cells", "gpio-controller"],
        "references to the host's nodes stay behind"
    );
}

#[test]
fn what_could_do_harm_or_could_not_work_is_refused_in_words() {
    let tree = machine();
    for (path, reason) in [
        ("/nothing", "no device /nothing"),
        ("/", "no device /"),
        ("/mmc@9050000", "/mmc@9050000 (arm,pl180) may access memory by itself"),
        ("/intc@8000000", "may access memory"),
        ("/off@9060000", "disabled"),
        ("/bare", "no registers"),
        ("/serial@9041000", "shares a page of registers with /timer@9041800"),
        ("/odd@9070000", "a controller that the hypervisor does not drive"),
    ] {
        let refusal: DeviceRefusal = HostDevice::find(&tree, path, PAGE).unwrap_err();
        assert!(refusal.to_string().contains(reason), "{path}: {refusal}");
    }
}

#[test]
fn a_larger_page_holds_more_devices() {
    let tree = machine();
    assert!(HostDevice::find(&tree, "/gpio@9030000", 0x4000).is_ok());
    let refusal = HostDevice::find(&tree, "/gpio@9030000", 0x10_0000).unwrap_err();
    assert!(matches!(refusal, DeviceRefusal::Shared { .. }), "{refusal}");
}
