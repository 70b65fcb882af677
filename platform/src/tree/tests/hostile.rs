//! Damage and excess.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn damage_is_refused_with_its_place() {
    let good = || TestBlob::root(1, 1).leaf("a", |n| n.cells("x", &[1]));
    let deep = (0..MAX_DEPTH).fold(TestBlob::default().begin(""), |blob, _| blob.begin("n"));
    let wrapping = TestBlob { reservations: vec![(u64::MAX, 2)], ..good().end() };
    let long = "n".repeat(256);
    let deep_message = deep_message();
    let cases: [(Vec<u8>, &str); 24] = [
        (vec![], "device tree: 0 bytes are too short for a header; is the file truncated?"),
        (
            VIRT[..39].to_vec(),
            "device tree: 39 bytes are too short for a header; is the file truncated?",
        ),
        (
            vec![0x1f; 100],
            "device tree: the magic number is 0x1f1f1f1f instead of 0xd00dfeed; this is no device-tree blob",
        ),
        (
            VIRT[..4000].to_vec(),
            "device tree: the header says 8110 bytes, but there are 4000; is the file truncated?",
        ),
        (good().assemble(), "device tree: /: at offset 0x7c: the structure block ends here"),
        (
            good().word(9).assemble(),
            "device tree: /: at offset 0x7c: the tree ends inside of a node",
        ),
        (
            good().end().end().finish(),
            "device tree: /: at offset 0x80: a node ends that hasn't begun",
        ),
        (
            TestBlob::default().finish(),
            "device tree: /: at offset 0x38: the tree ends inside of a node",
        ),
        (
            good().end().leaf("", |n| n).finish(),
            "device tree: /: at offset 0x80: there is a second root",
        ),
        (
            TestBlob::default().leaf("r", |n| n).finish(),
            "device tree: /: at offset 0x38: the root has a name",
        ),
        (
            good().leaf("", |n| n).finish(),
            "device tree: /: at offset 0x7c: this is no name for a node",
        ),
        (
            good().leaf("a/b", |n| n).finish(),
            "device tree: /: at offset 0x7c: this is no name for a node",
        ),
        (
            good().leaf("a b", |n| n).finish(),
            "device tree: /: at offset 0x7c: this is no name for a node",
        ),
        (
            good().leaf(&long, |n| n).finish(),
            "device tree: /: at offset 0x7c: this is no name for a node",
        ),
        (
            good().cells("y", &[1]).end().finish(),
            "device tree: /: at offset 0x7c: a property after a child node",
        ),
        (
            TestBlob::default().property("y", &[1]).finish(),
            "device tree: /: at offset 0x38: a property outside of any node",
        ),
        (
            good().begin("b").word(3).word(4).word(999).word(0).finish(),
            "device tree: /b: at offset 0x84: the property has no valid name",
        ),
        (
            good().begin("b").word(3).word(u32::MAX).word(0).assemble(),
            "device tree: /b: at offset 0x84: the value reaches beyond the block",
        ),
        (good().word(5).assemble(), "device tree: /: at offset 0x7c: there is no such token"),
        (
            good().leaf("b", |n| n.property(&long, &[])).finish(),
            "device tree: /b: at offset 0x84: the property has no valid name",
        ),
        (
            good().leaf("b", |n| n.property("#size-cells", &[1])).finish(),
            "device tree: /b: property \"#size-cells\": the value isn't one small number of 4 bytes",
        ),
        (
            good().leaf("b", |n| n.cells("#address-cells", &[256])).finish(),
            "device tree: /b: property \"#address-cells\": the value isn't one small number of 4 bytes",
        ),
        (deep.assemble(), &deep_message),
        (
            wrapping.finish(),
            "device tree: memory reservation 0 is beyond the blob or the address space",
        ),
    ];
    for (blob, message) in cases {
        assert_eq!(Tree::from_blob(&blob).unwrap_err().to_string(), message);
    }
}

fn deep_message() -> String {
    format!("device tree: {}: nested deeper than 32 levels", "/n".repeat(MAX_DEPTH - 1))
}

#[test]
fn wrong_headers_are_refused() {
    let good = TestBlob::root(1, 1).end().finish();
    let with = |field: usize, value: u32| {
        let mut blob = good.clone();
        blob[field * 4..field * 4 + 4].copy_from_slice(&value.to_be_bytes());
        Tree::from_blob(&blob).unwrap_err()
    };
    assert_eq!(with(1, 3 << 20), TreeError::TooLarge { bytes: 3 << 20 });
    assert_eq!(with(5, 16), TreeError::Version { version: 16, compatible: 16 });
    assert_eq!(with(6, 18), TreeError::Version { version: 17, compatible: 18 });
    for offset in [1, 0x3a, 0x1_0000, u32::MAX] {
        for field in [2, 3, 4, 8, 9] {
            let mut blob = good.clone();
            blob[field * 4..field * 4 + 4].copy_from_slice(&offset.to_be_bytes());
            // Not every wrong offset can be told from a right one, but none may do harm.
            let _ = Tree::from_blob(&blob).map(|tree| seen_by_us(&tree));
        }
    }
    assert!(matches!(with(2, u32::MAX), TreeError::Block { block: "structure block", .. }));
    assert!(matches!(
        with(4, u32::MAX),
        TreeError::Block { block: "memory reservation block", .. }
    ));
}

#[test]
fn the_limits_of_nesting_and_number_are_exact() {
    let nested = |depth: usize| {
        let blob = (1..depth).fold(TestBlob::default().begin(""), |blob, _| blob.begin("n"));
        (0..depth).fold(blob, |blob, _| blob.end()).finish()
    };
    let tree = Tree::from_blob(&nested(MAX_DEPTH)).unwrap();
    let deepest = tree.nodes().last().unwrap();
    assert_eq!(deepest.path().to_string(), "/n".repeat(MAX_DEPTH - 1));
    assert_eq!(tree.fdt().unwrap().all_nodes().count(), MAX_DEPTH);
    for depth in [MAX_DEPTH + 1, 100, 100_000] {
        assert!(
            matches!(Tree::from_blob(&nested(depth)), Err(TreeError::TooDeep { .. })),
            "{depth}"
        );
    }
    let many = |count| {
        (1..count)
            .fold(TestBlob::default().begin(""), |blob, _| blob.leaf("n", |n| n))
            .end()
            .finish()
    };
    assert_eq!(Tree::from_blob(&many(MAX_NODES)).unwrap().nodes().count(), MAX_NODES);
    assert_eq!(Tree::from_blob(&many(MAX_NODES + 1)).unwrap_err(), TreeError::TooManyNodes);
}

#[test]
fn a_typical_tree_takes_little_more_than_its_own_size() {
    // The claim of the module's documentation.
    const { assert!(INDEX_BYTES_PER_NODE <= 40) };
    let tree = Tree::from_blob(VIRT).unwrap();
    assert_eq!(tree.blob.capacity(), tree.blob.len());
    assert_eq!(tree.records.capacity(), tree.records.len());
    assert_eq!(tree.phandles.capacity(), tree.phandles.len());
    assert!(tree.blob.len() <= VIRT.len());
}

#[test]
fn the_largest_trees_are_read_in_no_time() {
    // All properties share one name at the end of a huge strings block, and all nodes are devices below them.
    let mut wide =
        (0..60_000).fold(TestBlob::root(1, 1).text("compatible", "x"), |blob, _| blob.flag("p"));
    wide = (0..MAX_NODES - 2).fold(wide, |blob, _| {
        blob.leaf("uart", |n| n.text("compatible", "ns16550a").cells("reg", &[0, 1]))
    });
    wide.strings.resize(100_000, b'a');
    let blob = wide.end().finish();
    assert!(blob.len() > MAX_BLOB_BYTES / 2 && blob.len() <= MAX_BLOB_BYTES, "{}", blob.len());
    let start = Instant::now();
    let tree = Tree::from_blob(&blob).unwrap();
    assert!(tree.compatible(&["ns16550a"]).count() > 10_000);
    assert!(crate::discover::Platform::discover(&tree).is_err());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
