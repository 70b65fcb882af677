//! The serial port of Apple's chips: Samsung's, as on S5L, with interrupts of its own. Registers are 32 bits wide
//! whatever their content, and accessed as such.

use super::{Serial, wait};
use crate::Registers;

/// `UCON`
const CONTROL: usize = 0x04;
/// `UTRSTAT`; its interrupt bits are cleared by writing ones.
const STATUS: usize = 0x10;
/// `UTXH`
const TRANSMIT: usize = 0x20;
/// `URXH`
const RECEIVE: usize = 0x24;

/// `UCON.RXTO_ENA`: bytes wait for long.
const CONTROL_RECEIVE_TIMEOUT: u32 = 1 << 9;
/// `UCON.RXTHRESH_ENA`: many bytes wait.
const CONTROL_RECEIVE_THRESHOLD: u32 = 1 << 12;
/// `UCON.TXTHRESH_ENA`
const CONTROL_TRANSMIT_THRESHOLD: u32 = 1 << 13;
/// `UTRSTAT.RXD`
const STATUS_DATA_READY: u32 = 1 << 0;
/// `UTRSTAT.TXBE`
const STATUS_BUFFER_EMPTY: u32 = 1 << 1;
/// `UTRSTAT.RXTHRESH`
const STATUS_RECEIVE_THRESHOLD: u32 = 1 << 4;
/// `UTRSTAT.RXTO`
const STATUS_RECEIVE_TIMEOUT: u32 = 1 << 9;

/// A port of this kind.
#[derive(Debug)]
pub struct S5l<R> {
    registers: R,
}

impl<R: Registers> S5l<R> {
    /// The port with these registers.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }
}

impl<R: Registers> Serial for S5l<R> {
    fn put(&self, byte: u8) {
        if wait(|| self.registers.read32(STATUS) & STATUS_BUFFER_EMPTY != 0) {
            self.registers.write32(TRANSMIT, byte.into());
        }
    }

    fn get(&self) -> Option<u8> {
        (self.registers.read32(STATUS) & STATUS_DATA_READY != 0)
            .then(|| self.registers.read32(RECEIVE) as u8)
    }

    fn enable_receive_interrupt(&self) {
        self.acknowledge_receive_interrupt();
        let control = self.registers.read32(CONTROL) & !CONTROL_TRANSMIT_THRESHOLD;
        self.registers
            .write32(CONTROL, control | CONTROL_RECEIVE_TIMEOUT | CONTROL_RECEIVE_THRESHOLD);
    }

    fn acknowledge_receive_interrupt(&self) {
        self.registers.write32(STATUS, STATUS_RECEIVE_THRESHOLD | STATUS_RECEIVE_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_byte_waits_for_the_buffer() {
        let fake = Fake::default().script(STATUS, &[0, 0x6]).with(STATUS, 0);
        S5l::new(&fake).put(b'x');
        assert_eq!(*fake.writes.borrow(), [(TRANSMIT, u32::from(b'x'))]);
    }

    #[test]
    fn a_byte_is_read_only_when_there_is_one() {
        let fake = Fake::default().script(STATUS, &[0x6, 0x7]).with(RECEIVE, 0xa5);
        let port = S5l::new(&fake);
        assert_eq!(port.get(), None);
        assert_eq!(port.get(), Some(0xa5));
    }

    #[test]
    fn received_bytes_interrupt_and_nothing_else_does() {
        // As m1n1 leaves it: polling in both directions.
        let fake = Fake::default().with(CONTROL, 0x5 | CONTROL_TRANSMIT_THRESHOLD);
        S5l::new(&fake).enable_receive_interrupt();
        assert_eq!(*fake.writes.borrow(), [(STATUS, 0x210), (CONTROL, 0x1205)]);
    }
}
