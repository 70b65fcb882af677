use std::sync::Mutex;

use super::*;
use crate::bus::{Device, Width};
use crate::virtio::testing::{EVENT_IDX, Guest};

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Take(Vec<u64>),
    GiveBack(Vec<u64>),
    GiveBackAll,
}

#[derive(Default)]
struct Owner(Mutex<Vec<Asked>>);

impl Owner {
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn numbers(pages: &[GuestAddress]) -> Vec<u64> {
    pages.iter().map(|page| page.0).collect()
}

impl PageOwner for Owner {
    fn take(&self, pages: &[GuestAddress]) {
        self.0.lock().unwrap().push(Asked::Take(numbers(pages)));
    }

    fn give_back(&self, pages: &[GuestAddress]) {
        self.0.lock().unwrap().push(Asked::GiveBack(numbers(pages)));
    }

    fn give_back_all(&self) {
        self.0.lock().unwrap().push(Asked::GiveBackAll);
    }
}

fn guest(features: u64) -> (Guest<Balloon>, Arc<Owner>) {
    let owner = Arc::new(Owner::default());
    let guest = Guest::ready(Balloon::new(owner.clone()), features);
    owner.asked();
    (guest, owner)
}

#[test]
fn a_target_reaches_the_driver_and_its_answer_the_user() {
    let (guest, _) = guest(0);
    guest.device.set_target(0x1234);
    assert_eq!(guest.interrupt(), 2);
    assert_eq!((guest.read(0x100), guest.read(0x104)), (0x1234, 0));
    guest.device.write(0x104, Width::Word, 0x1200).unwrap();
    guest.device.write(0x100, Width::Word, 0).unwrap();
    assert_eq!(guest.device.actual(), 0x1200);
    guest.device.reset();
    assert_eq!((guest.read(0x100), guest.device.actual()), (0x1234, 0), "the target stays");
}

#[test]
fn pages_change_hands() {
    let (mut guest, owner) = guest(0);
    let list: Vec<u8> =
        [0x4_0000u32, 0x4_0007, u32::MAX].iter().flat_map(|n| n.to_le_bytes()).collect();
    let buffer = guest.buffer(&list);
    guest.add(INFLATE, &[(buffer, 12, false)]);
    guest.notify(INFLATE);
    assert_eq!(owner.asked(), [Asked::Take(vec![0x4000_0000, 0x4000_7000, 0xfff_ffff_f000])]);
    assert!(guest.take(INFLATE).is_some());
    guest.add(DEFLATE, &[(buffer, 4, false), (buffer + 4, 4, false)]);
    guest.notify(DEFLATE);
    assert_eq!(owner.asked(), [Asked::GiveBack(vec![0x4000_0000, 0x4000_7000])]);
    assert!(guest.take(DEFLATE).is_some());
}

#[test]
fn many_pages_change_hands_in_several_calls_and_accesses() {
    let (mut guest, owner) = guest(EVENT_IDX);
    let list: Vec<u8> = (0u32..1000).flat_map(u32::to_le_bytes).collect();
    let buffer = guest.buffer(&list);
    // With the rest of a number at the end.
    guest.add(INFLATE, &[(buffer, 3999, false)]);
    assert!(guest.notify(INFLATE) > 1);
    let asked = owner.asked();
    assert_eq!(asked.len(), 4);
    let pages: Vec<u64> = asked
        .into_iter()
        .flat_map(|asked| match asked {
            Asked::Take(pages) => pages,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pages, (0..999).map(|number| number * PAGE).collect::<Vec<_>>());
    assert!(guest.take(INFLATE).is_some());
}

#[test]
fn a_reset_gives_all_pages_back() {
    let (guest, owner) = guest(0);
    guest.device.reset();
    assert_eq!(owner.asked(), [Asked::GiveBackAll]);
}

#[test]
fn statistics_come_when_asked_for() {
    let (mut guest, _) = guest(2);
    let report = |free: u64| {
        [(4u16, free), (5, 1 << 28), (99, 7)]
            .iter()
            .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
            .collect::<Vec<u8>>()
    };
    let buffer = guest.buffer(&report(1000));
    guest.add(STATISTICS, &[(buffer, 30, false)]);
    guest.notify(STATISTICS);
    assert_eq!(guest.take(STATISTICS), None, "the device keeps the buffer");
    let statistics = guest.device.statistics();
    assert_eq!((statistics.free_memory(), statistics.total_memory()), (Some(1000), Some(1 << 28)));
    assert_eq!(statistics.available_memory(), None);
    guest.device.request_statistics();
    guest.device.request_statistics();
    assert!(guest.take(STATISTICS).is_some());
    assert_eq!(guest.take(STATISTICS), None);
    assert_eq!(guest.interrupt(), 1);
    guest.memory.put(buffer, &report(2000));
    guest.add(STATISTICS, &[(buffer, 10, false)]);
    guest.notify(STATISTICS);
    let statistics = guest.device.statistics();
    assert_eq!((statistics.free_memory(), statistics.total_memory()), (Some(2000), None));
}
