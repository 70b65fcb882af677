//! The timer of a local APIC in ticks of the guest's time-stamp counter.

use super::register::TDCR_DEFINED;
use crate::machine::clock::scale;

/// Frequencies of a virtual machine, in kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerClock {
    /// Of the guest's time-stamp counter.
    pub tsc_khz: u32,
    /// Of the clock that the initial count divides.
    pub bus_khz: u32,
}

/// Shortest period in microseconds. A guest that asks for less would have
/// its processor do nothing but take timer interrupts.
const SHORTEST_PERIOD_MICROSECONDS: u64 = 200;

/// How the timer counts (LVT timer, bits 18:17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    Deadline,
}

#[derive(Debug, Clone)]
pub(super) struct Timer {
    clock: TimerClock,
    initial: u32,
    divide: u32,
    /// The time-stamp at which the timer expires next, if it counts.
    expiry: Option<u64>,
}

impl Timer {
    pub(super) fn new(clock: TimerClock) -> Self {
        Timer { clock, initial: 0, divide: 0, expiry: None }
    }

    /// log2 of the divisor: bits 3, 1, 0 count up from "by 2" and wrap to "by 1".
    fn divisor_shift(&self) -> u32 {
        let field = (self.divide & 0b11) | (self.divide >> 1 & 0b100);
        field.wrapping_add(1) & 0b111
    }

    fn ticks(&self, count: u32) -> u64 {
        let bus = u64::from(count) << self.divisor_shift();
        scale(bus, self.clock.tsc_khz.into(), self.clock.bus_khz.into()).max(1)
    }

    fn period(&self) -> u64 {
        let shortest = scale(SHORTEST_PERIOD_MICROSECONDS, self.clock.tsc_khz.into(), 1000).max(1);
        self.ticks(self.initial).max(shortest)
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) fn expiry(&self) -> Option<u64> {
        self.expiry
    }

    pub(super) fn disarm(&mut self) {
        self.expiry = None;
        self.initial = 0;
    }

    /// What is left of the count.
    pub(super) fn current(&self, now: u64) -> u32 {
        let Some(left) = self.expiry.and_then(|expiry| expiry.checked_sub(now)) else {
            return 0;
        };
        let bus = scale(left, self.clock.bus_khz.into(), self.clock.tsc_khz.into());
        u32::try_from(bus >> self.divisor_shift()).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Starts counting from `count`; 0 stops.
    pub(super) fn start(&mut self, count: u32, mode: TimerMode, now: u64) {
        self.initial = count;
        self.expiry = (count != 0).then(|| {
            let ticks = if mode == TimerMode::Periodic { self.period() } else { self.ticks(count) };
            now.saturating_add(ticks)
        });
    }

    /// Changes the divisor; the present count goes on from where it is.
    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide & TDCR_DEFINED;
        if self.expiry.is_some() {
            self.expiry = Some(now.saturating_add(self.ticks(left)));
        }
    }

    /// Arms the deadline of TSC-deadline mode; 0 disarms.
    pub(super) fn set_deadline(&mut self, deadline: u64) {
        self.expiry = (deadline != 0).then_some(deadline);
    }

    /// Whether the timer expired by `now`. A periodic timer goes on, and
    /// periods that nobody looked at count once.
    pub(super) fn expire(&mut self, mode: TimerMode, now: u64) -> bool {
        let Some(late) = self.expiry.and_then(|expiry| now.checked_sub(expiry)) else {
            return false;
        };
        self.expiry = (mode == TimerMode::Periodic && self.initial != 0).then(|| {
            let period = self.period();
            let into_period = late.checked_rem(period).unwrap_or(0);
            now.saturating_add(period.saturating_sub(into_period))
        });
        true
    }
}
