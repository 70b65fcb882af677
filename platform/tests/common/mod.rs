//! What the tests of odd and hostile trees share.

use platform::discover::{Interrupt, Platform, Refusal};
use platform::tree::{Node, Tree};

/// A repeatable stream of numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes 1 to 4 places of a blob: bits, bytes, words of meaning, moves and cuts. Two thirds of the blobs keep their
/// header, so that the changes get past the first check.
pub(crate) fn mutate(blob: &[u8], random: &mut Random) -> Vec<u8> {
    const WORDS: [u32; 12] =
        [0, 1, 2, 3, 4, 9, 0xff, 0x8000_0000, u32::MAX, u32::MAX - 3, 0x1000, 5];
    let mut blob = blob.to_vec();
    let first = if random.below(3) == 0 { 0 } else { 40.min(blob.len()) };
    for _ in 0..=random.below(4) {
        let room = blob.len() - first;
        if room < 8 {
            break;
        }
        let place = first + random.below(room - 4);
        let aligned = place & !3;
        match random.below(25) {
            0..5 => blob[place] ^= 1 << random.below(8),
            5..10 => blob[place] = random.next() as u8,
            10..15 => {
                let word = WORDS[random.below(WORDS.len())];
                blob[aligned..aligned + 4].copy_from_slice(&word.to_be_bytes());
            }
            15..18 => {
                let word = random.below(room) as u32;
                blob[aligned..aligned + 4].copy_from_slice(&word.to_be_bytes());
            }
            18..24 => {
                let from = (first + random.below(room - 4)) & !3;
                let length = random.below(64).min(blob.len() - from).min(blob.len() - aligned);
                blob.copy_within(from..from + length, aligned);
            }
            _ => blob.truncate(blob.len() - random.below(room.min(64))),
        }
    }
    blob
}

/// Calls everything that can be called on a tree, and checks what must hold for any.
pub(crate) fn exercise(tree: &Tree) -> Result<Platform, Refusal> {
    exercise_fdt(tree);
    exercise_ours(tree)
}

/// The same without the slower reader that is compared with ours.
pub(crate) fn exercise_ours(tree: &Tree) -> Result<Platform, Refusal> {
    for (number, node) in tree.nodes().enumerate() {
        exercise_node(&node, number);
    }
    let again = Tree::from_blob(tree.blob()).expect("a clean blob is accepted");
    assert_eq!(again.blob(), tree.blob());
    let platform = Platform::discover(tree)?;
    for usable in platform.usable_memory() {
        assert!(!platform.reserved.iter().any(|reserved| reserved.region.overlaps(usable)));
    }
    assert!(!platform.memory.is_empty() && !platform.cpus.is_empty());
    Ok(platform)
}

/// Of other nodes than those that hold references, one in so many is asked to resolve its texts: each look-up takes time
/// linear in the size of the tree.
const RESOLVED: usize = 61;

fn exercise_node(node: &Node<'_>, number: usize) {
    let tree = node.tree();
    let references = matches!(node.base_name(), "aliases" | "chosen");
    let path = node.path().to_string();
    assert!(path.starts_with('/'));
    assert_eq!(
        node.is_reachable(),
        node.is_enabled() && node.parent().is_none_or(|n| n.is_reachable())
    );
    assert!(node.children().all(|child| child.parent() == Some(*node)));
    for property in node.properties() {
        let _ = (property.u32(), property.u64(), property.str(), property.cells().count());
        assert!(property.strings().count() <= property.value().len());
        if references || number.is_multiple_of(RESOLVED) {
            let _ = property.str().map(|text| tree.resolve(text));
        }
    }
    if let Ok(reg) = node.reg() {
        for (entry, (base, size)) in reg.enumerate().take(100) {
            let _ = node.to_cpu_address(base);
            if let Ok(region) = node.mapped_reg(entry) {
                assert_eq!(region.size(), size);
            }
        }
    }
    for specifier in node.interrupts().take(100).flatten() {
        let _ = Interrupt::from_specifier(&specifier);
    }
    let _ = node.phandle().and_then(|phandle| tree.by_phandle(phandle));
}

/// The `fdt` crate, which panics on many blobs, reads ours to the same effect.
fn exercise_fdt(tree: &Tree) {
    let fdt = tree.fdt().expect("the header is right");
    let mut ours = tree.nodes();
    for theirs in fdt.all_nodes() {
        let node = ours.next().expect("as many nodes");
        assert_eq!(theirs.name, if node.parent().is_none() { "/" } else { node.name() });
        let mut properties = node.properties();
        for property in theirs.properties() {
            let our_property = properties.next().expect("as many properties");
            assert_eq!(
                (property.name, property.value),
                (our_property.name(), our_property.value())
            );
        }
        assert!(properties.next().is_none());
        let _ = theirs.reg().map(Iterator::count);
        let _ = theirs.raw_reg().map(Iterator::count);
        let _ = theirs.compatible().map(|compatible| compatible.all().count());
    }
    assert!(ours.next().is_none());
    for path in
        ["/cpus", "/soc", "/memory", "/chosen", "serial0", "serial1", "/aliases/x", "/nowhere"]
    {
        let _ = fdt.find_node(path);
    }
    let _ = fdt.find_compatible(&["arm,pl011"]);
    let _ = fdt.find_phandle(1);
    assert_eq!(fdt.memory_reservations().count(), tree.reservations().len());
}
