//! The flight recorder: the last exits of a host CPU that reached the core.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::address::Instant;
use crate::exit::RawExit;
use crate::statistics::ExitKind;

/// Exits that are kept, a power of two.
const LENGTH: usize = 256;

/// Entries that the writer may be working on.
const MARGIN: u64 = 4;

/// Position of the virtual machine and of the kind in the word that says whose
/// exit it was; the virtual CPU is below.
const VM_SHIFT: u32 = 16;
const KIND_SHIFT: u32 = 48;

/// Whose exits are recorded: a virtual CPU of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(u64);

impl Source {
    /// Virtual CPU `vcpu` of the virtual machine with number `vm`.
    pub const fn new(vm: usize, vcpu: usize) -> Self {
        Source((vm as u64 & 0xffff_ffff) << VM_SHIFT | vcpu as u64 & 0xffff)
    }
}

/// One exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Instant,
    /// Number of the virtual machine, from 0.
    pub vm: usize,
    /// Number of the virtual CPU.
    pub vcpu: usize,
    /// What it meant to the core.
    pub kind: ExitKind,
    /// What the hardware said, as far as the backend kept it ([`RawExit::cause`]).
    pub cause: u64,
    /// Which address it named ([`RawExit::address`]).
    pub address: u64,
}

/// Time, whose, cause, address.
type Entry = [AtomicU64; 4];

/// The last exits of one host CPU. Only that CPU writes, everybody may read.
#[derive(Debug)]
pub struct Recorder {
    entries: Box<[Entry; LENGTH]>,
    /// Exits recorded so far; the next goes to this place modulo [`LENGTH`].
    count: AtomicU64,
}

impl Recorder {
    /// A recorder that has seen nothing.
    pub fn new() -> Self {
        let entries = Box::new([const { [const { AtomicU64::new(0) }; 4] }; LENGTH]);
        Recorder { entries, count: AtomicU64::new(0) }
    }

    /// Records one exit.
    #[inline]
    pub fn record(&self, time: Instant, source: Source, kind: ExitKind, raw: RawExit) {
        let count = self.count.load(Ordering::Relaxed);
        let place = count as usize & LENGTH.wrapping_sub(1);
        if let Some([when, whose, cause, address]) = self.entries.get(place) {
            when.store(time.0, Ordering::Relaxed);
            whose.store(source.0 | (kind as u64) << KIND_SHIFT, Ordering::Relaxed);
            cause.store(raw.cause, Ordering::Relaxed);
            address.store(raw.address, Ordering::Relaxed);
        }
        self.count.store(count.wrapping_add(1), Ordering::Release);
    }

    /// What has been recorded, oldest first. What is overwritten while it is
    /// read stays out.
    pub fn events(&self) -> Vec<Event> {
        let end = self.count.load(Ordering::Acquire);
        let start = end.saturating_sub(LENGTH as u64);
        let events: Vec<(u64, Event)> = (start..end)
            .filter_map(|number| {
                let entry = self.entries.get(number as usize & LENGTH.wrapping_sub(1))?;
                let [time, whose, cause, address] =
                    entry.each_ref().map(|word| word.load(Ordering::Relaxed));
                Some((
                    number,
                    Event {
                        time: Instant(time),
                        vm: usize::try_from(whose >> VM_SHIFT & 0xffff_ffff).ok()?,
                        vcpu: usize::try_from(whose & 0xffff).ok()?,
                        kind: *ExitKind::ALL.get(usize::try_from(whose >> KIND_SHIFT).ok()?)?,
                        cause,
                        address,
                    },
                ))
            })
            .collect();
        // What was overwritten meanwhile is out, and what is in the making. The writer pays for no
        // barrier, so that a few stores may be seen early.
        fence(Ordering::Acquire);
        let now = self.count.load(Ordering::Relaxed);
        let oldest = now.saturating_add(MARGIN).saturating_sub(LENGTH as u64);
        events.into_iter().filter(|(number, _)| *number >= oldest).map(|(_, event)| event).collect()
    }

    /// The last exits of one virtual CPU, oldest first, at most `count`.
    pub fn last(&self, source: Source, count: usize) -> Vec<Event> {
        let mut events = self.events();
        events.retain(|event| Source::new(event.vm, event.vcpu) == source);
        let extra = events.len().saturating_sub(count);
        events.drain(..extra);
        events
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_exits_are_kept_in_order() {
        let recorder = Recorder::new();
        assert_eq!(recorder.events(), []);
        for number in 0..LENGTH as u64 + 10 {
            let raw = RawExit { cause: number, detail: 0, address: number * 2 };
            let source = Source::new(usize::from(number % 2 == 0), 3);
            recorder.record(Instant(number + 100), source, ExitKind::Other, raw);
        }
        let events = recorder.events();
        assert_eq!(events.len(), LENGTH - MARGIN as usize, "the rest may be in the making");
        let last = events.last().unwrap();
        let number = LENGTH as u64 + 9;
        let expected = Event {
            time: Instant(number + 100),
            vm: 0,
            vcpu: 3,
            kind: ExitKind::Other,
            cause: number,
            address: number * 2,
        };
        assert_eq!(*last, expected);
        assert!(events.is_sorted_by_key(|event| event.time));
        let of_one = recorder.last(Source::new(1, 3), 4);
        assert_eq!(of_one.len(), 4);
        assert!(of_one.iter().all(|event| event.vm == 1 && event.cause % 2 == 0));
    }

    #[test]
    fn a_reader_sees_no_entry_in_the_making() {
        let recorder = Recorder::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..20_000u64 {
                    let raw = RawExit { cause: number, detail: 0, address: number };
                    recorder.record(Instant(number), Source::new(1, 1), ExitKind::Io, raw);
                }
            });
            for _ in 0..200 {
                for event in recorder.events() {
                    assert_eq!((event.time.0, event.cause), (event.cause, event.address));
                }
            }
        });
    }
}
