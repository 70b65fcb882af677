//! A 16550A serial port (National Semiconductor PC16550D data sheet).
//!
//! The transmitter is infinitely fast: a byte is out with the write, so it is
//! always empty. The receive time-out passes at once, so that a guest never
//! waits for input that is already there.
//!
//! Lock order: the port's own lock is held while its interrupt line is driven,
//! never while the console is called.

#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, InterruptLine, Width};
use bunshin::console::ConsoleInput;
use bunshin::device::console::ConsoleSink;
use spin::mutex::TicketMutex;

/// Number of ports.
pub const WINDOW_SIZE: u64 = 8;
/// First port of COM1.
pub const COM1_PORT: u64 = 0x3f8;
/// Interrupt of COM1 on the PIC and the IOAPIC.
pub const COM1_IRQ: u8 = 4;

const FIFO_DEPTH: usize = 16;

/// Register offsets; divisor latch access bit clear.
mod offset {
    pub(super) const DATA: u64 = 0;
    pub(super) const INTERRUPT_ENABLE: u64 = 1;
    /// Interrupt identification on reads, FIFO control on writes.
    pub(super) const IDENTIFICATION: u64 = 2;
    pub(super) const LINE_CONTROL: u64 = 3;
    pub(super) const MODEM_CONTROL: u64 = 4;
    pub(super) const LINE_STATUS: u64 = 5;
    pub(super) const MODEM_STATUS: u64 = 6;
    pub(super) const SCRATCH: u64 = 7;
}

bitflags::bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Enable: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// Line status register.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const HOLDING_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// Modem control register.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// Connects the interrupt to the machine.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// Modem status register: levels, and below them what changed.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct ModemStatus: u8 {
        const CTS_CHANGED = 1 << 0;
        const DSR_CHANGED = 1 << 1;
        const RING_ENDED = 1 << 2;
        const DCD_CHANGED = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RING = 1 << 6;
        const DCD = 1 << 7;
    }
}

impl ModemStatus {
    /// What the other end of a cable shows while it listens.
    const CONNECTED: Self = Self::CTS.union(Self::DSR).union(Self::DCD);
    const CHANGES: Self =
        Self::CTS_CHANGED.union(Self::DSR_CHANGED).union(Self::RING_ENDED).union(Self::DCD_CHANGED);
}

const LCR_DIVISOR_LATCH: u8 = 1 << 7;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const FCR_TRIGGER_SHIFT: u32 = 6;

const IIR_NONE: u8 = 0b0001;
const IIR_MODEM_STATUS: u8 = 0b0000;
const IIR_TRANSMITTER_EMPTY: u8 = 0b0010;
const IIR_RECEIVED: u8 = 0b0100;
const IIR_LINE_STATUS: u8 = 0b0110;
const IIR_TIME_OUT: u8 = 0b1100;
const IIR_FIFOS: u8 = 0b1100_0000;

/// 9600 baud, as PC firmware leaves it.
const DIVISOR_RESET: u16 = 12;

struct State {
    received: VecDeque<u8>,
    enable: Enable,
    fifo_control: u8,
    line_control: u8,
    modem_control: ModemControl,
    modem_status: ModemStatus,
    overrun: bool,
    scratch: u8,
    divisor: u16,
    /// The transmitter became empty, or its interrupt was enabled while it
    /// was; reading IIR or writing data clears it.
    empty_pending: bool,
    asserted: bool,
}

impl State {
    fn new() -> Self {
        State {
            received: VecDeque::with_capacity(FIFO_DEPTH),
            enable: Enable::empty(),
            fifo_control: 0,
            line_control: 0,
            modem_control: ModemControl::empty(),
            modem_status: ModemStatus::CONNECTED,
            overrun: false,
            scratch: 0,
            divisor: DIVISOR_RESET,
            empty_pending: false,
            asserted: false,
        }
    }

    fn capacity(&self) -> usize {
        if self.fifo_control & FCR_ENABLE != 0 { FIFO_DEPTH } else { 1 }
    }

    fn trigger(&self) -> usize {
        match (self.fifo_control & FCR_ENABLE, self.fifo_control >> FCR_TRIGGER_SHIFT) {
            (0, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        }
    }

    fn divisor_latch(&self) -> bool {
        self.line_control & LCR_DIVISOR_LATCH != 0
    }

    fn loopback(&self) -> bool {
        self.modem_control.contains(ModemControl::LOOPBACK)
    }

    /// The interrupt of highest priority, without the FIFO bits.
    fn identification(&self) -> u8 {
        if self.enable.contains(Enable::LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if self.enable.contains(Enable::RECEIVED) && self.received.len() >= self.trigger() {
            IIR_RECEIVED
        } else if self.enable.contains(Enable::RECEIVED) && !self.received.is_empty() {
            IIR_TIME_OUT
        } else if self.enable.contains(Enable::TRANSMITTER_EMPTY) && self.empty_pending {
            IIR_TRANSMITTER_EMPTY
        } else if self.enable.contains(Enable::MODEM_STATUS)
            && self.modem_status.intersects(ModemStatus::CHANGES)
        {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn line_status(&self) -> LineStatus {
        let mut status = LineStatus::HOLDING_EMPTY | LineStatus::TRANSMITTER_EMPTY;
        status.set(LineStatus::DATA_READY, !self.received.is_empty());
        status.set(LineStatus::OVERRUN, self.overrun);
        status
    }

    fn receive(&mut self, byte: u8) {
        if self.received.len() < self.capacity() {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    /// Recomputes the inputs of the modem status register and notes changes.
    fn update_modem_status(&mut self) {
        let levels = if self.loopback() {
            let mut levels = ModemStatus::empty();
            levels.set(ModemStatus::CTS, self.modem_control.contains(ModemControl::RTS));
            levels.set(ModemStatus::DSR, self.modem_control.contains(ModemControl::DTR));
            levels.set(ModemStatus::RING, self.modem_control.contains(ModemControl::OUT1));
            levels.set(ModemStatus::DCD, self.modem_control.contains(ModemControl::OUT2));
            levels
        } else {
            ModemStatus::CONNECTED
        };
        let old = self.modem_status.difference(ModemStatus::CHANGES);
        let changed = old.symmetric_difference(levels);
        let mut changes = self.modem_status.intersection(ModemStatus::CHANGES);
        changes.set(
            ModemStatus::CTS_CHANGED,
            changes.contains(ModemStatus::CTS_CHANGED) || changed.contains(ModemStatus::CTS),
        );
        changes.set(
            ModemStatus::DSR_CHANGED,
            changes.contains(ModemStatus::DSR_CHANGED) || changed.contains(ModemStatus::DSR),
        );
        changes.set(
            ModemStatus::DCD_CHANGED,
            changes.contains(ModemStatus::DCD_CHANGED) || changed.contains(ModemStatus::DCD),
        );
        // The ring indicator reports its end only.
        if old.contains(ModemStatus::RING) && !levels.contains(ModemStatus::RING) {
            changes |= ModemStatus::RING_ENDED;
        }
        self.modem_status = levels | changes;
    }

    fn read(&mut self, register: u64) -> u8 {
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        match register {
            offset::DATA if self.divisor_latch() => divisor_low,
            offset::DATA => self.received.pop_front().unwrap_or(0),
            offset::INTERRUPT_ENABLE if self.divisor_latch() => divisor_high,
            offset::INTERRUPT_ENABLE => self.enable.bits(),
            offset::IDENTIFICATION => {
                let identification = self.identification();
                if identification == IIR_TRANSMITTER_EMPTY {
                    self.empty_pending = false;
                }
                let fifos = if self.fifo_control & FCR_ENABLE != 0 { IIR_FIFOS } else { 0 };
                identification | fifos
            }
            offset::LINE_CONTROL => self.line_control,
            offset::MODEM_CONTROL => self.modem_control.bits(),
            offset::LINE_STATUS => {
                let status = self.line_status();
                self.overrun = false;
                status.bits()
            }
            offset::MODEM_STATUS => {
                let status = self.modem_status;
                self.modem_status.remove(ModemStatus::CHANGES);
                status.bits()
            }
            offset::SCRATCH => self.scratch,
            _ => 0xff,
        }
    }

    /// Writes a register; returns the byte that leaves the port, if one does.
    fn write(&mut self, register: u64, value: u8) -> Option<u8> {
        match register {
            offset::DATA if self.divisor_latch() => {
                self.divisor = self.divisor & 0xff00 | u16::from(value);
            }
            offset::DATA => {
                self.empty_pending = true;
                if self.loopback() {
                    self.receive(value);
                } else {
                    return Some(value);
                }
            }
            offset::INTERRUPT_ENABLE if self.divisor_latch() => {
                self.divisor = self.divisor & 0xff | u16::from(value) << 8;
            }
            offset::INTERRUPT_ENABLE => {
                let before = self.enable;
                self.enable = Enable::from_bits_truncate(value);
                // The transmitter is empty: enabling its interrupt raises it.
                if self.enable.difference(before).contains(Enable::TRANSMITTER_EMPTY) {
                    self.empty_pending = true;
                }
            }
            offset::IDENTIFICATION => {
                // Switching the FIFOs on or off clears them.
                if (value ^ self.fifo_control) & FCR_ENABLE != 0 || value & FCR_CLEAR_RECEIVE != 0 {
                    self.received.clear();
                }
                self.fifo_control = value;
            }
            offset::LINE_CONTROL => self.line_control = value,
            offset::MODEM_CONTROL => {
                self.modem_control = ModemControl::from_bits_truncate(value);
                self.update_modem_status();
            }
            offset::SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }
}

/// One serial port.
pub struct Uart16550 {
    state: TicketMutex<State>,
    line: Arc<dyn InterruptLine>,
    console: Arc<dyn ConsoleSink>,
}

impl Uart16550 {
    /// A port after reset that sends to `console`.
    pub fn new(line: Arc<dyn InterruptLine>, console: Arc<dyn ConsoleSink>) -> Self {
        Uart16550 { state: TicketMutex::new(State::new()), line, console }
    }

    /// Gives `bytes` to the receiver; returns how many it had space for. When
    /// there is space again, the console's `ready` is called.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        if state.loopback() {
            return 0;
        }
        let space = state.capacity().saturating_sub(state.received.len());
        let taken = bytes.get(..space).unwrap_or(bytes);
        state.received.extend(taken);
        self.drive(&mut state);
        taken.len()
    }

    fn drive(&self, state: &mut State) {
        // In loopback mode OUT2 goes to DCD and the interrupt is cut off.
        let connected = state.modem_control.contains(ModemControl::OUT2) && !state.loopback();
        let asserted = connected && state.identification() != IIR_NONE;
        if asserted != state.asserted {
            state.asserted = asserted;
            self.line.set(asserted);
        }
    }

    /// Lets the interrupt of a byte that was sent be a new edge: the line
    /// falls while the transmitter is busy and rises when it is empty again.
    fn pulse(&self, state: &mut State) {
        if state.asserted && state.identification() == IIR_TRANSMITTER_EMPTY {
            self.line.set(false);
            self.line.set(true);
        } else {
            self.drive(state);
        }
    }
}

impl ConsoleInput for Uart16550 {
    fn receive(&self, byte: u8) -> bool {
        Uart16550::receive(self, &[byte]) == 1
    }
}

impl Device for Uart16550 {
    fn read(&self, offset: u64, _: Width) -> Result<u64, BusFault> {
        let mut state = self.state.lock();
        let full = state.received.len() >= state.capacity();
        let value = state.read(offset);
        let has_space = full && state.received.len() < state.capacity();
        self.drive(&mut state);
        drop(state);
        if has_space {
            self.console.ready();
        }
        Ok(value.into())
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        let capacity = state.capacity().saturating_sub(state.received.len());
        let sent = state.write(offset, byte);
        let has_space = state.capacity().saturating_sub(state.received.len()) > capacity;
        if sent.is_some() {
            self.pulse(&mut state);
        } else {
            self.drive(&mut state);
        }
        drop(state);
        if let Some(byte) = sent {
            self.console.put(byte);
        }
        if has_space {
            self.console.ready();
        }
        Ok(())
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        let asserted = state.asserted;
        *state = State { asserted, ..State::new() };
        self.drive(&mut state);
    }
}
