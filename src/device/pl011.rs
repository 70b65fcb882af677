//! The PL011 UART (Arm DDI 0183, "PrimeCell UART Technical Reference Manual").
//!
//! The transmitter is infinitely fast: a byte leaves the port with the write
//! of the data register. The receive timeout of 32 bit periods passes at once,
//! so that a guest never waits for input that is already there. Like other
//! virtual machines this one sends and receives even when the guest has not
//! enabled the port, because much early code relies on its boot loader to
//! have done so.
//!
//! Lock order: the port's own lock is held while its interrupt line is driven,
//! never while the console is called.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::mutex::SpinMutex;

use super::console::ConsoleSink;
use super::primecell::{Lane, identification};
use crate::bus::{BusFault, Device, InterruptLine, Width};
use crate::console::ConsoleInput;

/// Register offsets (DDI 0183, table 3-1).
mod offset {
    pub(super) const DR: u64 = 0x00;
    pub(super) const RSR_ECR: u64 = 0x04;
    pub(super) const FR: u64 = 0x18;
    pub(super) const ILPR: u64 = 0x20;
    pub(super) const IBRD: u64 = 0x24;
    pub(super) const FBRD: u64 = 0x28;
    pub(super) const LCR_H: u64 = 0x2c;
    pub(super) const CR: u64 = 0x30;
    pub(super) const IFLS: u64 = 0x34;
    pub(super) const IMSC: u64 = 0x38;
    pub(super) const RIS: u64 = 0x3c;
    pub(super) const MIS: u64 = 0x40;
    pub(super) const ICR: u64 = 0x44;
    pub(super) const DMACR: u64 = 0x48;
}

/// Flag register, `UARTFR`.
mod flag {
    pub(super) const CTS: u32 = 1 << 0;
    pub(super) const DSR: u32 = 1 << 1;
    pub(super) const DCD: u32 = 1 << 2;
    pub(super) const RXFE: u32 = 1 << 4;
    pub(super) const RXFF: u32 = 1 << 6;
    pub(super) const TXFE: u32 = 1 << 7;
    pub(super) const RI: u32 = 1 << 8;
}

/// The interrupts, as in `UARTIMSC`, `UARTRIS`, `UARTMIS` and `UARTICR`.
mod interrupt {
    pub(super) const RI: u32 = 1 << 0;
    pub(super) const CTS: u32 = 1 << 1;
    pub(super) const DCD: u32 = 1 << 2;
    pub(super) const DSR: u32 = 1 << 3;
    pub(super) const RX: u32 = 1 << 4;
    pub(super) const TX: u32 = 1 << 5;
    pub(super) const RT: u32 = 1 << 6;
    pub(super) const FE: u32 = 1 << 7;
    pub(super) const BE: u32 = 1 << 9;
    pub(super) const OE: u32 = 1 << 10;
    pub(super) const ALL: u32 = 0x7ff;
}

/// Line control register, `UARTLCR_H`.
mod line_control {
    pub(super) const BRK: u32 = 1 << 0;
    pub(super) const FEN: u32 = 1 << 4;
    pub(super) const ALL: u32 = 0xff;
}

/// u32 register, `UARTCR`.
mod control {
    pub(super) const UARTEN: u32 = 1 << 0;
    pub(super) const LBE: u32 = 1 << 7;
    pub(super) const TXE: u32 = 1 << 8;
    pub(super) const RXE: u32 = 1 << 9;
    pub(super) const DTR: u32 = 1 << 10;
    pub(super) const RTS: u32 = 1 << 11;
    pub(super) const OUT1: u32 = 1 << 12;
    pub(super) const OUT2: u32 = 1 << 13;
    pub(super) const ALL: u32 = 0xff87;
}

/// Error bits of a received character: bits 8 to 11 of `UARTDR`, bits 0 to 3 of `UARTRSR`.
mod error {
    pub(super) const FRAMING: u32 = 1 << 0;
    pub(super) const BREAK: u32 = 1 << 2;
    pub(super) const OVERRUN: u32 = 1 << 3;
    pub(super) const IN_DATA: u32 = 8;
    pub(super) const MASK: u32 = 0xf;
}

const ILPR_MASK: u32 = 0xff;
const IBRD_MASK: u32 = 0xffff;
const FBRD_MASK: u32 = 0x3f;
const DMACR_MASK: u32 = 0x7;
/// `UARTIFLS`: both triggers at half of the FIFO.
const IFLS_RESET: u32 = 0x12;
const IFLS_MASK: u32 = 0x3f;
const IFLS_RX_SHIFT: u32 = 3;
const IFLS_RX_MASK: u32 = 0x7;
/// Part number 0x011, designer 0x41 (Arm); the revision is added.
const PERIPHERAL_ID: u32 = 0x0004_1011;
const PERIPHERAL_REVISION_SHIFT: u32 = 20;

/// Revisions of the PL011, which differ in the depth of their FIFOs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// r1p1, with FIFOs of 16 characters; what QEMU's `virt` machine shows.
    R1p1,
    /// r1p5, with FIFOs of 32 characters.
    R1p5,
}

impl Revision {
    /// Depth of each FIFO in characters.
    pub const fn depth(self) -> usize {
        match self {
            Revision::R1p1 => 16,
            Revision::R1p5 => 32,
        }
    }

    const fn peripheral_id(self) -> u32 {
        let revision = match self {
            Revision::R1p1 => 1,
            Revision::R1p5 => 3,
        };
        PERIPHERAL_ID | revision << PERIPHERAL_REVISION_SHIFT
    }
}

/// Whether all of `bits` are set in `value`.
const fn has(value: u32, bits: u32) -> bool {
    value & bits == bits
}

/// `bits` when `condition` holds, else none.
const fn when(condition: bool, bits: u32) -> u32 {
    if condition { bits } else { 0 }
}

struct State {
    /// Received characters with their error bits, oldest first. Its capacity is
    /// the FIFO's depth from the start, so that it never allocates again.
    receive: VecDeque<u32>,
    /// Errors of the character last read, and a latched overrun.
    status: u32,
    low_power: u32,
    baud_integer: u32,
    baud_fraction: u32,
    line_control: u32,
    control: u32,
    fifo_levels: u32,
    dma: u32,
    mask: u32,
    raw: u32,
    /// Level of the interrupt line as last driven.
    asserted: bool,
    /// Input has been refused since there was last space.
    refused: bool,
    /// Modem inputs, which come from the modem outputs in loop-back.
    modem: u32,
}

impl State {
    fn new(receive: VecDeque<u32>) -> Self {
        State {
            receive,
            status: 0,
            low_power: 0,
            baud_integer: 0,
            baud_fraction: 0,
            line_control: 0,
            control: control::TXE | control::RXE,
            fifo_levels: IFLS_RESET,
            dma: 0,
            mask: 0,
            raw: 0,
            asserted: false,
            refused: false,
            modem: 0,
        }
    }
}

/// One PL011.
pub struct Pl011 {
    revision: Revision,
    sink: Arc<dyn ConsoleSink>,
    line: Arc<dyn InterruptLine>,
    /// The flag register, which drivers poll: read without the lock.
    flags: AtomicU32,
    state: SpinMutex<State>,
}

impl Pl011 {
    /// Length of the register window in bytes.
    pub const WINDOW: u64 = 0x1000;

    /// A port after reset that sends to `sink` and interrupts through `line`.
    pub fn new(
        revision: Revision,
        sink: Arc<dyn ConsoleSink>,
        line: Arc<dyn InterruptLine>,
    ) -> Self {
        let state = State::new(VecDeque::with_capacity(revision.depth()));
        let flags = AtomicU32::new(flag::TXFE | flag::RXFE);
        Pl011 { revision, sink, line, flags, state: SpinMutex::new(state) }
    }

    /// Whether [`ConsoleInput::receive`] would take a byte now.
    pub fn can_receive(&self) -> bool {
        let state = self.state.lock();
        state.receive.len() < self.depth(&state)
    }

    /// Characters that the receiver holds: a FIFO, or one holding register.
    fn depth(&self, state: &State) -> usize {
        if state.line_control & line_control::FEN != 0 { self.revision.depth() } else { 1 }
    }

    /// Characters in the receiver that raise the receive interrupt (DDI 0183, `UARTIFLS`).
    fn trigger(&self, state: &State) -> usize {
        let eighths = match state.fifo_levels >> IFLS_RX_SHIFT & IFLS_RX_MASK {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 6,
            _ => 7,
        };
        (self.depth(state).saturating_mul(eighths) >> 3).max(1)
    }

    /// Brings the flag register up to date with receiver and modem inputs.
    fn publish(&self, state: &State) {
        let held = state.receive.len();
        let flags = flag::TXFE
            | state.modem
            | when(held == 0, flag::RXFE)
            | when(held >= self.depth(state), flag::RXFF);
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Drives the interrupt line when its level has changed.
    fn drive(&self, state: &mut State) {
        let asserted = state.raw & state.mask != 0;
        if asserted != state.asserted {
            state.asserted = asserted;
            self.line.set(asserted);
        }
    }

    /// Puts a character with its error bits into the receiver, or notes an overrun.
    fn push(&self, state: &mut State, character: u32) {
        if state.receive.len() >= self.depth(state) {
            state.status |= error::OVERRUN;
            state.raw |= interrupt::OE;
            return;
        }
        state.receive.push_back(character);
        self.publish(state);
        state.raw |= interrupt::RT;
        if state.receive.len() >= self.trigger(state) {
            state.raw |= interrupt::RX;
        }
        if character & error::BREAK << error::IN_DATA != 0 {
            state.raw |= interrupt::BE;
        }
        if character & error::FRAMING << error::IN_DATA != 0 {
            state.raw |= interrupt::FE;
        }
    }

    /// Takes the oldest character for a read of the data register.
    fn pop(&self, state: &mut State) -> u32 {
        let overrun = state.status & error::OVERRUN;
        let character = state.receive.pop_front().unwrap_or(0) | overrun << error::IN_DATA;
        self.publish(state);
        state.status = character >> error::IN_DATA & error::MASK;
        // The timeout starts anew with each character read, and passes at once.
        state.raw &= !interrupt::RT;
        state.raw |= when(!state.receive.is_empty(), interrupt::RT);
        if state.receive.len() < self.trigger(state) {
            state.raw &= !interrupt::RX;
        }
        character
    }

    /// Sends one character; returns it when it leaves the port.
    fn transmit(&self, state: &mut State, byte: u8) -> Option<u8> {
        // The FIFO is empty again at once and so passes its trigger level.
        state.raw |= interrupt::TX;
        if state.control & control::LBE == 0 {
            return Some(byte);
        }
        if has(state.control, control::UARTEN | control::TXE | control::RXE) {
            self.push(state, u32::from(byte));
        }
        None
    }

    fn set_line_control(&self, state: &mut State, value: u32) {
        let changed = state.line_control ^ value;
        state.line_control = value;
        if has(changed, line_control::FEN) {
            state.receive.clear();
            state.raw &= !(interrupt::RX | interrupt::RT);
        }
        self.publish(state);
        let looped = control::LBE | control::UARTEN | control::RXE;
        if has(changed & value, line_control::BRK) && has(state.control, looped) {
            self.push(state, (error::BREAK | error::FRAMING) << error::IN_DATA);
        }
    }

    fn set_control(&self, state: &mut State, value: u32) {
        state.control = value;
        let mut modem = 0;
        for (output, input, interrupt) in [
            (control::RTS, flag::CTS, interrupt::CTS),
            (control::DTR, flag::DSR, interrupt::DSR),
            (control::OUT1, flag::DCD, interrupt::DCD),
            (control::OUT2, flag::RI, interrupt::RI),
        ] {
            modem |= when(has(value, control::LBE | output), input);
            state.raw |= when((modem ^ state.modem) & input != 0, interrupt);
        }
        state.modem = modem;
        self.publish(state);
    }

    /// Takes a received character for the guest.
    fn read_data(&self) -> u32 {
        let mut state = self.state.lock();
        let character = self.pop(&mut state);
        self.drive(&mut state);
        let ready = self.take_ready(&mut state);
        drop(state);
        if ready {
            self.sink.ready();
        }
        character
    }

    /// Reads a register, or part of one.
    #[inline(never)]
    fn read_lane(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        let lane = Lane::of(offset, width)?;
        Ok(lane.extract(self.read_register(lane.register)))
    }

    /// Reads the register at an offset.
    fn read_register(&self, register: u64) -> u32 {
        if register == offset::DR {
            return self.read_data();
        }
        let state = self.state.lock();
        match register {
            offset::FR => self.flags.load(Ordering::Relaxed),
            offset::RSR_ECR => state.status,
            offset::ILPR => state.low_power,
            offset::IBRD => state.baud_integer,
            offset::FBRD => state.baud_fraction,
            offset::LCR_H => state.line_control,
            offset::CR => state.control,
            offset::IFLS => state.fifo_levels,
            offset::IMSC => state.mask,
            offset::RIS => state.raw,
            offset::MIS => state.raw & state.mask,
            offset::DMACR => state.dma,
            other => identification(self.revision.peripheral_id(), other).unwrap_or(0),
        }
    }

    /// Whether the far end waits for space that there is now; forgets that it waits.
    fn take_ready(&self, state: &mut State) -> bool {
        let ready = state.refused && state.receive.len() < self.depth(state);
        state.refused &= !ready;
        ready
    }
}

impl ConsoleInput for Pl011 {
    fn receive(&self, byte: u8) -> bool {
        let mut state = self.state.lock();
        if state.receive.len() >= self.depth(&state) {
            state.refused = true;
            return false;
        }
        self.push(&mut state, u32::from(byte));
        self.drive(&mut state);
        true
    }
}

impl Device for Pl011 {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        // Drivers poll the flags.
        if offset == offset::FR && width == Width::Word {
            return Ok(self.flags.load(Ordering::Relaxed).into());
        }
        self.read_lane(offset, width)
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusFault> {
        let lane = Lane::of(offset, width)?;
        let value = lane.word(value);
        let mut state = self.state.lock();
        let mut sent = None;
        match lane.register {
            offset::DR => sent = self.transmit(&mut state, value.to_le_bytes()[0]),
            offset::RSR_ECR => state.status = 0,
            offset::ILPR => state.low_power = value & ILPR_MASK,
            offset::IBRD => state.baud_integer = value & IBRD_MASK,
            offset::FBRD => state.baud_fraction = value & FBRD_MASK,
            offset::LCR_H => {
                self.set_line_control(&mut state, value & line_control::ALL);
            }
            offset::CR => self.set_control(&mut state, value & control::ALL),
            offset::IFLS => state.fifo_levels = value & IFLS_MASK,
            offset::IMSC => state.mask = value & interrupt::ALL,
            offset::ICR => state.raw &= !value,
            offset::DMACR => state.dma = value & DMACR_MASK,
            _ => {}
        }
        self.drive(&mut state);
        let ready = self.take_ready(&mut state);
        drop(state);
        if let Some(byte) = sent {
            self.sink.put(byte);
        }
        if ready {
            self.sink.ready();
        }
        Ok(())
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        let mut receive = core::mem::take(&mut state.receive);
        receive.clear();
        let (asserted, refused) = (state.asserted, state.refused);
        *state = State { asserted, refused, ..State::new(receive) };
        self.publish(&state);
        self.drive(&mut state);
        let ready = self.take_ready(&mut state);
        drop(state);
        if ready {
            self.sink.ready();
        }
    }
}

#[cfg(test)]
mod tests;
