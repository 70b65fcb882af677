//! Reading of good and of odd trees.

mod hostile;

use super::test_blob::TestBlob;
use super::*;
use crate::PhysicalAddress;

const VIRT: &[u8] = include_bytes!("../../../tests/data/qemu-virt-gicv3-4cpu.dtb");

fn tree(blob: TestBlob) -> Tree {
    Tree::from_blob(&blob.finish()).unwrap()
}

fn names(tree: &Tree) -> Vec<String> {
    tree.nodes().map(|node| node.path().to_string()).collect()
}

/// A node's name and its properties.
type SeenNode = (String, Vec<(String, Vec<u8>)>);

/// What another reader sees: depth-first, each node with its properties.
fn seen_by_fdt(blob: &[u8]) -> Vec<SeenNode> {
    let fdt = fdt::Fdt::new(blob).unwrap();
    fdt.all_nodes()
        .map(|node| {
            let properties =
                node.properties().map(|p| (p.name.to_owned(), p.value.to_vec())).collect();
            (node.name.to_owned(), properties)
        })
        .collect()
}

fn seen_by_us(tree: &Tree) -> Vec<SeenNode> {
    tree.nodes()
        .map(|node| {
            let properties =
                node.properties().map(|p| (p.name().to_owned(), p.value().to_vec())).collect();
            let name = if node.name().is_empty() { "/" } else { node.name() };
            (name.to_owned(), properties)
        })
        .collect()
}

#[test]
fn a_clean_tree_reads_the_same_before_and_after() {
    let tree = Tree::from_blob(VIRT).unwrap();
    assert_eq!(seen_by_us(&tree), seen_by_fdt(VIRT));
    assert_eq!(seen_by_us(&tree), seen_by_fdt(tree.blob()));
    let again = Tree::from_blob(tree.blob()).unwrap();
    assert_eq!(again.blob(), tree.blob());
}

#[test]
fn dtoolkit_accepts_the_clean_tree() {
    let tree = Tree::from_blob(VIRT).unwrap();
    dtoolkit::fdt::Fdt::new(tree.blob()).unwrap();
}

#[test]
fn bytes_after_the_tree_are_ignored() {
    let padded = [VIRT, &[0xaa; 100]].concat();
    assert_eq!(Tree::from_blob(&padded).unwrap().blob(), Tree::from_blob(VIRT).unwrap().blob());
}

#[test]
fn nop_tokens_leave_no_trace() {
    let plain =
        TestBlob::root(2, 2).leaf("a", |n| n.cells("x", &[1]).leaf("b", |n| n)).leaf("c", |n| n);
    let odd = TestBlob::default()
        .nop()
        .begin("")
        .nop()
        .cells("#address-cells", &[2])
        .nop()
        .nop()
        .cells("#size-cells", &[2])
        .nop()
        .begin("a")
        .nop()
        .cells("x", &[1])
        .nop()
        .begin("b")
        .nop()
        .end()
        .nop()
        .end()
        .nop()
        .leaf("c", |n| n)
        .nop();
    let (plain, odd) = (tree(plain.end()), tree(odd.end().nop()));
    assert_eq!(odd.blob(), plain.blob());
    assert_eq!(names(&odd), ["/", "/a", "/a/b", "/c"]);
    assert_eq!(seen_by_fdt(odd.blob()), seen_by_us(&odd));
}

#[test]
fn nodes_are_found_by_path_child_parent_and_phandle() {
    let tree = Tree::from_blob(VIRT).unwrap();
    let uart = tree.node("/pl011@9000000").unwrap();
    assert_eq!(uart.base_name(), "pl011");
    assert_eq!(uart.parent(), Some(tree.root()));
    assert_eq!(tree.root().parent(), None);
    assert_eq!(tree.node("/"), Some(tree.root()));
    assert_eq!(tree.node("/pl011"), Some(uart));
    assert_eq!(tree.node("pl011"), None);
    assert_eq!(tree.node("/pl011@9000001"), None);
    assert_eq!(tree.node("/cpus/cpu@2/x"), None);
    let cpus: Vec<_> = tree.node("/cpus").unwrap().children().map(|node| node.name()).collect();
    assert_eq!(cpus, ["cpu-map", "cpu@0", "cpu@1", "cpu@2", "cpu@3"]);
    let gic = tree.node("/intc").unwrap();
    assert_eq!(tree.root().reference("interrupt-parent"), Some(gic));
    assert_eq!(tree.by_phandle(gic.phandle().unwrap()), Some(gic));
    assert_eq!(tree.by_phandle(1), None);
    assert_eq!(tree.alias("serial0"), Some(uart));
    assert_eq!(tree.node("/cpus/cpu-map").unwrap().descendants().count(), 6);
}

#[test]
fn an_exact_name_wins_over_the_same_name_with_an_address() {
    let tree = tree(TestBlob::root(1, 1).leaf("memory@8", |n| n).leaf("memory", |n| n).end());
    assert_eq!(tree.node("/memory").unwrap().name(), "memory");
    assert_eq!(tree.node("/memory@8").unwrap().name(), "memory@8");
}

#[test]
fn properties_have_the_standard_types() {
    let tree = tree(
        TestBlob::root(1, 1)
            .cells("one", &[0x1234_5678])
            .cells("two", &[1, 2])
            .cells("three", &[1, 2, 3])
            .text("text", "hello")
            .text("list", "a|bc|d")
            .property("unterminated", b"abc")
            .property("latin", b"a\0\xff\0b\0")
            .flag("empty")
            .end(),
    );
    let root = tree.root();
    assert_eq!((root.u32("one"), root.u64("one")), (Some(0x1234_5678), Some(0x1234_5678)));
    assert_eq!((root.u32("two"), root.u64("two")), (None, Some(0x1_0000_0002)));
    assert_eq!((root.u32("three"), root.u64("three")), (None, None));
    assert_eq!(root.property("three").unwrap().cells().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(root.str("text"), Some("hello"));
    assert_eq!(root.strings("list").collect::<Vec<_>>(), ["a", "bc", "d"]);
    assert_eq!((root.str("unterminated"), root.strings("unterminated").count()), (None, 0));
    assert_eq!(root.strings("latin").collect::<Vec<_>>(), ["a"]);
    assert_eq!((root.str("empty"), root.u32("empty"), root.u32("none")), (None, None, None));
    assert_eq!(
        root.property("two").unwrap().u32().unwrap_err().to_string(),
        "device tree: /: property \"two\": the value isn't one number of 4 bytes"
    );
    assert_eq!(
        root.required("none").unwrap_err().to_string(),
        "device tree: /: property \"none\": it is missing"
    );
}

#[test]
fn references_may_have_options() {
    let tree = tree(
        TestBlob::root(1, 1)
            .leaf("aliases", |n| n.text("serial1", "/soc/uart@1").text("gone", "/nowhere"))
            .leaf("soc", |n| n.leaf("uart@1", |n| n))
            .end(),
    );
    let uart = tree.node("/soc/uart@1");
    let resolve = |reference| {
        let resolved = tree.resolve(reference);
        (resolved.map(|(node, _)| node), resolved.and_then(|(_, options)| options))
    };
    assert_eq!(resolve("serial1:115200n8"), (uart, Some("115200n8")));
    assert_eq!(resolve("serial1"), (uart, None));
    assert_eq!(resolve("/soc/uart@1:9600"), (uart, Some("9600")));
    assert_eq!(resolve("gone"), (None, None));
    assert_eq!(resolve("serial2"), (None, None));
    assert_eq!(resolve(""), (None, None));
}

#[test]
fn an_alias_of_an_alias_is_dropped() {
    let tree = tree(
        TestBlob::root(1, 1)
            .leaf("aliases", |n| {
                n.text("a", "a").text("b", "c").text("c", "b").text("d", "/x").flag("e")
            })
            .leaf("x", |n| n)
            .end(),
    );
    let aliases = tree.node("/aliases").unwrap();
    assert_eq!(aliases.properties().map(|p| p.name()).collect::<Vec<_>>(), ["d"]);
    // This is where `fdt` runs in circles with the original.
    let fdt = tree.fdt().unwrap();
    assert!(fdt.find_node("a").is_none() && fdt.find_node("b").is_none());
    assert_eq!(fdt.find_node("d").unwrap().name, "x");
}

#[test]
fn only_okay_devices_below_okay_buses_are_found() {
    let device = |n: TestBlob| n.text("compatible", "dev");
    let tree = tree(
        TestBlob::root(1, 1)
            .leaf("a", device)
            .leaf("b", |n| device(n).text("status", "okay"))
            .leaf("c", |n| device(n).text("status", "disabled"))
            .leaf("d", |n| device(n).text("status", "fail-sss"))
            .leaf("e", |n| device(n).flag("status"))
            .leaf("twice", |n| device(n).text("status", "okay").text("status", "disabled"))
            .leaf("bus1", |n| n.text("status", "disabled").leaf("f", device))
            .leaf("bus2", |n| n.text("status", "ok").leaf("g", device))
            .end(),
    );
    let found: Vec<_> = tree.compatible(&["other", "dev"]).map(|node| node.name()).collect();
    assert_eq!(found, ["a", "b", "g"]);
    assert!(!tree.node("/twice").unwrap().is_enabled());
    assert!(tree.node("/bus1/f").unwrap().is_enabled());
    assert!(!tree.node("/bus1/f").unwrap().is_reachable());
}

#[test]
fn registers_are_translated_through_every_bus() {
    let tree = tree(
        TestBlob::root(2, 1)
            .leaf("soc", |n| {
                n.cells("#address-cells", &[1])
                    .cells("#size-cells", &[1])
                    .cells(
                        "ranges",
                        &[
                            0x7e00_0000,
                            0,
                            0xfe00_0000,
                            0x180_0000,
                            0x4000_0000,
                            4,
                            0xff80_0000,
                            0x80_0000,
                        ],
                    )
                    .leaf("uart", |n| n.cells("reg", &[0x7e20_1000, 0x200, 0x4000_1000, 0x100]))
                    .leaf("outside", |n| n.cells("reg", &[0x7f80_0000, 4]))
                    .leaf("transparent", |n| {
                        n.flag("ranges")
                            .cells("#address-cells", &[1])
                            .cells("#size-cells", &[0])
                            .leaf("x", |n| n.cells("reg", &[0x7e00_0004]))
                    })
                    .leaf("i2c", |n| {
                        n.cells("#address-cells", &[1])
                            .cells("#size-cells", &[0])
                            .leaf("eeprom", |n| n.cells("reg", &[0x50]))
                    })
            })
            .leaf("top", |n| n.cells("reg", &[1, 2, 3]))
            .leaf("broken", |n| n.cells("reg", &[1, 2]))
            .leaf("pci", |n| {
                n.cells("#address-cells", &[3])
                    .cells("#size-cells", &[2])
                    .leaf("dev", |n| n.cells("reg", &[0; 5]))
            })
            .end(),
    );
    let mapped = |path: &str, entry| {
        tree.node(path).unwrap().mapped_reg(entry).map_err(|error| error.to_string())
    };
    let region = |base, size| Region::new(PhysicalAddress::new(base), size).unwrap();
    assert_eq!(mapped("/soc/uart", 0), Ok(region(0xfe20_1000, 0x200)));
    assert_eq!(mapped("/soc/uart", 1), Ok(region(0x4_ff80_1000, 0x100)));
    assert_eq!(mapped("/top", 0), Ok(region(0x1_0000_0002, 3)));
    assert_eq!(
        tree.node("/soc/transparent/x").unwrap().to_cpu_address(0x7e00_0004),
        Ok(0xfe00_0004)
    );
    let error = |path: &str, property: &str, fault: &str| {
        Err(format!("device tree: {path}: property {property:?}: {fault}"))
    };
    assert_eq!(
        mapped("/soc/uart", 2),
        error("/soc/uart", "reg", "it has fewer entries than the device needs")
    );
    assert_eq!(
        mapped("/soc/outside", 0),
        error("/soc", "ranges", "no entry maps an address that a device below has")
    );
    assert_eq!(
        mapped("/soc/i2c/eeprom", 0),
        error("/soc/i2c/eeprom", "reg", "a bus above doesn't map its children (no ranges)")
    );
    assert_eq!(
        mapped("/broken", 0),
        error("/broken", "reg", "the value isn't a whole number of entries")
    );
    assert_eq!(
        mapped("/pci/dev", 0),
        error("/pci/dev", "reg", "addresses or sizes have more than 2 cells")
    );
    assert_eq!(
        mapped("/soc/transparent/x", 0),
        error("/soc/transparent/x", "reg", "the range is empty or wraps")
    );
}

fn interrupts(tree: &Tree, path: &str) -> Vec<(String, Vec<u32>)> {
    tree.node(path)
        .unwrap()
        .interrupts()
        .map(|interrupt| match interrupt {
            Ok(interrupt) => {
                (interrupt.controller.name().to_owned(), interrupt.cells.as_slice().to_vec())
            }
            Err(error) => (error.fault.to_owned(), vec![]),
        })
        .collect()
}

#[test]
fn interrupts_are_read_in_the_terms_of_their_controller() {
    let controller = |phandle, cells| {
        move |n: TestBlob| {
            n.flag("interrupt-controller")
                .cells("#interrupt-cells", &[cells])
                .cells("phandle", &[phandle])
        }
    };
    let tree = tree(
        TestBlob::root(1, 1)
            .cells("interrupt-parent", &[1])
            .leaf("gic", controller(1, 3))
            .leaf("aic", controller(2, 4))
            .leaf("gpio", controller(3, 2))
            .leaf("odd", controller(4, 5))
            .leaf("inherited", |n| n.cells("interrupts", &[0, 1, 4, 1, 9, 8]))
            .leaf("own", |n| n.cells("interrupt-parent", &[2]).cells("interrupts", &[1, 0, 2, 4]))
            .leaf("extended", |n| {
                n.cells("interrupts-extended", &[3, 7, 1, 1, 0, 5, 4]).cells("interrupts", &[9])
            })
            .leaf("short", |n| n.cells("interrupts", &[0, 1, 4, 1]))
            .leaf("unknown", |n| n.cells("interrupts-extended", &[77, 1]))
            .leaf("five", |n| {
                n.cells("interrupt-parent", &[4]).cells("interrupts", &[1, 2, 3, 4, 5])
            })
            .leaf("none", |n| n)
            .leaf("bus", |n| {
                n.cells("interrupt-parent", &[3])
                    .leaf("deep", |n| n.leaf("er", |n| n.cells("interrupts", &[5, 6])))
            })
            .leaf("loop", |n| {
                n.cells("phandle", &[8]).cells("interrupt-parent", &[8]).cells("interrupts", &[1])
            })
            .end(),
    );
    let gic = |cells: &[u32]| ("gic".to_owned(), cells.to_vec());
    let fault = |fault: &str| (fault.to_owned(), vec![]);
    assert_eq!(interrupts(&tree, "/inherited"), [gic(&[0, 1, 4]), gic(&[1, 9, 8])]);
    assert_eq!(interrupts(&tree, "/own"), [("aic".to_owned(), vec![1, 0, 2, 4])]);
    assert_eq!(interrupts(&tree, "/extended"), [("gpio".to_owned(), vec![7, 1]), gic(&[0, 5, 4])]);
    assert_eq!(
        interrupts(&tree, "/short"),
        [gic(&[0, 1, 4]), fault("the value isn't a whole number of interrupts")]
    );
    assert_eq!(interrupts(&tree, "/unknown"), [fault("a phandle names no node")]);
    assert_eq!(
        interrupts(&tree, "/five"),
        [fault("the interrupt controller hasn't 1 to 4 #interrupt-cells")]
    );
    assert_eq!(interrupts(&tree, "/none"), []);
    assert_eq!(interrupts(&tree, "/bus/deep/er"), [("gpio".to_owned(), vec![5, 6])]);
    assert_eq!(interrupts(&tree, "/loop"), [fault("the device has no interrupt parent")]);
}

#[test]
fn interrupt_maps_are_followed_to_the_controller() {
    let nexus = |n: TestBlob| {
        n.cells("#address-cells", &[2])
            .cells("#size-cells", &[1])
            .cells("#interrupt-cells", &[1])
            .cells("interrupt-map-mask", &[0, 0, 63])
            .cells("interrupt-map", &[0, 0, 4, 1, 0, 4, 4, 0, 0, 5, 1, 0, 5, 4])
            .leaf("uart", |n| n.cells("reg", &[3, 0x9_0000, 0x1000]).cells("interrupts", &[5, 68]))
            .leaf("other", |n| n.cells("interrupts", &[6]))
    };
    let tree = tree(
        TestBlob::root(1, 1)
            .leaf("gic", |n| {
                n.flag("interrupt-controller")
                    .cells("#interrupt-cells", &[3])
                    .cells("phandle", &[1])
            })
            .leaf("bus", nexus)
            .leaf("circle", |n| {
                n.cells("phandle", &[2])
                    .cells("#interrupt-cells", &[1])
                    .cells("interrupt-parent", &[2])
                    .cells("#address-cells", &[0])
                    .cells("interrupt-map", &[1, 2, 1])
                    .leaf("dev", |n| n.cells("interrupts", &[1]))
            })
            .end(),
    );
    let gic = |cells: &[u32]| ("gic".to_owned(), cells.to_vec());
    assert_eq!(interrupts(&tree, "/bus/uart"), [gic(&[0, 5, 4]), gic(&[0, 4, 4])]);
    assert_eq!(
        interrupts(&tree, "/bus/other"),
        [("no entry maps an interrupt of a device below".to_owned(), vec![])]
    );
    assert_eq!(
        interrupts(&tree, "/circle/dev"),
        [("the interrupt maps form a circle".to_owned(), vec![])]
    );
}

#[test]
fn the_reservation_block_is_kept() {
    let mut blob = TestBlob::root(1, 1).end();
    blob.reservations = vec![(0, 0x1000), (0x5000, 0), (0x8_0000_0000, 0x2000)];
    let tree = tree(blob);
    let regions: Vec<_> = tree.reservations().iter().map(|r| (r.base().get(), r.size())).collect();
    assert_eq!(regions, [(0, 0x1000), (0x8_0000_0000, 0x2000)]);
    let fdt = tree.fdt().unwrap();
    let seen: Vec<_> =
        fdt.memory_reservations().map(|r| (r.address() as u64, r.size() as u64)).collect();
    assert_eq!(seen, regions);
}
