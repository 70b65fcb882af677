use std::sync::Mutex;

use alloc::sync::Arc;
use proptest::prelude::*;

use crate::virtio::testing::{
    BASE, Descriptor, EVENT_IDX, Echo, Guest, INDIRECT, INDIRECT_DESC, NEXT, PATTERN, QUEUE, SIZE,
    WRITE, put_descriptor,
};

const END: u64 = BASE + SIZE as u64;
const BUFFER: u64 = BASE + 0x2_0000;
/// Where tests put indirect tables.
const TABLE: u64 = BASE + 0x3_0000;

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

fn guest(features: u64) -> (Guest<Echo>, Seen) {
    let echo = Echo::default();
    let seen = echo.seen.clone();
    (Guest::ready(echo, features), seen)
}

/// Has the device look at a chain of these descriptors, from number 0 on; whether it can go on.
fn survives(direct: &[Descriptor], indirect: &[Descriptor], features: u64) -> bool {
    let (mut guest, _) = guest(features);
    for (index, descriptor) in (0..).zip(direct) {
        guest.descriptor(0, index, *descriptor);
    }
    for (index, descriptor) in (0..).zip(indirect) {
        put_descriptor(&guest.memory, TABLE + 16 * index, *descriptor);
    }
    guest.offer(0, 0);
    assert_eq!(guest.notify(0), 1);
    let broken = guest.needs_reset();
    assert_eq!(guest.take(0).is_none(), broken);
    if broken {
        assert_eq!(guest.interrupt(), 2, "the driver is told");
        // Nothing more happens, and a reset is enough to go on.
        guest.offer(0, 1);
        guest.notify(0);
        assert_eq!(guest.take(0), None);
        guest.start(features);
        let buffer = guest.buffer(&[1; 4]);
        guest.add(0, &[(buffer, 4, false)]);
        guest.notify(0);
        assert!(guest.take(0).is_some());
    }
    !broken
}

#[test]
fn well_formed_chains_are_served() {
    let table = (TABLE, 32, INDIRECT, 0);
    for (direct, indirect, features) in [
        (&[(BUFFER, 4, 0, 0)][..], &[][..], 0),
        (&[(BUFFER, 4, WRITE, 77)], &[], 0),
        (
            &[
                (BUFFER, 4, NEXT, 5),
                (0, 0, 0, 0),
                (0, 0, 0, 0),
                (0, 0, 0, 0),
                (0, 0, 0, 0),
                (END - 4, 4, WRITE, 0),
            ],
            &[],
            0,
        ),
        (&[(END - 4, 4, 0, 0)], &[], 0),
        (&[table], &[(BUFFER, 4, NEXT, 1), (BUFFER, 4, WRITE, 0)], INDIRECT_DESC),
        (&[table], &[(BUFFER, 4, 0, 9), (0, 0, 0, 0)], INDIRECT_DESC),
        (
            &[(BUFFER, 4, NEXT, 1), table],
            &[(BUFFER, 4, NEXT, 1), (BUFFER, 4, WRITE, 0)],
            INDIRECT_DESC,
        ),
        // WRITE has no meaning for a table (virtio 2.7.5.3.2).
        (&[(TABLE, 16, INDIRECT | WRITE, 0)], &[(BUFFER, 4, 0, 0)], INDIRECT_DESC),
    ] {
        assert!(survives(direct, indirect, features), "{direct:x?} {indirect:x?}");
    }
}

#[test]
fn malformed_chains_break_the_device_and_nothing_more() {
    let table = (TABLE, 32, INDIRECT, 0);
    for (what, direct, indirect, features) in [
        ("itself", &[(BUFFER, 4, NEXT, 0)][..], &[][..], 0),
        ("a loop", &[(BUFFER, 4, NEXT, 1), (BUFFER, 4, NEXT, 0)], &[], 0),
        ("next outside", &[(BUFFER, 4, NEXT, QUEUE)], &[], 0),
        ("next far outside", &[(BUFFER, 4, NEXT, u16::MAX)], &[], 0),
        ("no bytes", &[(BUFFER, 0, 0, 0)], &[], 0),
        ("no bytes to write", &[(BUFFER, 0, WRITE, 0)], &[], 0),
        ("below memory", &[(BASE - 1, 4, 0, 0)], &[], 0),
        ("across the end", &[(END - 3, 4, 0, 0)], &[], 0),
        ("across the end, to write", &[(END - 3, 4, WRITE, 0)], &[], 0),
        ("wraps", &[(u64::MAX - 1, 4, WRITE, 0)], &[], 0),
        (
            "4 GiB in all",
            &[(BUFFER, 1 << 31, WRITE | NEXT, 1), (BUFFER, 1 << 31, WRITE, 0)],
            &[],
            0,
        ),
        ("readable after writable", &[(BUFFER, 4, WRITE | NEXT, 1), (BUFFER, 4, 0, 0)], &[], 0),
        ("indirect not negotiated", &[table], &[(BUFFER, 4, 0, 0)], 0),
        (
            "indirect with next",
            &[(TABLE, 32, INDIRECT | NEXT, 0)],
            &[(BUFFER, 4, 0, 0)],
            INDIRECT_DESC,
        ),
        ("empty table", &[(TABLE, 0, INDIRECT, 0)], &[], INDIRECT_DESC),
        ("part of a descriptor", &[(TABLE, 24, INDIRECT, 0)], &[(BUFFER, 4, 0, 0)], INDIRECT_DESC),
        ("table outside", &[(END, 16, INDIRECT, 0)], &[], INDIRECT_DESC),
        (
            "huge table with a loop",
            &[(TABLE, 0xffff_fff0, INDIRECT, 0)],
            &[(BUFFER, 4, NEXT, 0)],
            INDIRECT_DESC,
        ),
        ("indirect in indirect", &[table], &[(TABLE, 16, INDIRECT, 0)], INDIRECT_DESC),
        ("next outside of the table", &[table], &[(BUFFER, 4, NEXT, 2)], INDIRECT_DESC),
        (
            "loop in the table",
            &[table],
            &[(BUFFER, 4, NEXT, 1), (BUFFER, 4, NEXT, 0)],
            INDIRECT_DESC,
        ),
    ] {
        assert!(!survives(direct, indirect, features), "{what}");
    }
}

#[test]
fn a_ring_that_claims_too_much_breaks_the_device() {
    let (mut guest, _) = guest(0);
    guest.offer(0, QUEUE);
    guest.notify(0);
    assert!(guest.needs_reset(), "a head outside of the table");
    for ahead in [QUEUE + 1, 0x8000, u16::MAX] {
        guest.start(0);
        guest.memory.put(guest.rings[0].available + 2, &ahead.to_le_bytes());
        guest.notify(0);
        assert!(guest.needs_reset(), "{ahead}");
    }
    guest.start(0);
    guest.descriptor(0, 0, (BUFFER, 1, 0, 0));
    guest.memory.put(guest.rings[0].available + 2, &QUEUE.to_le_bytes());
    guest.notify(0);
    assert!(!guest.needs_reset(), "a full ring, of the same chain over and over");
}

#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let (mut guest, _) = guest(0);
    let buffer = guest.buffer(&[0; 4]);
    for (flags, edges) in [(1u16, 0), (0, 1), (1, 0)] {
        let available = guest.rings[0].available;
        guest.memory.put(available, &flags.to_le_bytes());
        guest.add(0, &[(buffer, 4, true)]);
        guest.notify(0);
        assert!(guest.take(0).is_some());
        assert_eq!(guest.line.edges(), edges, "{flags}");
        guest.interrupt();
    }
}

#[test]
fn an_event_index_says_which_buffer_interrupts() {
    let (mut guest, _) = guest(EVENT_IDX);
    let buffer = guest.buffer(&[0; 4]);
    // `used_event`, how many are returned at once, whether that interrupts.
    for (event, count, interrupts) in [
        (0, 1, true),
        (0, 1, false),
        (3, 1, false),
        (3, 1, true),
        (4, 3, true),
        (9, 2, false),
        (9, 1, true),
    ] {
        let place = guest.rings[0].available + 4 + 2 * u64::from(QUEUE);
        guest.memory.put(place, &u16::to_le_bytes(event));
        for _ in 0..count {
            guest.add(0, &[(buffer, 4, true)]);
        }
        guest.notify(0);
        while guest.take(0).is_some() {}
        assert_eq!(guest.line.edges() == 1, interrupts, "event {event}");
        guest.interrupt();
    }
}

#[test]
fn the_driver_is_asked_to_notify_of_the_next_buffer() {
    let (mut guest, _) = guest(EVENT_IDX);
    let buffer = guest.buffer(&[0; 4]);
    for round in 1..=40u16 {
        guest.add(0, &[(buffer, 4, true)]);
        guest.notify(0);
        assert!(guest.take(0).is_some());
        let event = guest.rings[0].used + 4 + 8 * u64::from(QUEUE);
        assert_eq!(guest.memory.u16(event), round);
    }
}

#[test]
fn indexes_wrap() {
    for features in [0, EVENT_IDX] {
        let (mut guest, seen) = guest(features);
        let buffer = guest.buffer(&[7; 4]);
        for round in 0..70_000u32 {
            guest.add(0, &[(buffer, 4, false)]);
            guest.notify(0);
            assert!(guest.take(0).is_some(), "{round}");
        }
        assert_eq!(seen.lock().unwrap().len(), 70_000);
        assert!(!guest.needs_reset());
    }
}

/// A request: parts that the device reads, and lengths of those that it writes.
type Request = (Vec<Vec<u8>>, Vec<u32>);

fn request() -> impl Strategy<Value = Request> {
    let part = proptest::collection::vec(any::<u8>(), 1..200);
    (proptest::collection::vec(part, 0..4), proptest::collection::vec(1u32..300, 0..4))
        .prop_filter("a chain has a buffer", |(read, write)| !read.is_empty() || !write.is_empty())
}

proptest! {
    #[test]
    fn a_driver_that_keeps_the_rules_gets_every_byte(
        batches in proptest::collection::vec(proptest::collection::vec((request(), any::<bool>()), 1..3), 1..20),
        event_index: bool,
    ) {
        let features = INDIRECT_DESC | if event_index { EVENT_IDX } else { 0 };
        let (mut guest, seen) = guest(features);
        for batch in batches {
            guest.listen(0);
            let mut expected = Vec::new();
            for ((read, write), indirect) in &batch {
                let mut buffers = Vec::new();
                for part in read {
                    buffers.push((guest.buffer(part), part.len() as u32, false));
                }
                for length in write {
                    buffers.push((guest.buffer(&vec![0; *length as usize]), *length, true));
                }
                let head = if *indirect {
                    let table = (guest.allocate(16 * buffers.len() + 16) + 15) & !15;
                    for (number, (address, length, writable)) in (0u16..).zip(&buffers) {
                        let more = if usize::from(number) + 1 < buffers.len() { NEXT } else { 0 };
                        let flags = more | if *writable { WRITE } else { 0 };
                        let place = table + 16 * u64::from(number);
                        put_descriptor(&guest.memory, place, (*address, *length, flags, number + 1));
                    }
                    guest.add_indirect(0, table, 16 * buffers.len() as u32)
                } else {
                    guest.add(0, &buffers)
                };
                expected.push((head, read.concat(), buffers));
            }
            prop_assert_eq!(guest.notify(0), 1);
            let seen = std::mem::take(&mut *seen.lock().unwrap());
            prop_assert_eq!(seen.len(), expected.len());
            for (seen, (head, read, buffers)) in seen.into_iter().zip(expected) {
                prop_assert_eq!(seen, read);
                let writable: u32 = buffers.iter().filter(|b| b.2).map(|b| b.1).sum();
                prop_assert_eq!(guest.take(0), Some((head, writable)));
                for (address, length, _) in buffers.iter().filter(|b| b.2) {
                    let bytes = guest.memory.get(*address, *length as usize);
                    prop_assert!(bytes.iter().all(|byte| *byte == PATTERN));
                }
            }
            prop_assert_eq!(guest.take(0), None);
            prop_assert_eq!(guest.line.edges(), 1);
            guest.interrupt();
        }
        prop_assert!(!guest.needs_reset());
    }

    #[test]
    fn garbage_in_the_rings_neither_panics_nor_takes_long(
        descriptors in proptest::collection::vec(
            (prop_oneof![Just(BUFFER), Just(TABLE), BASE - 64..END + 64, any::<u64>()],
             prop_oneof![0u32..64, any::<u32>()], 0u16..8, 0u16..20), 32),
        heads in proptest::collection::vec(0u16..20, 1..24),
        ahead in prop_oneof![0u16..20, any::<u16>()],
        features in prop_oneof![Just(0), Just(EVENT_IDX), Just(INDIRECT_DESC), Just(EVENT_IDX | INDIRECT_DESC)],
    ) {
        let (mut guest, seen) = guest(features);
        for (index, descriptor) in (0u64..).zip(&descriptors) {
            // The second half as an indirect table.
            let base = if index < 16 { guest.rings[0].descriptors } else { TABLE - 16 * 16 };
            put_descriptor(&guest.memory, base + 16 * index, *descriptor);
        }
        for head in &heads {
            guest.offer(0, *head);
        }
        guest.memory.put(guest.rings[0].available + 2, &ahead.to_le_bytes());
        guest.notify(0);
        prop_assert!(seen.lock().unwrap().len() <= usize::from(QUEUE));
        let served = u16::try_from(seen.lock().unwrap().len()).unwrap();
        prop_assert!(guest.needs_reset() || served == ahead);
    }
}
