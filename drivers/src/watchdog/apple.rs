//! The watchdog of Apple's chips. It can restart the machine but not turn it off.

use crate::Registers;

/// Time since it was started.
const COUNT: usize = 0x10;
/// Time at which it resets the chip.
const ALARM: usize = 0x14;
const CONTROL: usize = 0x1c;

const CONTROL_RESET_ENABLE: u32 = 1 << 2;
/// A twentieth of a second at 24 MHz.
const SOON: u32 = 0x10_0000;

/// The watchdog.
#[derive(Debug)]
pub struct Apple<R> {
    registers: R,
}

impl<R: Registers> Apple<R> {
    /// The watchdog with these registers.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Starts the machine again, in a moment.
    pub fn restart(&self) {
        self.registers.write32(ALARM, SOON);
        self.registers.write32(COUNT, 0);
        self.registers.write32(CONTROL, CONTROL_RESET_ENABLE);
    }

    /// Turns it off. A boot loader may have left it running.
    pub fn disable(&self) {
        self.registers.write32(CONTROL, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_restart_is_due_soon_and_counts_from_zero() {
        let fake = Fake::default();
        Apple::new(&fake).restart();
        assert_eq!(*fake.writes.borrow(), [(ALARM, 0x10_0000), (COUNT, 0), (CONTROL, 4)]);
    }
}
