//! A guest at an interface in software.

use super::*;
use crate::State;
use proptest::prelude::*;

const CONTROL: u64 = ENABLE_GROUP1 | 0xf0 << MASK_SHIFT | 3 << BINARY_POINT1_SHIFT;

#[derive(Debug)]
struct Fake {
    entries: [ListRegister; 4],
    control: u64,
    active: [[u32; 4]; 2],
    outside: u32,
    physical: Vec<u32>,
}

impl Fake {
    fn new(entries: &[(u32, u8)]) -> Self {
        let mut fake = Fake {
            entries: [ListRegister::INVALID; 4],
            control: CONTROL,
            active: [[0; 4]; 2],
            outside: 0,
            physical: Vec::new(),
        };
        for (entry, (intid, priority)) in fake.entries.iter_mut().zip(entries) {
            *entry = pending(*intid, *priority);
        }
        fake
    }

    fn acknowledge(&mut self) -> u64 {
        read(self, Register::Acknowledge(Group::One))
    }

    fn end(&mut self, intid: u64) {
        write(self, Register::End(Group::One), intid);
    }
}

fn pending(intid: u32, priority: u8) -> ListRegister {
    ListRegister {
        intid: IntId::new(intid),
        state: State { pending: true, active: false },
        priority,
        group1: true,
        ..ListRegister::INVALID
    }
}

impl ListRegisters for Fake {
    fn count(&self) -> usize {
        self.entries.len()
    }
    fn read(&mut self, n: usize) -> ListRegister {
        self.entries[n]
    }
    fn write(&mut self, n: usize, value: &ListRegister) {
        self.entries[n] = *value;
    }
    fn empty(&mut self) -> u32 {
        0
    }
    fn ended(&mut self) -> u32 {
        0
    }
    fn set_underflow(&mut self, _: bool) {}
    fn ended_outside(&mut self) -> u32 {
        self.outside
    }
    fn set_end_outside_maintenance(&mut self, _: bool) {}
    fn splits_deactivation(&mut self) -> bool {
        self.control & SPLIT_END != 0
    }
    fn deactivate(&mut self, physical: u32) {
        self.physical.push(physical);
    }
}

impl InterfaceState for Fake {
    fn control(&mut self) -> u64 {
        self.control
    }
    fn set_control(&mut self, value: u64) {
        self.control = value;
    }
    fn active_priorities(&mut self, group: Group, number: usize) -> u32 {
        self.active[group as usize][number]
    }
    fn set_active_priorities(&mut self, group: Group, number: usize, value: u32) {
        self.active[group as usize][number] = value;
    }
    fn preemption_bits(&self) -> u32 {
        5
    }
    fn count_end_outside(&mut self) {
        self.outside += 1;
    }
}

#[test]
fn the_most_urgent_comes_first_and_others_wait_until_it_is_ended() {
    let mut fake = Fake::new(&[(40, 0xa0), (41, 0x80), (42, 0xa0)]);
    assert_eq!(read(&mut fake, Register::HighestPending(Group::One)), 41);
    assert_eq!(fake.acknowledge(), 41);
    assert_eq!(fake.active[1][0], 1 << 16);
    assert_eq!(fake.acknowledge(), SPURIOUS, "the others are less urgent");
    assert_eq!(read(&mut fake, Register::HighestPending(Group::One)), 40);
    fake.end(41);
    assert_eq!((fake.active[1][0], fake.entries[1].state), (0, State::INVALID));
    assert_eq!(fake.acknowledge(), 40);
    assert_eq!(fake.acknowledge(), SPURIOUS, "as urgent as the one that runs");
}

#[test]
fn a_more_urgent_one_interrupts_and_ends_first() {
    let mut fake = Fake::new(&[(40, 0xa0)]);
    assert_eq!(fake.acknowledge(), 40);
    fake.entries[1] = pending(41, 0x20);
    assert_eq!(fake.acknowledge(), 41);
    fake.end(41);
    assert_eq!(fake.active[1][0], 1 << 20);
    fake.end(40);
    assert_eq!((fake.active[1][0], fake.entries[0].state), (0, State::INVALID));
}

#[test]
fn the_mask_the_enables_and_the_group_hold_back() {
    let mut fake = Fake::new(&[(40, 0xf0)]);
    assert_eq!(fake.acknowledge(), SPURIOUS, "not more urgent than the mask");
    let mut fake = Fake::new(&[(40, 0x80)]);
    write(&mut fake, Register::Enable(Group::One), 0);
    assert_eq!((read(&mut fake, Register::Enable(Group::One)), fake.acknowledge()), (0, SPURIOUS));
    write(&mut fake, Register::Enable(Group::One), 1);
    assert_eq!(read(&mut fake, Register::Acknowledge(Group::Zero)), SPURIOUS, "of group 1");
    assert_eq!(fake.acknowledge(), 40);
}

#[test]
fn with_the_end_split_only_the_second_write_deactivates() {
    let mut fake = Fake::new(&[(40, 0x80)]);
    fake.entries[0].physical = Some(77);
    fake.control |= SPLIT_END;
    assert_eq!(fake.acknowledge(), 40);
    fake.end(40);
    assert_eq!((fake.active[1][0], fake.entries[0].state.active), (0, true));
    write(&mut fake, Register::Deactivate, 40);
    assert_eq!((fake.entries[0].state, &fake.physical[..]), (State::INVALID, &[77][..]));
    write(&mut fake, Register::Deactivate, 99);
    assert_eq!(fake.outside, 1, "it is in no list register");
}

#[test]
fn an_end_against_the_rules_changes_nothing() {
    let mut fake = Fake::new(&[(40, 0x80)]);
    fake.end(40);
    write(&mut fake, Register::Deactivate, 40);
    fake.end(SPURIOUS);
    assert_eq!((fake.outside, fake.entries[0]), (0, pending(40, 0x80)));
    assert_eq!(fake.acknowledge(), 40);
    write(&mut fake, Register::End(Group::Zero), 40);
    assert!(fake.entries[0].state.active, "group 1 is active, not 0");
}

#[test]
fn an_end_that_finds_no_list_register_is_counted() {
    let mut fake = Fake::new(&[(40, 0x80)]);
    assert_eq!(fake.acknowledge(), 40);
    fake.entries[0] = ListRegister::INVALID;
    fake.end(40);
    assert_eq!((fake.outside, fake.active[1][0]), (1, 0));
}

#[test]
fn binary_points_have_a_least_value_and_may_be_common() {
    let mut fake = Fake::new(&[]);
    for (group, written, expected) in
        [(Group::Zero, 0, 2), (Group::Zero, 6, 6), (Group::One, 0, 3), (Group::One, 7, 7)]
    {
        write(&mut fake, Register::BinaryPoint(group), written);
        assert_eq!(read(&mut fake, Register::BinaryPoint(group)), expected, "{group:?}");
    }
    fake.control |= COMMON_BINARY_POINT;
    assert_eq!(read(&mut fake, Register::BinaryPoint(Group::One)), 7);
    write(&mut fake, Register::BinaryPoint(Group::Zero), 3);
    assert_eq!(read(&mut fake, Register::BinaryPoint(Group::One)), 4);
}

#[test]
fn a_coarse_binary_point_keeps_neighbours_from_interrupting_each_other() {
    let mut fake = Fake::new(&[(40, 0x90)]);
    write(&mut fake, Register::BinaryPoint(Group::One), 7);
    assert_eq!(fake.acknowledge(), 40);
    fake.entries[1] = pending(41, 0x80);
    assert_eq!(fake.acknowledge(), SPURIOUS);
    fake.entries[1] = pending(41, 0x70);
    assert_eq!(fake.acknowledge(), 41);
}

proptest! {
    /// Whatever a guest writes, in whatever order, nothing panics, and what it does in order leaves nothing behind.
    #[test]
    fn a_guest_that_does_anything_harms_nobody(
        steps in prop::collection::vec((0..9u8, any::<u64>()), 0..60),
        entries in prop::collection::vec((0..1020u32, any::<u8>()), 0..4),
    ) {
        let mut fake = Fake::new(&entries);
        for (step, value) in steps {
            let group = if value >> 63 == 0 { Group::One } else { Group::Zero };
            match step {
                0 | 1 => { fake.acknowledge(); }
                2 => fake.end(value & 1023),
                3 => write(&mut fake, Register::Deactivate, value),
                4 => write(&mut fake, Register::BinaryPoint(group), value),
                5 => write(&mut fake, Register::ActivePriorities(group, value as usize & 7), value),
                6 => write(&mut fake, Register::Enable(group), value),
                7 => { read(&mut fake, Register::Acknowledge(group)); }
                _ => write(&mut fake, Register::End(group), value),
            }
            prop_assert!(fake.entries.iter().all(|entry| !(entry.state.active && entry.state.pending)));
        }
    }

    /// Acknowledged until nothing is left and ended in reverse, all are gone.
    #[test]
    fn what_is_acknowledged_and_ended_in_order_is_gone(
        priorities in prop::collection::vec(0..0x1eu8, 1..5),
    ) {
        let mut fake = Fake::new(&[]);
        let mut handled = Vec::new();
        // Each is more urgent than those before it, or waits.
        for (n, priority) in priorities.iter().enumerate() {
            fake.entries[n] = pending(40 + n as u32, priority << 3);
        }
        for _ in 0..priorities.len() {
            match fake.acknowledge() {
                SPURIOUS => break,
                intid => handled.push(intid),
            }
        }
        prop_assert_eq!(handled.len(), 1, "the most urgent runs, and none of the rest interrupts it");
        let mut done = 0;
        while let Some(intid) = handled.pop() {
            fake.end(intid);
            done += 1;
            match fake.acknowledge() {
                SPURIOUS => {}
                next => handled.push(next),
            }
        }
        prop_assert_eq!(done, priorities.len());
        prop_assert!(fake.entries.iter().all(|entry| entry.state.is_invalid()));
        prop_assert_eq!(fake.active, [[0; 4]; 2]);
    }
}
