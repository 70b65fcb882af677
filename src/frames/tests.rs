use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn add(frames: &mut Frames, start: u64, bytes: u64) {
    let books = vec![!0; Frames::books(HostAddress(start), bytes)];
    frames.add(HostAddress(start), bytes, books.leak());
}

fn of(start: u64, bytes: u64) -> Frames {
    let mut frames = Frames::new();
    add(&mut frames, start, bytes);
    frames
}

#[test]
fn only_whole_frames_are_added() {
    let frames = of(0x1001, 3 * FRAME);
    assert_eq!(frames.available(), 2 * FRAME);
    assert_eq!(of(0x1001, FRAME).available(), 0);
    let mut short = Frames::new();
    short.add(HostAddress(0), 1 << 20, vec![0; 3].leak());
    assert_eq!(short.available(), 0, "too little room for the books");
}

#[test]
fn a_block_is_aligned_to_its_size_and_comes_from_wherever_there_is_one() {
    let mut frames = of(0x4_1000, 0x10_0000);
    let block = frames.allocate(0x4_0000).unwrap();
    assert_eq!(block, HostAddress(0x10_0000), "the smallest that fits");
    assert_eq!(frames.allocate(FRAME), Some(HostAddress(0x4_1000)));
    assert_eq!(frames.allocate(3 * FRAME), Some(HostAddress(0x4_4000)), "rounded up");
    assert_eq!(frames.allocate(1 << 50), None);
    assert_eq!(frames.allocate(1 << 30), None);
    assert!(frames.allocate(0).is_some(), "a frame at least");
}

#[test]
fn freed_halves_become_a_whole_again() {
    let mut frames = of(1 << 30, 1 << 30);
    assert_eq!(frames.allocate(1 << 30), Some(HostAddress(1 << 30)));
    assert_eq!(frames.allocate(FRAME), None);
    for page in (0..1u64 << 18).rev() {
        frames.free(HostAddress((1 << 30) + page * FRAME), FRAME);
    }
    assert_eq!(frames.available(), 1 << 30);
    assert_eq!(frames.allocate(1 << 30), Some(HostAddress(1 << 30)));
}

#[test]
fn a_block_can_be_had_by_its_address() {
    let mut frames = of(0, 4 << 20);
    assert!(frames.allocate_at(HostAddress(0x20_3000), FRAME));
    assert!(!frames.allocate_at(HostAddress(0x20_3000), FRAME), "taken");
    assert!(!frames.allocate_at(HostAddress(0x20_0000), 2 << 20), "part of it is taken");
    assert!(!frames.allocate_at(HostAddress(0x1000), 2 * FRAME), "not aligned");
    assert!(!frames.allocate_at(HostAddress(1 << 40), FRAME), "not ours");
    frames.free(HostAddress(0x20_3000), FRAME);
    assert!(frames.allocate_at(HostAddress(0x20_0000), 2 << 20));
    assert_eq!(frames.available(), 2 << 20);
}

#[test]
fn several_ranges_serve_as_one() {
    let mut frames = of(0x10_0000, 0x2000);
    add(&mut frames, 1 << 33, 0x1000);
    let all: BTreeSet<_> = std::iter::from_fn(|| frames.allocate(FRAME)).collect();
    assert_eq!(all, [0x10_0000, 0x10_1000, 1 << 33].map(HostAddress).into());
    all.into_iter().for_each(|frame| frames.free(frame, FRAME));
    assert_eq!(frames.available(), 0x3000);
}

#[derive(Debug, Clone)]
enum Op {
    Allocate(u32),
    At(u64, u32),
    Free(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u32..8).prop_map(Op::Allocate),
        (0u64..700, 0u32..5).prop_map(|(frame, order)| Op::At(frame, order)),
        any::<usize>().prop_map(Op::Free),
    ]
}

proptest! {
    /// Against a set of free frames: nothing is given twice, nothing is lost, and what fits is
    /// given.
    #[test]
    fn the_books_agree_with_a_set(
        first in 1u64..600, count in 1u64..700, ops in proptest::collection::vec(op(), 1..200),
    ) {
        let mut frames = of(first * FRAME, count * FRAME);
        let mut free: BTreeSet<u64> = (first..first + count).collect();
        let mut held: Vec<(u64, u32)> = vec![];
        for op in ops {
            let fits = |free: &BTreeSet<u64>, frame: u64, order: u32| {
                frame.is_multiple_of(1 << order)
                    && (frame..frame + (1 << order)).all(|frame| free.contains(&frame))
            };
            match op {
                Op::Allocate(order) => match frames.allocate(FRAME << order) {
                    Some(address) => {
                        let frame = address.0 / FRAME;
                        prop_assert!(fits(&free, frame, order));
                        (frame..frame + (1 << order)).for_each(|frame| { free.remove(&frame); });
                        held.push((frame, order));
                    }
                    None => prop_assert!(!free.iter().any(|frame| fits(&free, *frame, order))),
                },
                Op::At(frame, order) => {
                    let done = frames.allocate_at(HostAddress(frame * FRAME), FRAME << order);
                    prop_assert_eq!(done, fits(&free, frame, order));
                    if done {
                        (frame..frame + (1 << order)).for_each(|frame| { free.remove(&frame); });
                        held.push((frame, order));
                    }
                }
                Op::Free(which) if !held.is_empty() => {
                    let (frame, order) = held.swap_remove(which % held.len());
                    // As one block, or frame by frame.
                    if which % 2 == 0 {
                        frames.free(HostAddress(frame * FRAME), FRAME << order);
                    } else {
                        for frame in frame..frame + (1 << order) {
                            frames.free(HostAddress(frame * FRAME), FRAME);
                        }
                    }
                    free.extend(frame..frame + (1 << order));
                }
                Op::Free(_) => {}
            }
            prop_assert_eq!(frames.available(), free.len() as u64 * FRAME);
        }
    }
}
