//! The device tree that a boot loader hands over.

use platform::discover::{HostDevice, Platform, Terms};
use platform::tree::Tree;

/// Nodes whose devices are asked for; each is compared with all others.
const MOST_DEVICES: usize = 64;

/// A blob, as the hypervisor reads it when it starts: the machine, and its devices for guests.
pub fn tree(data: &[u8]) {
    let Ok(tree) = Tree::from_blob(data) else { return };
    let again = Tree::from_blob(tree.blob()).expect("a clean blob is accepted");
    assert_eq!(again.blob(), tree.blob(), "cleaning twice changes nothing");
    if let Ok(platform) = Platform::discover(&tree) {
        assert!(!platform.memory.is_empty() && !platform.cpus.is_empty());
        for usable in platform.usable_memory() {
            assert!(!platform.reserved.iter().any(|reserved| reserved.region.overlaps(usable)));
            assert!(platform.memory.iter().any(|memory| memory.overlaps(usable)));
        }
    }
    devices(&tree);
}

/// Whatever a guest gets has registers, none of them memory of the machine.
fn devices(tree: &Tree) {
    let memory = Platform::discover(tree).map(|platform| platform.memory).unwrap_or_default();
    for node in tree.nodes().take(MOST_DEVICES) {
        let path = node.path().to_string();
        for direct_memory in [false, true] {
            let terms = Terms { page: 0x1000, together: &[], direct_memory };
            let Ok(device) = HostDevice::find(tree, &path, &terms) else { continue };
            assert!(!device.registers.is_empty());
            assert!(direct_memory || !device.accesses_memory);
            let _ = device.properties();
            for registers in &device.registers {
                assert!(!memory.iter().any(|memory| memory.overlaps(*registers)), "{path}");
                let _ = device.check_reach(*registers);
            }
        }
    }
}
