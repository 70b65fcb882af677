//! The pair of 8259 interrupt controllers, which stays silent.

use x86_64::instructions::port::Port;

/// Data ports of the pair: the interrupt masks.
const MASKS: [u16; 2] = [0x21, 0xa1];
/// All inputs.
const ALL: u8 = 0xff;

/// Masks every input.
pub(super) fn silence() {
    for port in MASKS {
        // SAFETY: the pair belongs to this module; without it the ports lead nowhere.
        unsafe { Port::new(port).write(ALL) }
    }
}
