//! The 8254 programmable interval timer with channels 0 and 2, and port 0x61,
//! which gates and shows channel 2 (Intel 8254 data sheet).
//!
//! Time passes only through the clock; a channel keeps the moment at which it
//! was loaded and computes its count and output from there. Modes 0, 2 and 3
//! are kept apart; modes 1, 4 and 5, which nobody uses on a PC, count as mode 0.
//!
//! Lock order: the timer's lock is held while its interrupt line is driven, and while the virtual CPU
//! that polls it is woken.

mod channel;
#[cfg(test)]
mod tests;

use super::clock::Clock;
use super::lapic::Wake;
use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, InterruptLine, Width};
use channel::{CONTROL_ACCESS_SHIFT, Channel, Mode};
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
/// Read-back: do not latch the count.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back: do not latch the status.
const READ_BACK_NO_STATUS: u8 = 1 << 4;

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
        let channel_2 = Channel::STOPPED;
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
    poller: Arc<dyn Wake>,
    /// Time of the next rising edge of channel 0, [`NEVER`] for none: that of `state`, for those
    /// who look before every entry into the guest.
    due: AtomicU64,
}

/// The virtual CPU that calls [`Pit::poll`].
const POLLER: usize = 0;
/// No edge will come.
const NEVER: u64 = u64::MAX;

impl Pit {
    /// A timer after reset that interrupts through `line` (channel 0). Virtual CPU 0 polls it, and is
    /// woken by `poller` when a write sets another deadline.
    pub fn new(clock: Arc<dyn Clock>, line: Arc<dyn InterruptLine>, poller: Arc<dyn Wake>) -> Self {
        let state = TicketMutex::new(State::new());
        Pit { state, clock, line, poller, due: AtomicU64::new(NEVER) }
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
        if state.next_edge.is_some() {
            self.poller.wake(POLLER);
        }
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
