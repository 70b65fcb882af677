//! Devices that guests get.

use super::*;
use crate::discover::{DeviceRefusal, HostDevice, Terms};

const TERMS: Terms<'static> = Terms { page: 0x1000, together: &[], direct_memory: false };
const DIRECT: Terms<'static> = Terms { direct_memory: true, ..TERMS };

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
        })
        .leaf("behind-iommu@9080000", |n| {
            n.text("compatible", "arm,pl011")
                .cells("reg", &reg(0x908_0000, 0x1000))
                .cells("iommus", &[7])
        })
        .leaf("memory@40000000", |n| {
            n.text("device_type", "memory").cells("reg", &reg(0x4000_0000, 0x4000_0000))
        })
        .leaf("trick@50000000", |n| {
            n.text("compatible", "arm,pl011").cells("reg", &reg(0x5000_0000, 0x1000))
        })
        .leaf("pcie@10000000", |n| {
            n.text("device_type", "pci").cells("reg", &reg(0x1000_0000, 0x10_0000))
        })
        .begin("disks")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .flag("dma-coherent")
        .cells("ranges", &[0, 0, 0xa00_0000, 0x1000])
        // The first GiB of memory as it is, the next one not at all.
        .cells("dma-ranges", &[0x4000_0000, 0, 0x4000_0000, 0x4000_0000])
        .leaf("disk@0", |n| n.text("compatible", "virtio,mmio").cells("reg", &[0, 0x200]))
        .leaf("disk@200", |n| {
            n.text("compatible", "virtio,mmio")
                .cells("reg", &[0x200, 0x200])
                .flag("dma-noncoherent")
        })
        .end();
    Tree::from_blob(&blob.end().finish()).unwrap()
}

#[test]
fn a_device_that_only_has_registers_is_found_with_its_interrupts() {
    let tree = machine();
    let device = HostDevice::find(&tree, "/gpio@9030000", &TERMS).unwrap();
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
        ("/intc@8000000", "a part of the machine"),
        ("/disks/disk@0", "give its VM `direct_memory = true`"),
        ("/behind-iommu@9080000", "(arm,pl011) may access memory"),
        ("/off@9060000", "disabled"),
        ("/bare", "no registers"),
        ("/trick@50000000", "overlap the machine's memory"),
        ("/serial@9041000", "shares a page of registers with /timer@9041800"),
        ("/odd@9070000", "a controller that the hypervisor does not drive"),
    ] {
        let refusal: DeviceRefusal = HostDevice::find(&tree, path, &TERMS).unwrap_err();
        assert!(refusal.to_string().contains(reason), "{path}: {refusal}");
    }
}

#[test]
fn a_larger_page_holds_more_devices() {
    let tree = machine();
    assert!(HostDevice::find(&tree, "/gpio@9030000", &Terms { page: 0x4000, ..TERMS }).is_ok());
    let refusal =
        HostDevice::find(&tree, "/gpio@9030000", &Terms { page: 0x10_0000, ..TERMS }).unwrap_err();
    assert!(matches!(refusal, DeviceRefusal::Shared { .. }), "{refusal}");
}

#[test]
fn a_device_that_accesses_memory_needs_direct_memory_and_all_of_its_page() {
    let tree = machine();
    let together = ["/disks/disk@0", "/disks/disk@200"].map(String::from);
    let refusal = HostDevice::find(&tree, &together[0], &DIRECT).unwrap_err();
    assert!(refusal.to_string().contains("with /disks/disk@200"), "{refusal}");
    let terms = Terms { together: &together, ..DIRECT };
    let disk = HostDevice::find(&tree, &together[0], &terms).unwrap();
    assert!(disk.accesses_memory);
    assert_eq!(disk.registers, [region(0xa00_0000, 0x200)]);
    assert_eq!(disk.properties(), [("dma-coherent", &[][..])], "as the bus above says");
    let other = HostDevice::find(&tree, &together[1], &terms).unwrap();
    assert_eq!(other.properties(), [("dma-noncoherent", &[][..])], "the nearer one counts");
    assert!(!HostDevice::find(&tree, "/gpio@9030000", &DIRECT).unwrap().accesses_memory);
}

#[test]
fn a_device_must_reach_the_guests_memory_at_its_own_addresses() {
    let tree = machine();
    let together = ["/disks/disk@0", "/disks/disk@200"].map(String::from);
    let terms = Terms { together: &together, ..DIRECT };
    let disk = HostDevice::find(&tree, &together[0], &terms).unwrap();
    assert_eq!(disk.check_reach(region(0x4000_0000, 0x4000_0000)), Ok(()));
    for memory in [region(0x3fff_0000, 0x2_0000), region(0x7fff_0000, 0x2_0000)] {
        let refusal = disk.check_reach(memory).unwrap_err();
        assert!(refusal.to_string().starts_with("/disks/disk@0 cannot reach"), "{refusal}");
    }
    let gpio = HostDevice::find(&tree, "/gpio@9030000", &terms).unwrap();
    assert_eq!(gpio.check_reach(region(0, 0x1000)), Ok(()), "it accesses no memory");
}

#[test]
fn what_the_machine_is_made_of_is_not_given_away_even_with_direct_memory() {
    let tree = machine();
    for path in ["/intc@8000000", "/memory@40000000", "/pcie@10000000", "/disks"] {
        let refusal = HostDevice::find(&tree, path, &DIRECT).unwrap_err();
        assert!(matches!(refusal, DeviceRefusal::Infrastructure(_)), "{path}: {refusal}");
    }
    let refusal = HostDevice::find(&tree, "/behind-iommu@9080000", &DIRECT).unwrap_err();
    assert!(matches!(refusal, DeviceRefusal::Iommu(_)), "{refusal}");
}
