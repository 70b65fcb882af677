use super::*;
use crate::virtio::testing::{BASE, Echo, Guest, PATTERN, QUEUE, RING_RESET};

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

fn fresh() -> Guest<Echo> {
    Guest::new(Echo::default())
}

fn ready() -> Guest<Echo> {
    Guest::ready(Echo::default(), RING_RESET)
}

/// Negotiates these words of features; whether the device agrees.
fn negotiate(guest: &Guest<Echo>, low: u32, high: u32, beyond: u32) -> bool {
    guest.write(0x70, 0);
    guest.write(0x70, ACKNOWLEDGE | DRIVER);
    for (word, value) in [(0, low), (1, high), (2, beyond)] {
        guest.write(0x24, word);
        guest.write(0x20, value);
    }
    guest.write(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    guest.status() & FEATURES_OK != 0
}

#[test]
fn a_device_identifies_itself() {
    let guest = fresh();
    for (offset, value) in [
        (0x000, 0x7472_6976),
        (0x004, 2),
        (0x008, 42),
        (0x034, 16),
        (0x044, 0),
        (0x060, 0),
        (0x070, 0),
        (0x0b0, u32::MAX),
        (0x0b4, u32::MAX),
        (0x0b8, u32::MAX),
        (0x0bc, u32::MAX),
        (0x0c0, 0),
        (0x0fc, 0),
        // Write-only, legacy and reserved.
        (0x014, 0),
        (0x028, 0),
        (0x040, 0),
        (0x050, 0),
        (0x080, 0),
        (0x0f8, 0),
    ] {
        assert_eq!(guest.read(offset), value, "{offset:#x}");
    }
}

#[test]
fn features_are_read_by_words() {
    let guest = fresh();
    for (word, value) in [(0, 1 << 3 | 1 << 28 | 1 << 29), (1, 1 | 1 << 8), (2, 0), (u32::MAX, 0)] {
        guest.write(0x14, word);
        assert_eq!(guest.read(0x10), value, "{word}");
    }
}

#[test]
fn only_offered_features_with_version_1_are_agreed_on() {
    let guest = fresh();
    for (low, high, beyond, agreed) in [
        (0, 1, 0, true),
        (1 << 3, 1, 0, true),
        (1 << 28 | 1 << 29, 1 | 1 << 8, 0, true),
        (0, 0, 0, false),
        (1 << 3, 0, 0, false),
        (1 << 4, 1, 0, false),
        (0, 1 | 1 << 2, 0, false),
        (0, 1, 1, false),
    ] {
        assert_eq!(negotiate(&guest, low, high, beyond), agreed, "{low:#x} {high:#x} {beyond:#x}");
        guest.write(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(guest.status() & DRIVER_OK != 0, agreed, "no driver without agreement");
    }
}

#[test]
fn features_are_fixed_after_the_agreement() {
    let guest = fresh();
    assert!(negotiate(&guest, 1 << 3, 1, 0));
    guest.write(0x24, 1);
    guest.write(0x20, 0);
    guest.write(0x70, 15);
    assert_eq!(guest.status(), 15);
}

#[test]
fn a_driver_can_set_status_bits_and_only_a_reset_clears_them() {
    let guest = fresh();
    guest.write(0x70, 1);
    guest.write(0x70, 2);
    assert_eq!(guest.status(), 3);
    guest.write(0x70, NEEDS_RESET | 16 | 32);
    assert_eq!(guest.status(), 3, "these bits are the device's or reserved");
    guest.write(0x70, FAILED);
    assert_eq!(guest.status(), FAILED | 3);
    guest.write(0x70, 0);
    assert_eq!(guest.status(), 0);
}

#[test]
fn a_failed_driver_gets_no_service() {
    let mut guest = ready();
    guest.write(0x70, FAILED);
    let buffer = guest.buffer(b"x");
    guest.add(0, &[(buffer, 1, false)]);
    guest.notify(0);
    assert_eq!(guest.take(0), None);
}

#[test]
fn nothing_is_done_before_the_driver_is_ready() {
    let mut guest = ready();
    guest.write(0x70, 0);
    assert!(negotiate(&guest, 0, 1, 0));
    guest.add_queue(0);
    let buffer = guest.buffer(b"early");
    guest.add(0, &[(buffer, 5, false)]);
    guest.notify(0);
    assert_eq!(guest.take(0), None);
    guest.write(0x70, 15);
    guest.notify(0);
    assert!(guest.take(0).is_some());
}

#[test]
fn control_registers_take_aligned_words_only() {
    let guest = fresh();
    for (offset, width) in [
        (0, Width::Byte),
        (0, Width::Half),
        (0, Width::Double),
        (2, Width::Word),
        (0x6e, Width::Word),
    ] {
        assert_eq!(guest.device.read(offset, width), Ok(0), "{offset:#x} {width:?}");
    }
    for width in [Width::Byte, Width::Half, Width::Double] {
        assert_eq!(guest.device.write_some(0x70, width, 1), Ok(Progress::Done));
        assert_eq!(guest.status(), 0);
    }
}

#[test]
fn the_configuration_takes_every_width() {
    let guest = ready();
    guest.device.write(0x100, Width::Word, 0x4433_2211).unwrap();
    for (offset, width, value) in [
        (0x100, Width::Byte, 0x11),
        (0x103, Width::Byte, 0x44),
        (0x102, Width::Half, 0x4433),
        (0x100, Width::Double, 0x4433_2211),
        (0x102, Width::Word, 0x4433),
        (0x104, Width::Word, 0),
        (0x1f8, Width::Double, 0),
    ] {
        assert_eq!(guest.device.read(offset, width), Ok(value), "{offset:#x} {width:?}");
    }
    guest.device.write(0x101, Width::Byte, 0xab).unwrap();
    assert_eq!(guest.read(0x100), 0x4433_ab11);
    guest.device.write(0x1fc, Width::Word, 1).unwrap();
    guest.device.reset();
    guest.device.write(0x100, Width::Word, 1).unwrap();
    assert_eq!(guest.read(0x100), 0, "there is no driver yet");
}

#[test]
fn a_changed_configuration_has_a_new_generation_and_an_interrupt() {
    let guest = fresh();
    guest.device.set_config([1; 4]);
    assert_eq!((guest.read(0xfc), guest.interrupt()), (1, 0), "no driver to be told");
    let guest = ready();
    let before = guest.read(0xfc);
    guest.device.set_config([2; 4]);
    assert_ne!(guest.read(0xfc), before);
    assert_eq!((guest.line.edges(), guest.interrupt()), (1, 2));
}

#[test]
fn queues_that_do_not_exist_have_no_size_and_ignore_writes() {
    let guest = ready();
    for index in [2, 0x1_0000, u32::MAX] {
        guest.write(0x30, index);
        assert_eq!(guest.read(0x34), 0);
        for register in [0x38, 0x44, 0x80, 0xa4, 0xc0] {
            guest.write(register, 1);
        }
        assert_eq!(guest.read(0x44), 0);
        guest.notify(index as usize);
    }
    assert!(!guest.needs_reset());
}

#[test]
fn a_queue_of_forbidden_shape_breaks_the_device() {
    for (register, value) in [(0x38, 0), (0x38, 3), (0x38, 32), (0x38, 0x1_0010), (0x38, u32::MAX)]
        .into_iter()
        .chain([(0x80, 0x4000_0008), (0x90, 0x4000_1001), (0xa0, 0x4000_1802)])
    {
        let guest = ready();
        guest.write(0x70, 0);
        assert!(negotiate(&guest, 0, 1, 0));
        guest.write(0x30, 0);
        guest.write(0x38, QUEUE.into());
        guest.write(register, value);
        guest.write(0x44, 1);
        assert_eq!(guest.read(0x44), 0, "{register:#x} {value:#x}");
        assert!(guest.needs_reset());
        assert_eq!(guest.read(0x60), 0, "a driver that is not ready is not told");
        guest.write(0x70, 0);
        assert_eq!(guest.status(), 0);
    }
}

#[test]
fn a_queue_in_use_keeps_its_place() {
    let mut guest = ready();
    guest.write(0x30, 0);
    for register in [0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x38] {
        guest.write(register, 0xdead_bee0);
    }
    guest.write(0x44, 1);
    let buffer = guest.buffer(b"still here");
    guest.add(0, &[(buffer, 10, false)]);
    guest.notify(0);
    assert!(guest.take(0).is_some());
}

#[test]
fn one_queue_can_be_reset_while_the_other_works() {
    let mut guest = ready();
    let buffer = guest.buffer(&[0; 4]);
    guest.add(0, &[(buffer, 4, true)]);
    guest.notify(0);
    guest.write(0x30, 0);
    guest.write(0xc0, 1);
    assert_eq!((guest.read(0xc0), guest.read(0x44), guest.read(0x34)), (0, 0, 16));
    let second = guest.rings.pop().unwrap();
    guest.add_queue(0);
    guest.rings.push(second);
    guest.memory.put(buffer, &[0; 4]);
    guest.add(0, &[(buffer, 4, true)]);
    guest.notify(0);
    assert_eq!(guest.take(0), Some((0, 4)), "from the start of its rings");
    assert_eq!(guest.memory.get(buffer, 4), [PATTERN; 4]);
    assert!(!guest.needs_reset());
}

#[test]
fn a_queue_is_not_reset_without_the_feature() {
    let mut guest = Guest::ready(Echo::default(), 0);
    guest.write(0x30, 0);
    guest.write(0xc0, 1);
    assert_eq!(guest.read(0x44), 1);
    let buffer = guest.buffer(&[0; 4]);
    guest.add(0, &[(buffer, 4, true)]);
    guest.notify(0);
    assert!(guest.take(0).is_some());
}

#[test]
fn a_disabled_queue_is_left_alone() {
    let mut guest = ready();
    guest.write(0x30, 0);
    guest.write(0x44, 0);
    assert_eq!(guest.read(0x44), 0);
    let buffer = guest.buffer(&[0; 4]);
    guest.add(0, &[(buffer, 4, true)]);
    guest.notify(0);
    assert_eq!(guest.take(0), None);
}

#[test]
fn a_reset_of_driver_or_machine_leaves_nothing_behind() {
    for by_machine in [false, true] {
        let mut guest = ready();
        guest.device.set_config([9; 4]);
        let buffer = guest.buffer(&[0; 4]);
        guest.add(0, &[(buffer, 4, true)]);
        guest.notify(0);
        guest.write(0x14, 1);
        guest.write(0x30, 1);
        assert!(guest.line.level.load(std::sync::atomic::Ordering::SeqCst));
        if by_machine {
            guest.device.reset();
        } else {
            guest.write(0x70, 0);
        }
        assert!(!guest.line.level.load(std::sync::atomic::Ordering::SeqCst));
        let new = fresh();
        for offset in (0..0x200).step_by(4) {
            assert_eq!(guest.read(offset), new.read(offset), "{offset:#x}");
        }
        guest.write(0x70, 1 | 2);
        guest.write(0x70, 1 | 2 | 8);
        assert_eq!(guest.status(), 3, "the features of before are forgotten");
    }
}

#[test]
fn an_interrupt_is_one_edge_until_it_is_acknowledged() {
    let mut guest = ready();
    let buffer = guest.buffer(&[0; 4]);
    for _ in 0..3 {
        guest.add(0, &[(buffer, 4, true)]);
        guest.notify(0);
    }
    assert_eq!((guest.line.edges(), guest.read(0x60)), (1, 1));
    guest.write(0x64, 2);
    assert_eq!(guest.read(0x60), 1, "the other bit");
    guest.write(0x64, 1);
    assert_eq!(guest.read(0x60), 0);
    guest.add(0, &[(buffer, 4, true)]);
    guest.notify(0);
    assert_eq!((guest.line.edges(), guest.interrupt()), (1, 1));
}

#[test]
fn a_queue_outside_of_memory_breaks_the_device_when_it_is_used() {
    let mut guest = ready();
    guest.write(0x70, 0);
    assert!(negotiate(&guest, 0, 1, 0));
    guest.write(0x30, 0);
    for (low, address) in [(0x80, BASE - 0x1000), (0x90, BASE - 0x800), (0xa0, BASE - 0x400)] {
        guest.write(low, address as u32);
        guest.write(low + 4, (address >> 32) as u32);
    }
    guest.write(0x44, 1);
    guest.write(0x70, 15);
    assert_eq!((guest.read(0x44), guest.needs_reset()), (1, false));
    guest.notify(0);
    assert!(guest.needs_reset());
    assert_eq!(guest.interrupt(), 2);
    guest.start(0);
    assert!(!guest.needs_reset());
}
