//! Which serial port the pins of a Raspberry Pi's header carry.

use crate::Registers;

/// `GPFSEL1`: functions of the pins 10 to 19, three bits each.
const FUNCTIONS_10_TO_19: usize = 0x04;
/// Pin 14, the transmitter on the header.
const TRANSMITTER_SHIFT: u32 = 12;
const FUNCTION_MASK: u32 = 0b111;
const ALTERNATE_0: u32 = 0b100;
const ALTERNATE_5: u32 = 0b010;

/// A serial port of BCM2835's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSerial {
    /// UART0, a PL011.
    Pl011,
    /// UART1, the mini-UART.
    MiniUart,
}

/// The serial port that the header carries, by the registers of the pin controller of BCM2835 to BCM2711. `None` if
/// firmware has set the pin to something else.
pub fn header_serial(registers: &impl Registers) -> Option<HeaderSerial> {
    match registers.read32(FUNCTIONS_10_TO_19) >> TRANSMITTER_SHIFT & FUNCTION_MASK {
        ALTERNATE_0 => Some(HeaderSerial::Pl011),
        ALTERNATE_5 => Some(HeaderSerial::MiniUart),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn the_function_of_pin_14_tells_the_port() {
        for (functions, port) in [
            (0b100_100 << 12, Some(HeaderSerial::Pl011)),
            (0b010_010 << 12 | 0b111, Some(HeaderSerial::MiniUart)),
            (0, None),
            (0b001_001 << 12, None),
        ] {
            let fake = Fake::default().with(4, functions);
            assert_eq!(header_serial(&&fake), port, "{functions:#b}");
        }
    }
}
