//! The PL031 real-time clock (Arm DDI 0224, "PrimeCell Real Time Clock
//! Technical Reference Manual").
//!
//! The clock counts seconds and always runs. What the guest loads into it
//! survives a reset of the machine, as with a clock that has a battery; the
//! alarm doesn't.
//!
//! Lock order: the clock's own lock is held while its interrupt line is driven.

use alloc::sync::Arc;

use spin::mutex::TicketMutex;

use super::clock::WallClock;
use super::primecell::{Lane, identification};
use crate::bus::{BusFault, Device, InterruptLine, Width};

/// Register offsets (DDI 0224, table 3-1).
mod offset {
    pub(super) const DR: u64 = 0x00;
    pub(super) const MR: u64 = 0x04;
    pub(super) const LR: u64 = 0x08;
    pub(super) const CR: u64 = 0x0c;
    pub(super) const IMSC: u64 = 0x10;
    pub(super) const RIS: u64 = 0x14;
    pub(super) const MIS: u64 = 0x18;
    pub(super) const ICR: u64 = 0x1c;
}

/// `RTCCR`: the clock is started.
const CR_START: u32 = 1;
/// The only interrupt, in `RTCIMSC`, `RTCRIS`, `RTCMIS` and `RTCICR`.
const INTERRUPT: u32 = 1;
/// Part number 0x031, designer 0x41 (Arm), revision 1.
const PERIPHERAL_ID: u32 = 0x0014_1031;

struct State {
    /// Guest's seconds minus the host's, modulo 2^32.
    shift: u32,
    /// Last value loaded.
    load: u32,
    /// `RTCMR`.
    alarm: u32,
    /// Host's second at which the counter meets `alarm`; `None` once it has.
    due: Option<u64>,
    enabled: bool,
    raised: bool,
    asserted: bool,
}

impl State {
    const fn counter(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.shift)
    }

    /// Computes when the counter meets the alarm next.
    fn arm(&mut self, now: u64) {
        let wait = self.alarm.wrapping_sub(self.counter(now));
        self.due = now.checked_add(u64::from(wait));
    }

    fn expire(&mut self, now: u64) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.raised = true;
        }
    }
}

/// One PL031.
pub struct Pl031 {
    clock: Arc<dyn WallClock>,
    line: Arc<dyn InterruptLine>,
    state: TicketMutex<State>,
}

impl Pl031 {
    /// Length of the register window in bytes.
    pub const WINDOW: u64 = 0x1000;

    /// A clock that shows the time of `clock` and interrupts through `line`.
    pub fn new(clock: Arc<dyn WallClock>, line: Arc<dyn InterruptLine>) -> Self {
        let state = State {
            shift: 0,
            load: 0,
            alarm: 0,
            due: None,
            enabled: false,
            raised: false,
            asserted: false,
        };
        Pl031 { clock, line, state: TicketMutex::new(state) }
    }

    /// When, in seconds of the [`WallClock`], [`Pl031::poll`] has an interrupt
    /// to deliver; `None` when no alarm is set or the guest has masked it.
    pub fn next_alarm(&self) -> Option<u64> {
        let state = self.state.lock();
        if state.enabled { state.due } else { None }
    }

    /// Raises the interrupt if the alarm is due.
    pub fn poll(&self) {
        let now = self.clock.seconds();
        let mut state = self.state.lock();
        state.expire(now);
        self.drive(&mut state);
    }

    fn drive(&self, state: &mut State) {
        let asserted = state.raised && state.enabled;
        if asserted != state.asserted {
            state.asserted = asserted;
            self.line.set(asserted);
        }
    }
}

impl Device for Pl031 {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        let lane = Lane::of(offset, width)?;
        let now = self.clock.seconds();
        let mut state = self.state.lock();
        state.expire(now);
        self.drive(&mut state);
        let value = match lane.register {
            offset::DR => state.counter(now),
            offset::MR => state.alarm,
            offset::LR => state.load,
            offset::CR => CR_START,
            offset::IMSC => u32::from(state.enabled),
            offset::RIS => u32::from(state.raised),
            offset::MIS => u32::from(state.raised && state.enabled),
            other => identification(PERIPHERAL_ID, other).unwrap_or(0),
        };
        Ok(lane.extract(value))
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusFault> {
        let lane = Lane::of(offset, width)?;
        let value = lane.word(value);
        let now = self.clock.seconds();
        let mut state = self.state.lock();
        state.expire(now);
        match lane.register {
            offset::MR => {
                state.alarm = value;
                state.arm(now);
            }
            offset::LR => {
                state.load = value;
                state.shift = value.wrapping_sub(now as u32);
                // An alarm that has already sounded does not sound again.
                if state.due.is_some() {
                    state.arm(now);
                }
            }
            offset::IMSC => state.enabled = value & INTERRUPT != 0,
            offset::ICR => state.raised &= value & INTERRUPT == 0,
            _ => {}
        }
        state.expire(now);
        self.drive(&mut state);
        Ok(())
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        state.alarm = 0;
        state.due = None;
        state.enabled = false;
        state.raised = false;
        self.drive(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    struct Clock(AtomicU64);
    impl WallClock for Clock {
        fn seconds(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[derive(Default)]
    struct Line(AtomicBool);
    impl InterruptLine for Line {
        fn set(&self, asserted: bool) {
            assert_ne!(self.0.swap(asserted, Ordering::Relaxed), asserted, "no change");
        }
    }

    struct Bench {
        clock: Arc<Clock>,
        line: Arc<Line>,
        rtc: Pl031,
    }

    impl Bench {
        fn at(seconds: u64) -> Self {
            let clock = Arc::new(Clock(AtomicU64::new(seconds)));
            let line = Arc::new(Line::default());
            let rtc = Pl031::new(clock.clone(), line.clone());
            Bench { clock, line, rtc }
        }
        fn read(&self, offset: u64) -> u64 {
            self.rtc.read(offset, Width::Word).unwrap()
        }
        fn write(&self, offset: u64, value: u64) {
            self.rtc.write(offset, Width::Word, value).unwrap();
        }
        fn pass(&self, seconds: u64) {
            self.clock.0.fetch_add(seconds, Ordering::Relaxed);
        }
        fn line(&self) -> bool {
            self.line.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn counter_follows_the_wall_clock_and_what_was_loaded() {
        let bench = Bench::at(0x6_0000_0005);
        assert_eq!(bench.read(offset::DR), 5);
        assert_eq!(bench.read(offset::CR), 1);
        bench.write(offset::LR, 0xffff_ffff);
        assert_eq!(bench.read(offset::LR), 0xffff_ffff);
        assert_eq!(bench.read(offset::DR), 0xffff_ffff);
        bench.pass(2);
        assert_eq!(bench.read(offset::DR), 1);
        bench.rtc.reset();
        assert_eq!(bench.read(offset::DR), 1, "the time survives a reset");
    }

    #[test]
    fn alarm_sounds_at_its_second_and_not_before() {
        let bench = Bench::at(1000);
        bench.write(offset::IMSC, 1);
        bench.write(offset::MR, 1010);
        assert_eq!(bench.rtc.next_alarm(), Some(1010));
        bench.pass(9);
        bench.rtc.poll();
        assert!(!bench.line());
        bench.pass(1);
        bench.rtc.poll();
        assert!(bench.line());
        assert_eq!((bench.read(offset::RIS), bench.read(offset::MIS)), (1, 1));
        assert_eq!(bench.rtc.next_alarm(), None);
        bench.write(offset::ICR, 1);
        assert!(!bench.line());
        bench.rtc.poll();
        assert!(!bench.line(), "one alarm sounds once");
    }

    #[test]
    fn masked_alarm_is_raw_status_only() {
        let bench = Bench::at(7);
        bench.write(offset::MR, 7);
        assert_eq!(bench.rtc.next_alarm(), None);
        assert_eq!((bench.read(offset::RIS), bench.read(offset::MIS)), (1, 0));
        assert!(!bench.line());
        bench.write(offset::IMSC, 1);
        assert!(bench.line());
        bench.write(offset::ICR, 0);
        assert!(bench.line());
        bench.write(offset::IMSC, 0);
        assert!(!bench.line());
    }

    #[test]
    fn alarm_counts_in_the_guests_time() {
        let bench = Bench::at(100);
        bench.write(offset::IMSC, 1);
        bench.write(offset::LR, 0xffff_fff0);
        bench.write(offset::MR, 4);
        assert_eq!(bench.rtc.next_alarm(), Some(100 + 20));
        bench.write(offset::LR, 1);
        assert_eq!(bench.rtc.next_alarm(), Some(100 + 3));
    }

    #[test]
    fn reset_silences_the_alarm() {
        let bench = Bench::at(1);
        bench.write(offset::IMSC, 1);
        bench.write(offset::MR, 1);
        assert!(bench.line());
        bench.rtc.reset();
        assert!(!bench.line());
        for register in [offset::MR, offset::IMSC, offset::RIS, offset::MIS] {
            assert_eq!(bench.read(register), 0, "{register:#x}");
        }
        assert_eq!(bench.rtc.next_alarm(), None);
    }

    #[test]
    fn identification_is_a_pl031s() {
        let bench = Bench::at(0);
        let id: [u64; 8] = core::array::from_fn(|i| bench.read(0xfe0 + 4 * i as u64));
        assert_eq!(id, [0x31, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(bench.read(0x800), 0);
        assert_eq!(bench.rtc.read(0, Width::Double), Err(BusFault));
        assert_eq!(bench.rtc.write(2, Width::Word, 0), Err(BusFault));
    }
}
