//! The 8254 programmable interval timer with channels 0 and 2, and port 0x61,
//! which gates and shows channel 2 (Intel 8254 data sheet).
//!
//! Time passes only through the clock; a channel keeps the moment at which it
//! was loaded and computes its count and output from there. Modes 0, 2 and 3
//! are kept apart; modes 1, 4 and 5, which nobody uses on a PC, count as mode 0.
//!
//! Lock order: the timer's lock is held while its interrupt line is driven.

use super::clock::{Clock, NANOSECONDS_PER_SECOND, scale};
use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, InterruptLine, Width};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::mutex::TicketMutex;

/// First of the four ports of the timer itself.
pub const PORT: u64 = 0x40;
/// Number of ports of the timer itself.
pub const WINDOW_SIZE: u64 = 4;
/// Port with the gate and the output of channel 2.
pub const CONTROL_PORT: u64 = 0x61;
/// Input clock in Hz.
pub const FREQUENCY: u64 = 1_193_182;
/// Interrupt of channel 0 on the PIC.
pub const IRQ: u8 = 0;
/// Shortest period of interrupts in nanoseconds; a guest that asks for less
/// would have its processor do nothing else.
const SHORTEST_PERIOD: u64 = 100_000;

/// Write-only control word.
const OFFSET_CONTROL: u64 = 3;

const CONTROL_CHANNEL_SHIFT: u32 = 6;
const CONTROL_READ_BACK: u8 = 0b11;
const CONTROL_ACCESS_SHIFT: u32 = 4;
const CONTROL_MODE_SHIFT: u32 = 1;
const CONTROL_BCD: u8 = 1 << 0;
/// Read-back: do not latch the count.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back: do not latch the status.
const READ_BACK_NO_STATUS: u8 = 1 << 4;

const STATUS_OUTPUT: u8 = 1 << 7;
const STATUS_NOT_LOADED: u8 = 1 << 6;

/// Port 0x61: gate of channel 2.
const PORT_GATE: u8 = 1 << 0;
/// Port 0x61: speaker data.
const PORT_SPEAKER: u8 = 1 << 1;
/// Port 0x61: toggles with each refresh of memory.
const PORT_REFRESH: u8 = 1 << 4;
/// Port 0x61: output of channel 2.
const PORT_OUTPUT: u8 = 1 << 5;
/// Nanoseconds between two refreshes of memory.
const REFRESH_PERIOD: u64 = 15_085;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
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
struct Channel {
    mode: Mode,
    access: Access,
    /// Mode, access and BCD bits as written, for the status byte.
    control: u8,
    /// Ticks of a period, 1 to 65536.
    reload: u64,
    /// Time of the load, or `None` until one.
    loaded: Option<u64>,
    /// Time at which the closed gate stopped the count.
    stopped: Option<u64>,
    write_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    const RESET: Channel = Channel {
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

    /// Ticks since the load, at time `now`.
    fn elapsed(&self, now: u64) -> Option<u64> {
        let until = self.stopped.unwrap_or(now);
        let passed = until.saturating_sub(self.loaded?);
        Some(scale(passed, FREQUENCY, NANOSECONDS_PER_SECOND))
    }

    fn phase(&self, elapsed: u64) -> u64 {
        elapsed.checked_rem(self.reload).unwrap_or(0)
    }

    fn count(&self, now: u64) -> u16 {
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

    fn output(&self, now: u64) -> bool {
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

    fn write(&mut self, byte: u8, now: u64) {
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

    fn read(&mut self, now: u64) -> u8 {
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

    fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(now));
        }
    }

    fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            let output = if self.output(now) { STATUS_OUTPUT } else { 0 };
            let not_loaded = if self.loaded.is_none() { STATUS_NOT_LOADED } else { 0 };
            self.latched_status = Some(output | not_loaded | self.control);
        }
    }

    fn configure(&mut self, control: u8) {
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

    fn set_gate(&mut self, open: bool, now: u64) {
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
    fn next_edge(&self, after: u64) -> Option<u64> {
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

struct State {
    channel_0: Channel,
    channel_2: Channel,
    /// Speaker data, port 0x61 bit 1.
    speaker: bool,
    /// Time of the next rising edge of channel 0.
    next_edge: Option<u64>,
}

impl State {
    fn new() -> Self {
        // Channel 2 starts with a closed gate.
        let channel_2 = Channel { stopped: Some(0), ..Channel::RESET };
        State { channel_0: Channel::RESET, channel_2, speaker: false, next_edge: None }
    }

    fn channel(&mut self, number: u64) -> Option<&mut Channel> {
        match number {
            0 => Some(&mut self.channel_0),
            2 => Some(&mut self.channel_2),
            // Channel 1 refreshed memory once.
            _ => None,
        }
    }

    fn control(&mut self, control: u8, now: u64) {
        let selected = control >> CONTROL_CHANNEL_SHIFT;
        if selected == CONTROL_READ_BACK {
            for number in [0, 2] {
                let bit = 1u8.wrapping_shl(number).wrapping_shl(1);
                let Some(channel) = self.channel(number.into()) else { continue };
                if control & bit == 0 {
                    continue;
                }
                if control & READ_BACK_NO_COUNT == 0 {
                    channel.latch_count(now);
                }
                if control & READ_BACK_NO_STATUS == 0 {
                    channel.latch_status(now);
                }
            }
            return;
        }
        let Some(channel) = self.channel(selected.into()) else { return };
        if control >> CONTROL_ACCESS_SHIFT & 0b11 == 0 {
            channel.latch_count(now);
        } else {
            channel.configure(control);
        }
    }
}

/// The timer of a virtual machine.
pub struct Pit {
    state: TicketMutex<State>,
    clock: Arc<dyn Clock>,
    line: Arc<dyn InterruptLine>,
    /// Time of the next rising edge of channel 0, [`NEVER`] for none: that of `state`, for those
    /// who look before every entry into the guest.
    due: AtomicU64,
}

/// No edge will come.
const NEVER: u64 = u64::MAX;

impl Pit {
    /// A timer after reset that interrupts through `line` (channel 0).
    pub fn new(clock: Arc<dyn Clock>, line: Arc<dyn InterruptLine>) -> Self {
        Pit { state: TicketMutex::new(State::new()), clock, line, due: AtomicU64::new(NEVER) }
    }

    /// Time of the clock at which [`Pit::poll`] has to be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        let due = self.due.load(Ordering::Acquire);
        (due != NEVER).then_some(due)
    }

    /// Raises the interrupt of channel 0 if it is due. Periods that nobody
    /// looked at count once.
    pub fn poll(&self) {
        if self.due.load(Ordering::Acquire) == NEVER {
            return;
        }
        let now = self.clock.nanoseconds();
        let mut state = self.state.lock();
        if state.next_edge.is_none_or(|edge| now < edge) {
            return;
        }
        let soonest = now.saturating_add(SHORTEST_PERIOD);
        state.next_edge = match state.channel_0.mode {
            Mode::InterruptOnTerminalCount => None,
            Mode::RateGenerator | Mode::SquareWave => {
                state.channel_0.next_edge(now).map(|edge| edge.max(soonest))
            }
        };
        self.publish(&state);
        self.line.set(false);
        self.line.set(true);
    }

    fn publish(&self, state: &State) {
        self.due.store(state.next_edge.unwrap_or(NEVER), Ordering::Release);
    }

    fn rearm(&self, state: &mut State, now: u64) {
        state.next_edge = state.channel_0.next_edge(now);
        self.publish(state);
        self.line.set(false);
    }
}

impl Device for Pit {
    fn read(&self, offset: u64, _: Width) -> Result<u64, BusFault> {
        let now = self.clock.nanoseconds();
        let mut state = self.state.lock();
        Ok(state.channel(offset).map_or(0xff, |channel| channel.read(now)).into())
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let now = self.clock.nanoseconds();
        let [byte, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        if offset == OFFSET_CONTROL {
            let was_loaded = state.channel_0.loaded;
            state.control(byte, now);
            if was_loaded != state.channel_0.loaded {
                self.rearm(&mut state, now);
            }
        } else if let Some(channel) = state.channel(offset) {
            channel.write(byte, now);
            if offset == 0 {
                self.rearm(&mut state, now);
            }
        }
        Ok(())
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        *state = State::new();
        self.publish(&state);
        self.line.set(false);
    }
}

/// Port 0x61 of a virtual machine.
pub struct SpeakerPort(pub Arc<Pit>);

impl Device for SpeakerPort {
    fn read(&self, _: u64, _: Width) -> Result<u64, BusFault> {
        let now = self.0.clock.nanoseconds();
        let state = self.0.state.lock();
        let flag = |condition: bool, bit: u8| if condition { bit } else { 0 };
        let refresh = now.checked_div(REFRESH_PERIOD).unwrap_or(0) & 1 != 0;
        let value = flag(state.channel_2.stopped.is_none(), PORT_GATE)
            | flag(state.speaker, PORT_SPEAKER)
            | flag(refresh, PORT_REFRESH)
            | flag(state.channel_2.output(now), PORT_OUTPUT);
        Ok(value.into())
    }

    fn write(&self, _: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let now = self.0.clock.nanoseconds();
        let mut state = self.0.state.lock();
        state.channel_2.set_gate(value & u64::from(PORT_GATE) != 0, now);
        state.speaker = value & u64::from(PORT_SPEAKER) != 0;
        Ok(())
    }

    fn reset(&self) {
        // The timer resets the gate.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clock::fake::{FakeClock, FakeLine};
    use proptest::prelude::*;

    /// Nanoseconds of `ticks`, rounded up.
    fn at(ticks: u64) -> u64 {
        (ticks * NANOSECONDS_PER_SECOND).div_ceil(FREQUENCY)
    }

    fn timer() -> (Arc<FakeClock>, Arc<FakeLine>, Arc<Pit>) {
        let (clock, line) = (Arc::new(FakeClock::default()), Arc::new(FakeLine::default()));
        let pit = Arc::new(Pit::new(clock.clone(), line.clone()));
        (clock, line, pit)
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
        assert_eq!(to_bcd(9876), 0x9876);
        assert_eq!(from_bcd(0x9876), 9876);
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
}
