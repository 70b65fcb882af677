//! What the bootloader passes on in `/chosen`.

use crate::tree::{Node, Tree};
use crate::{PhysicalAddress, Region};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// More random bytes than any bootloader gives.
const MAX_SEED_BYTES: usize = 4096;

/// Parameters of the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The command line.
    pub bootargs: Option<String>,
    /// The initial RAM disk: here, the bundle of guests.
    pub initrd: Option<Region>,
    /// Random bytes; empty if there are none.
    pub rng_seed: Vec<u8>,
    /// A random number for address space randomisation.
    pub kaslr_seed: Option<u64>,
    /// The reference to the console, as it stands.
    pub stdout_path: Option<String>,
}

impl Chosen {
    pub(super) fn of(tree: &Tree) -> Self {
        tree.node("/chosen").map_or_else(Self::default, |node| {
            let seed = node.property("rng-seed").map(|seed| seed.value()).unwrap_or_default();
            Self {
                bootargs: node.str("bootargs").map(ToOwned::to_owned),
                initrd: initrd(&node),
                rng_seed: seed.get(..seed.len().min(MAX_SEED_BYTES)).unwrap_or_default().to_vec(),
                kaslr_seed: node.u64("kaslr-seed"),
                stdout_path: node.str("stdout-path").map(ToOwned::to_owned),
            }
        })
    }
}

fn initrd(node: &Node<'_>) -> Option<Region> {
    let address = |name| node.u64(name).map(PhysicalAddress::new);
    Region::between(address("linux,initrd-start")?, address("linux,initrd-end")?)
}
