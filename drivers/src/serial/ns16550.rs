//! The 8250 and 16550 family, and the mini-UART of Broadcom's BCM2835, which is compatible as far as this driver goes
//! (BCM2835 ARM Peripherals, 2.2).

use super::{Serial, wait};
use crate::Registers;

/// Receiver buffer, transmitter holding register.
const DATA: usize = 0;
const INTERRUPT_ENABLE: usize = 1;
const MODEM_CONTROL: usize = 4;
const LINE_STATUS: usize = 5;

/// `IER`: received data. The first edition of Broadcom's manual has this bit and the next exchanged.
const IER_RECEIVED: u8 = 1 << 0;
/// `IER`: transmitter holding register empty.
const IER_EMPTY: u8 = 1 << 1;
/// `MCR.OUT2`: many boards let the interrupt out only with it. The mini-UART does not have it.
const MCR_OUT2: u8 = 1 << 3;
const LSR_DATA_READY: u8 = 1 << 0;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5;

/// How the registers lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// They are 2 to the power of this many bytes apart.
    pub shift: u32,
    /// They are accessed as 32-bit words, not as bytes.
    pub words: bool,
}

/// A port of that family.
#[derive(Debug)]
pub struct Ns16550<R> {
    registers: R,
    layout: Layout,
}

impl<R: Registers> Ns16550<R> {
    /// The port with these registers.
    pub const fn new(registers: R, layout: Layout) -> Self {
        Self { registers, layout }
    }

    fn read(&self, number: usize) -> u8 {
        let offset = number.wrapping_shl(self.layout.shift);
        if self.layout.words {
            self.registers.read32(offset) as u8
        } else {
            self.registers.read8(offset)
        }
    }

    fn write(&self, number: usize, value: u8) {
        let offset = number.wrapping_shl(self.layout.shift);
        if self.layout.words {
            self.registers.write32(offset, value.into());
        } else {
            self.registers.write8(offset, value);
        }
    }
}

impl<R: Registers> Serial for Ns16550<R> {
    fn put(&self, byte: u8) {
        if wait(|| self.read(LINE_STATUS) & LSR_TRANSMITTER_EMPTY != 0) {
            self.write(DATA, byte);
        }
    }

    fn try_put(&self, byte: u8) -> bool {
        let space = self.read(LINE_STATUS) & LSR_TRANSMITTER_EMPTY != 0;
        if space {
            self.write(DATA, byte);
        }
        space
    }

    fn want_space(&self, wanted: bool) {
        self.write(INTERRUPT_ENABLE, IER_RECEIVED | if wanted { IER_EMPTY } else { 0 });
    }

    fn get(&self) -> Option<u8> {
        (self.read(LINE_STATUS) & LSR_DATA_READY != 0).then(|| self.read(DATA))
    }

    fn enable_receive_interrupt(&self) {
        self.write(MODEM_CONTROL, self.read(MODEM_CONTROL) | MCR_OUT2);
        self.write(INTERRUPT_ENABLE, IER_RECEIVED);
    }

    fn acknowledge_receive_interrupt(&self) {
        // Reading the data does that.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const MINI: Layout = Layout { shift: 2, words: true };

    #[test]
    fn a_byte_waits_for_space() {
        for (layout, distance) in [(MINI, 4), (Layout { shift: 0, words: false }, 1)] {
            let fake = Fake::default()
                .script(5 * distance, &[0, 0, 0x01])
                .with(5 * distance, LSR_TRANSMITTER_EMPTY.into());
            Ns16550::new(&fake, layout).put(b'x');
            assert_eq!(*fake.reads.borrow(), 4);
            assert_eq!(*fake.writes.borrow(), [(0, u32::from(b'x'))]);
        }
    }

    #[test]
    fn a_port_that_is_off_swallows_a_byte_and_returns() {
        let fake = Fake::default();
        Ns16550::new(&fake, MINI).put(b'x');
        assert!(fake.writes.borrow().is_empty());
    }

    #[test]
    fn a_byte_that_does_not_fit_is_left_to_the_caller() {
        let fake = Fake::default().script(5, &[0, 0x20]);
        let port = Ns16550::new(&fake, Layout { shift: 0, words: false });
        assert!(!port.try_put(b'x'));
        port.want_space(true);
        assert_eq!(fake.value(1), 0x03);
        assert!(port.try_put(b'x'));
        port.want_space(false);
        assert_eq!(*fake.writes.borrow(), [(1, 0x03), (0, u32::from(b'x')), (1, 0x01)]);
    }

    #[test]
    fn a_byte_is_read_only_when_there_is_one() {
        let fake = Fake::default().script(20, &[0x60, 0x61]).with(0, u32::from(b'a'));
        let port = Ns16550::new(&fake, MINI);
        assert_eq!(port.get(), None);
        assert_eq!(*fake.reads.borrow(), 1, "reading without data would clear an error");
        assert_eq!(port.get(), Some(b'a'));
    }

    #[test]
    fn only_received_data_interrupts() {
        let fake = Fake::default().with(16, 0x03);
        Ns16550::new(&fake, MINI).enable_receive_interrupt();
        assert_eq!(fake.value(4), 0x01);
        assert_eq!(fake.value(16), 0x0b, "modem lines stay as they are");
    }
}
