use super::*;
use crate::machine::clock::NANOSECONDS_PER_SECOND;
use crate::machine::clock::fake::{FakeClock, FakeLine};
use proptest::prelude::*;

/// Nanoseconds of `ticks`, rounded up.
fn at(ticks: u64) -> u64 {
    (ticks * NANOSECONDS_PER_SECOND).div_ceil(FREQUENCY)
}

/// Counts how often the first virtual CPU is woken.
#[derive(Default)]
struct Poller(AtomicU64);

impl Wake for Poller {
    fn wake(&self, vcpu: usize) {
        assert_eq!(vcpu, 0);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn timer() -> (Arc<FakeClock>, Arc<FakeLine>, Arc<Pit>) {
    let (clock, line, _, pit) = watched_timer();
    (clock, line, pit)
}

fn watched_timer() -> (Arc<FakeClock>, Arc<FakeLine>, Arc<Poller>, Arc<Pit>) {
    let (clock, line) = (Arc::new(FakeClock::default()), Arc::new(FakeLine::default()));
    let poller = Arc::new(Poller::default());
    let pit = Arc::new(Pit::new(clock.clone(), line.clone(), poller.clone()));
    (clock, line, poller, pit)
}

fn write(pit: &Pit, offset: u64, bytes: &[u8]) {
    for &byte in bytes {
        pit.write(offset, Width::Byte, byte.into()).unwrap();
    }
}

fn read(pit: &Pit, offset: u64) -> u8 {
    pit.read(offset, Width::Byte).unwrap() as u8
}

#[test]
fn channel_2_calibrates_a_time_stamp_counter_as_linux_does() {
    let (clock, _, pit) = timer();
    let port = SpeakerPort(pit.clone());
    let output = || port.read(0, Width::Byte).unwrap() & 0x20 != 0;
    port.write(0, Width::Byte, 1).unwrap();
    write(&pit, 3, &[0xb0]);
    write(&pit, 2, &[0x9b, 0x2e]);
    assert!(!output());
    clock.set(at(0x2e9b - 1));
    assert!(!output());
    clock.set(at(0x2e9b));
    assert!(output());
    assert_eq!(port.read(0, Width::Byte).unwrap() & 0x3, 1);
}

#[test]
fn a_new_deadline_wakes_whoever_polls() {
    let (_, _, poller, pit) = watched_timer();
    let woken = || poller.0.swap(0, Ordering::Relaxed);
    // Mode 2 of channel 0; half a count sets no deadline.
    write(&pit, 3, &[0x34]);
    write(&pit, 0, &[0x00]);
    assert_eq!((woken(), pit.next_deadline()), (0, None));
    write(&pit, 0, &[0x10]);
    assert_eq!((woken(), pit.next_deadline().is_some()), (1, true));
    // Channel 2 interrupts nobody.
    write(&pit, 3, &[0xb0]);
    write(&pit, 2, &[0x00, 0x10]);
    assert_eq!(woken(), 0);
}

#[test]
fn a_closed_gate_stops_the_count() {
    let (clock, _, pit) = timer();
    let port = SpeakerPort(pit.clone());
    write(&pit, 3, &[0xb0]);
    write(&pit, 2, &[0x00, 0x10]);
    clock.set(at(500));
    write(&pit, 3, &[0x80]);
    assert_eq!((read(&pit, 2), read(&pit, 2)), (0x00, 0x10));
    port.write(0, Width::Byte, 1).unwrap();
    clock.set(at(600));
    port.write(0, Width::Byte, 0).unwrap();
    clock.set(at(5000));
    write(&pit, 3, &[0x80]);
    let count = u16::from_le_bytes([read(&pit, 2), read(&pit, 2)]);
    assert!((0x1000 - 101..=0x1000 - 99).contains(&count), "{count:#x}");
}

#[test]
fn a_latched_count_stays_until_both_bytes_are_read() {
    let (clock, _, pit) = timer();
    write(&pit, 3, &[0x34]);
    write(&pit, 0, &[0x00, 0x80]);
    clock.set(at(0x10));
    write(&pit, 3, &[0x00]);
    clock.set(at(0x1234));
    write(&pit, 3, &[0x00]);
    assert_eq!((read(&pit, 0), read(&pit, 0)), (0xf0, 0x7f));
    assert_eq!((read(&pit, 0), read(&pit, 0)), (0xcc, 0x6d), "live again");
}

#[test]
fn read_back_gives_status_then_count() {
    let (clock, _, pit) = timer();
    write(&pit, 3, &[0x36]);
    write(&pit, 3, &[0xe2]);
    assert_eq!(read(&pit, 0), 0x80 | 0x40 | 0x36, "output high, not loaded");
    write(&pit, 0, &[0x00, 0x10]);
    clock.set(at(0x800));
    write(&pit, 3, &[0xc2]);
    assert_eq!(read(&pit, 0), 0x36, "second half: output low");
    assert_eq!((read(&pit, 0), read(&pit, 0)), (0x00, 0x10));
}

#[test]
fn periodic_modes_interrupt_each_period() {
    for mode in [0x34, 0x36] {
        let (clock, line, pit) = timer();
        write(&pit, 3, &[mode]);
        assert_eq!(pit.next_deadline(), None);
        write(&pit, 0, &[0x9c, 0x2e]);
        for period in 1..=5 {
            let deadline = pit.next_deadline().unwrap();
            assert!(deadline.abs_diff(at(period * 0x2e9c)) <= 2, "{deadline}");
            clock.set(deadline - 1);
            pit.poll();
            assert_eq!(line.edges(), period - 1);
            clock.set(deadline);
            pit.poll();
            assert_eq!(line.edges(), period);
        }
        clock.set(at(20 * 0x2e9c + 5));
        pit.poll();
        assert_eq!(line.edges(), 6, "missed periods count once");
    }
}

#[test]
fn mode_0_interrupts_once() {
    let (clock, line, pit) = timer();
    write(&pit, 3, &[0x30]);
    write(&pit, 0, &[0xe8, 0x03]);
    clock.set(pit.next_deadline().unwrap());
    pit.poll();
    assert_eq!((line.edges(), pit.next_deadline()), (1, None));
}

#[test]
fn a_tiny_period_is_slowed_down() {
    let (clock, _, pit) = timer();
    write(&pit, 3, &[0x14]);
    write(&pit, 0, &[2]);
    clock.set(1_000_000);
    pit.poll();
    assert_eq!(pit.next_deadline(), Some(1_100_000));
}

#[test]
fn decimal_counting_counts_to_9999() {
    let (clock, _, pit) = timer();
    write(&pit, 3, &[0x35]);
    write(&pit, 0, &[0x00, 0x10]);
    clock.set(at(1));
    assert_eq!((read(&pit, 0), read(&pit, 0)), (0x99, 0x09));
}

proptest! {
    #[test]
    fn deadlines_lie_ahead_whatever_the_guest_writes(
        steps in proptest::collection::vec((0u64..5, any::<u8>(), 0u64..10_000_000), 0..200)
    ) {
        let (clock, _, pit) = timer();
        let port = SpeakerPort(pit.clone());
        let mut now = 0;
        for (offset, value, step) in steps {
            now += step;
            clock.set(now);
            if offset == 4 {
                port.write(0, Width::Byte, value.into()).unwrap();
            } else {
                write(&pit, offset, &[value]);
            }
            read(&pit, offset);
            port.read(0, Width::Byte).unwrap();
            pit.poll();
            prop_assert!(pit.next_deadline().is_none_or(|deadline| deadline > now));
        }
    }
}
