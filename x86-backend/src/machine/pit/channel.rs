//! One channel of the timer: mode, count and output.

use super::FREQUENCY;
use crate::machine::clock::{NANOSECONDS_PER_SECOND, scale};

pub(super) const CONTROL_ACCESS_SHIFT: u32 = 4;
const CONTROL_MODE_SHIFT: u32 = 1;
const CONTROL_BCD: u8 = 1 << 0;
const STATUS_OUTPUT: u8 = 1 << 7;
const STATUS_NOT_LOADED: u8 = 1 << 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Output rises when the count ends.
    InterruptOnTerminalCount,
    /// Output is low for one tick of each period.
    RateGenerator,
    /// Output is high for the first half of each period.
    SquareWave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

#[derive(Debug, Clone)]
pub(super) struct Channel {
    pub(super) mode: Mode,
    access: Access,
    /// Mode, access and BCD bits as written, for the status byte.
    control: u8,
    /// Ticks of a period, 1 to 65536.
    reload: u64,
    /// Time of the load, or `None` until one.
    pub(super) loaded: Option<u64>,
    /// Time at which the closed gate stopped the count.
    pub(super) stopped: Option<u64>,
    write_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    pub(super) const RESET: Channel = Channel {
        mode: Mode::InterruptOnTerminalCount,
        access: Access::LowThenHigh,
        control: 0b11 << CONTROL_ACCESS_SHIFT,
        reload: 0x1_0000,
        loaded: None,
        stopped: None,
        write_low: None,
        read_high_next: false,
        latched_count: None,
        latched_status: None,
    };

    /// With a closed gate.
    pub(super) const STOPPED: Channel = Channel { stopped: Some(0), ..Channel::RESET };

    /// Ticks since the load, at time `now`.
    fn elapsed(&self, now: u64) -> Option<u64> {
        let until = self.stopped.unwrap_or(now);
        let passed = until.saturating_sub(self.loaded?);
        Some(scale(passed, FREQUENCY, NANOSECONDS_PER_SECOND))
    }

    fn phase(&self, elapsed: u64) -> u64 {
        elapsed.checked_rem(self.reload).unwrap_or(0)
    }

    pub(super) fn count(&self, now: u64) -> u16 {
        let elapsed = self.elapsed(now).unwrap_or(0);
        let left = match self.mode {
            Mode::InterruptOnTerminalCount => self.reload.wrapping_sub(elapsed),
            Mode::RateGenerator => self.reload.wrapping_sub(self.phase(elapsed)),
            // The square wave counts down by two in each half.
            Mode::SquareWave => {
                let twice = self.phase(elapsed).wrapping_mul(2);
                let in_half = twice.checked_rem(self.reload).unwrap_or(0);
                self.reload.wrapping_sub(in_half) & !1
            }
        };
        let binary = (left & 0xffff) as u16;
        if self.control & CONTROL_BCD != 0 { to_bcd(binary) } else { binary }
    }

    pub(super) fn output(&self, now: u64) -> bool {
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        match self.mode {
            Mode::InterruptOnTerminalCount => elapsed >= self.reload,
            Mode::RateGenerator => self.phase(elapsed).saturating_add(1) != self.reload,
            Mode::SquareWave => self.phase(elapsed) < self.reload.saturating_add(1) >> 1,
        }
    }

    fn load(&mut self, value: u16, now: u64) {
        let binary = if self.control & CONTROL_BCD != 0 { from_bcd(value) } else { value.into() };
        let whole = if self.control & CONTROL_BCD != 0 { 10_000 } else { 0x1_0000 };
        self.reload = if binary == 0 { whole } else { binary };
        self.loaded = Some(now);
        self.stopped = self.stopped.map(|_| now);
    }

    pub(super) fn write(&mut self, byte: u8, now: u64) {
        match (self.access, self.write_low.take()) {
            (Access::Low, _) => self.load(byte.into(), now),
            (Access::High, _) => self.load(u16::from(byte) << 8, now),
            (Access::LowThenHigh, Some(low)) => self.load(u16::from_le_bytes([low, byte]), now),
            (Access::LowThenHigh, None) => {
                self.write_low = Some(byte);
                // The first byte stops a count in mode 0.
                if self.mode == Mode::InterruptOnTerminalCount {
                    self.loaded = None;
                }
            }
        }
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(now)).to_le_bytes();
        match self.access {
            Access::Low => {
                self.latched_count = None;
                low
            }
            Access::High => {
                self.latched_count = None;
                high
            }
            Access::LowThenHigh if self.read_high_next => {
                self.read_high_next = false;
                self.latched_count = None;
                high
            }
            Access::LowThenHigh => {
                self.read_high_next = true;
                low
            }
        }
    }

    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(now));
        }
    }

    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            let output = if self.output(now) { STATUS_OUTPUT } else { 0 };
            let not_loaded = if self.loaded.is_none() { STATUS_NOT_LOADED } else { 0 };
            self.latched_status = Some(output | not_loaded | self.control);
        }
    }

    pub(super) fn configure(&mut self, control: u8) {
        let mode = match control >> CONTROL_MODE_SHIFT & 0b111 {
            2 | 6 => Mode::RateGenerator,
            3 | 7 => Mode::SquareWave,
            _ => Mode::InterruptOnTerminalCount,
        };
        let access = match control >> CONTROL_ACCESS_SHIFT & 0b11 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let stopped = self.stopped;
        *self = Channel { mode, access, control: control & 0x3f, stopped, ..Channel::RESET };
    }

    pub(super) fn set_gate(&mut self, open: bool, now: u64) {
        match (open, self.stopped) {
            (true, Some(stopped)) => {
                self.stopped = None;
                if let Some(loaded) = &mut self.loaded {
                    *loaded = match self.mode {
                        // The count goes on where it stopped.
                        Mode::InterruptOnTerminalCount => {
                            loaded.saturating_add(now.saturating_sub(stopped))
                        }
                        // The gate starts a new period.
                        Mode::RateGenerator | Mode::SquareWave => now,
                    };
                }
            }
            (false, None) => self.stopped = Some(now),
            _ => {}
        }
    }

    /// Time of the first rising edge of the output after time `after`.
    pub(super) fn next_edge(&self, after: u64) -> Option<u64> {
        let loaded = self.loaded?;
        let ticks = match self.mode {
            Mode::InterruptOnTerminalCount => self.reload,
            Mode::RateGenerator | Mode::SquareWave => {
                let elapsed =
                    scale(after.saturating_sub(loaded), FREQUENCY, NANOSECONDS_PER_SECOND);
                let periods = elapsed.checked_div(self.reload).unwrap_or(0).saturating_add(1);
                periods.saturating_mul(self.reload)
            }
        };
        // Rounded up, so that the edge has passed at that nanosecond.
        let due = loaded
            .saturating_add(scale(ticks, NANOSECONDS_PER_SECOND, FREQUENCY))
            .saturating_add(1);
        (due > after).then_some(due)
    }
}

fn to_bcd(value: u16) -> u16 {
    let digit = |divisor: u16| value.checked_div(divisor).unwrap_or(0) % 10;
    digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
}

fn from_bcd(value: u16) -> u64 {
    let digits = [value >> 12, value >> 8 & 0xf, value >> 4 & 0xf, value & 0xf];
    digits.into_iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(digit.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_digits_are_four_bits_each() {
        assert_eq!(to_bcd(9876), 0x9876);
        assert_eq!(from_bcd(0x9876), 9876);
    }
}
