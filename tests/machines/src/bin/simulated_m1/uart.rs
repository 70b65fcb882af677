//! The S5L serial port, with the emulator's PL011 behind it.

use crate::gic::{read, write};

const PL011: usize = 0x0900_0000;
const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const INTERRUPT_MASK: usize = 0x38;
const MASKED_INTERRUPTS: usize = 0x40;
const INTERRUPT_CLEAR: usize = 0x44;
const FLAGS_RECEIVE_EMPTY: u32 = 1 << 4;
const FLAGS_TRANSMIT_FULL: u32 = 1 << 5;
const RECEIVE_INTERRUPTS: u32 = 1 << 4 | 1 << 6;

const UCON: usize = 0x04;
const UTRSTAT: usize = 0x10;
const UFSTAT: usize = 0x18;
const UTXH: usize = 0x20;
const URXH: usize = 0x24;
const UCON_RECEIVE_TIMEOUT: u32 = 1 << 9;
const UCON_RECEIVE_THRESHOLD: u32 = 1 << 12;
const UTRSTAT_RECEIVED: u32 = 1 << 0;
const UTRSTAT_SENT: u32 = 0b110;
const UTRSTAT_RECEIVE_THRESHOLD: u32 = 1 << 4;
const UTRSTAT_RECEIVE_TIMEOUT: u32 = 1 << 9;
/// As m1n1 leaves it: interrupt or polling in both directions.
const UCON_START: u32 = 0x5;

/// The registers that are only kept.
pub(crate) struct Uart {
    control: u32,
}

impl Uart {
    /// Before [`Uart::reset`].
    pub(crate) const fn new() -> Self {
        Uart { control: 0 }
    }

    pub(crate) fn reset(&mut self) {
        /// Eight bits, with FIFO.
        const LINE: u32 = 0x70;
        /// Both directions.
        const ON: u32 = 0x301;
        write(PL011 + LINE_CONTROL, LINE);
        write(PL011 + CONTROL, ON);
        self.control = UCON_START;
    }

    /// Whether the port's interrupt is up.
    pub(crate) fn interrupts(&self) -> bool {
        read(PL011 + MASKED_INTERRUPTS) != 0
    }

    pub(crate) fn read(&self, offset: usize) -> u32 {
        let received = read(PL011 + FLAGS) & FLAGS_RECEIVE_EMPTY == 0;
        match offset {
            UCON => self.control,
            UTRSTAT => {
                let mut status = UTRSTAT_SENT;
                if received {
                    status |= UTRSTAT_RECEIVED;
                }
                if self.interrupts() {
                    status |= UTRSTAT_RECEIVE_THRESHOLD | UTRSTAT_RECEIVE_TIMEOUT;
                }
                status
            }
            UFSTAT => u32::from(received),
            URXH => read(PL011 + DATA) & 0xff,
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, offset: usize, value: u32) {
        match offset {
            UCON => {
                self.control = value;
                let receive = UCON_RECEIVE_THRESHOLD | UCON_RECEIVE_TIMEOUT;
                let mask = if value & receive != 0 { RECEIVE_INTERRUPTS } else { 0 };
                write(PL011 + INTERRUPT_MASK, mask);
            }
            UTRSTAT if value & (UTRSTAT_RECEIVE_THRESHOLD | UTRSTAT_RECEIVE_TIMEOUT) != 0 => {
                write(PL011 + INTERRUPT_CLEAR, RECEIVE_INTERRUPTS);
            }
            UTXH => put(value as u8),
            _ => {}
        }
    }
}

/// Sends a byte.
pub(crate) fn put(byte: u8) {
    while read(PL011 + FLAGS) & FLAGS_TRANSMIT_FULL != 0 {}
    write(PL011 + DATA, byte.into());
}
