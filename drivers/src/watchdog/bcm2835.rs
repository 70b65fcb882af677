//! The power management block of Broadcom's BCM2835 family, which holds the watchdog of the Raspberry Pi.

use crate::Registers;

/// `PM_RSTC`: what the watchdog does when it expires.
const CONTROL: usize = 0x1c;
/// `PM_RSTS`: survives the reset; tells the firmware what to start.
const STATUS: usize = 0x20;
/// `PM_WDOG`: what is left of the watchdog's time.
const TIME: usize = 0x24;

/// The upper byte of each register must be this for a write to count.
const PASSWORD: u32 = 0x5a00_0000;
const CONTROL_CONFIGURATION: u32 = 0x30;
const CONTROL_FULL_RESET: u32 = 0x20;
/// The six bits of the partition to start from are every second one from bit 0 on.
const STATUS_PARTITION: u32 = 0x555;
/// Partition 63: the firmware halts instead of starting anything.
const PARTITION_HALT: u32 = STATUS_PARTITION;
/// About 150 microseconds, in units of 1/65536 second.
const SOON: u32 = 10;

/// The watchdog.
#[derive(Debug)]
pub struct Bcm2835<R> {
    registers: R,
}

impl<R: Registers> Bcm2835<R> {
    /// The watchdog with these registers.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// Starts the machine again, in a moment.
    pub fn restart(&self) {
        self.expire(0);
    }

    /// Has the firmware turn the machine off, in a moment: as far as a board without a switch can be off.
    pub fn power_off(&self) {
        self.expire(PARTITION_HALT);
    }

    fn expire(&self, partition: u32) {
        let status = self.registers.read32(STATUS) & !(PASSWORD | STATUS_PARTITION);
        self.registers.write32(STATUS, PASSWORD | status | partition);
        self.registers.write32(TIME, PASSWORD | SOON);
        let control = self.registers.read32(CONTROL) & !(PASSWORD | CONTROL_CONFIGURATION);
        self.registers.write32(CONTROL, PASSWORD | control | CONTROL_FULL_RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn power_off_asks_for_the_partition_that_halts() {
        let fake = Fake::default().with(STATUS, 0x1000).with(CONTROL, 0x102);
        Bcm2835::new(&fake).power_off();
        assert_eq!(
            *fake.writes.borrow(),
            [(STATUS, 0x5a00_1555), (TIME, 0x5a00_000a), (CONTROL, 0x5a00_0122)]
        );
    }

    #[test]
    fn restart_forgets_an_earlier_power_off() {
        let fake = Fake::default().with(STATUS, 0x1555).with(CONTROL, 0x112);
        Bcm2835::new(&fake).restart();
        assert_eq!(
            *fake.writes.borrow(),
            [(STATUS, 0x5a00_1000), (TIME, 0x5a00_000a), (CONTROL, 0x5a00_0122)]
        );
    }
}
