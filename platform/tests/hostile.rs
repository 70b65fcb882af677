//! Thousands of damaged blobs: none may do harm, and what is accepted must be sound.

mod common;

use common::{Random, exercise, mutate};
use platform::tree::Tree;

const TREES: [(&str, &[u8]); 3] = [
    ("GICv2, 4 CPUs", include_bytes!("data/qemu-virt-gicv2-4cpu.dtb")),
    ("GICv3, 4 CPUs", include_bytes!("data/qemu-virt-gicv3-4cpu.dtb")),
    ("guest", include_bytes!("data/qemu-virt-guest-gicv3-1cpu.dtb")),
];
const MUTATIONS_PER_TREE: u64 = 2000;

#[test]
fn mutated_trees_are_refused_or_sound() {
    let (mut accepted, mut discovered) = (0, 0);
    for (name, blob) in TREES {
        for seed in 0..MUTATIONS_PER_TREE {
            let mutated = mutate(blob, &mut Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let outcome = std::panic::catch_unwind(|| {
                Tree::from_blob(&mutated).ok().map(|tree| exercise(&tree).is_ok())
            });
            match outcome {
                Ok(Some(found)) => {
                    accepted += 1;
                    discovered += u32::from(found);
                }
                Ok(None) => {}
                Err(_) => panic!("the tree {name} with seed {seed} does harm"),
            }
        }
    }
    // If nearly all were refused at the door, the test would say nothing about the rooms.
    assert!(accepted > 1000, "only {accepted} trees were accepted");
    assert!(discovered > 500, "only {discovered} machines were understood");
}

#[test]
fn a_tree_cut_anywhere_is_refused() {
    for (name, blob) in TREES {
        for length in 0..blob.len() {
            assert!(Tree::from_blob(&blob[..length]).is_err(), "{name} cut to {length} bytes");
        }
        // The same with a header that knows of the cut.
        for length in 4..blob.len() {
            let mut cut = blob[..length].to_vec();
            if let Some(total) = cut.get_mut(4..8) {
                total.copy_from_slice(&(length as u32).to_be_bytes());
            }
            assert!(Tree::from_blob(&cut).is_err(), "{name} cut to {length} bytes");
        }
    }
}
