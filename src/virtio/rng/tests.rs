use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::virtio::testing::Guest;

#[derive(Default)]
struct Dice {
    thrown: AtomicUsize,
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = (self.thrown.fetch_add(1, SeqCst) % 251) as u8 + 1;
        }
    }
}

fn guest() -> (Guest<Rng>, Arc<Dice>) {
    let dice = Arc::new(Dice::default());
    (Guest::ready(Rng::new(dice.clone()), 0), dice)
}

#[test]
fn every_buffer_gets_numbers_of_its_own() {
    let (mut guest, _) = guest();
    let space = guest.allocate(64);
    guest.add(0, &[(space, 3, true), (space + 16, 5, true)]);
    guest.add(0, &[(space + 32, 8, true)]);
    guest.notify(0);
    assert_eq!(guest.take(0), Some((0, 8)));
    assert_eq!(guest.take(0), Some((2, 8)));
    assert_eq!(guest.memory.get(space, 4), [1, 2, 3, 0]);
    assert_eq!(guest.memory.get(space + 16, 6), [4, 5, 6, 7, 8, 0]);
    assert_eq!(guest.memory.get(space + 32, 8), [9, 10, 11, 12, 13, 14, 15, 16]);
}

#[test]
fn a_large_buffer_is_filled_in_part() {
    let (mut guest, _) = guest();
    let space = guest.allocate(4096);
    guest.add(0, &[(space, 4096, true)]);
    guest.notify(0);
    assert_eq!(guest.take(0), Some((0, MOST as u32)));
    assert_eq!(guest.memory.get(space + MOST as u64, 1), [0]);
}

#[test]
fn a_buffer_that_cannot_be_written_breaks_the_device() {
    let (mut guest, _) = guest();
    let space = guest.allocate(8);
    guest.add(0, &[(space, 8, false)]);
    guest.notify(0);
    assert!(guest.needs_reset());
}
