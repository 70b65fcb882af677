//! Power and reset registers of the machine: ACPI sleep and reset, the two
//! reset registers that PCs always had, and the ACPI power-management timer.

use super::clock::{Clock, NANOSECONDS_PER_SECOND, scale};
use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, Width};
use spin::mutex::TicketMutex;

/// Sleep control and status register (ACPI 4.8.3.7), one port.
pub const SLEEP_PORT: u16 = 0x600;
/// Reset register of the FADT, one port.
pub const RESET_PORT: u16 = 0x601;
/// Value for [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x01;
/// Power-management timer, four ports.
pub const TIMER_PORT: u16 = 0x608;
/// Keyboard controller: status and command port.
pub const KEYBOARD_PORT: u64 = 0x64;
/// Reset control register of PCI chip sets.
pub const PCI_RESET_PORT: u64 = 0xcf9;
/// Sleep type of the soft-off state, as `\_S5` gives it.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// Frequency of the power-management timer in Hz.
pub const TIMER_FREQUENCY: u64 = 3_579_545;

const SLEEP_TYPE_SHIFT: u32 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
const SLEEP_ENABLE: u8 = 1 << 5;

/// Keyboard controller commands that pulse output lines, with bit 0 (reset)
/// among them.
const KEYBOARD_PULSE: u8 = 0xf0;
const KEYBOARD_NO_RESET: u8 = 1 << 0;

/// PCI reset control: the change of this bit from 0 to 1 resets.
const PCI_RESET_CPU: u8 = 1 << 2;
/// PCI reset control: system reset, as opposed to INIT.
const PCI_RESET_SYSTEM: u8 = 1 << 1;

/// What a guest can ask of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerCommand {
    /// Turn off.
    Off,
    /// Restart.
    Reset,
}

/// Who carries out a [`PowerCommand`].
pub trait PowerControl: Send + Sync {
    /// Notes the command; the machine stops before the guest goes on.
    fn request(&self, command: PowerCommand);
}

/// ACPI sleep control and status at [`SLEEP_PORT`], and the FADT's reset
/// register behind it: two ports.
pub struct AcpiPower(pub Arc<dyn PowerControl>);

impl Device for AcpiPower {
    fn read(&self, _: u64, _: Width) -> Result<u64, BusFault> {
        // Never woke up from sleep.
        Ok(0)
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        let reset = u64::from(RESET_PORT.wrapping_sub(SLEEP_PORT));
        if offset == reset {
            if byte == RESET_VALUE {
                self.0.request(PowerCommand::Reset);
            }
        } else if byte & SLEEP_ENABLE != 0
            && byte >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_OFF
        {
            self.0.request(PowerCommand::Off);
        }
        Ok(())
    }

    fn reset(&self) {}
}

/// The keyboard controller at [`KEYBOARD_PORT`], as far as it resets.
///
/// Its status reads as zero: no key waits, and the controller takes commands.
pub struct KeyboardReset(pub Arc<dyn PowerControl>);

impl Device for KeyboardReset {
    fn read(&self, _: u64, _: Width) -> Result<u64, BusFault> {
        Ok(0)
    }

    fn write(&self, _: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        if byte & KEYBOARD_PULSE == KEYBOARD_PULSE && byte & KEYBOARD_NO_RESET == 0 {
            self.0.request(PowerCommand::Reset);
        }
        Ok(())
    }

    fn reset(&self) {}
}

/// The reset control register at [`PCI_RESET_PORT`].
pub struct PciReset {
    power: Arc<dyn PowerControl>,
    value: TicketMutex<u8>,
}

impl PciReset {
    /// The register after reset.
    pub fn new(power: Arc<dyn PowerControl>) -> Self {
        PciReset { power, value: TicketMutex::new(0) }
    }
}

impl Device for PciReset {
    fn read(&self, _: u64, _: Width) -> Result<u64, BusFault> {
        Ok((*self.value.lock()).into())
    }

    fn write(&self, _: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        let mut register = self.value.lock();
        let triggers = byte & !*register & PCI_RESET_CPU != 0;
        *register = byte & PCI_RESET_SYSTEM;
        drop(register);
        if triggers {
            self.power.request(PowerCommand::Reset);
        }
        Ok(())
    }

    fn reset(&self) {
        *self.value.lock() = 0;
    }
}

/// The ACPI power-management timer at [`TIMER_PORT`]: 32 bits that count up.
pub struct PowerTimer(pub Arc<dyn Clock>);

impl Device for PowerTimer {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        let ticks = scale(self.0.nanoseconds(), TIMER_FREQUENCY, NANOSECONDS_PER_SECOND);
        let register = ticks & Width::Word.mask();
        let shift = u32::try_from(offset.saturating_mul(8)).unwrap_or(u32::MAX);
        Ok(register.checked_shr(shift).unwrap_or(0) & width.mask())
    }

    fn write(&self, _: u64, _: Width, _: u64) -> Result<(), BusFault> {
        Ok(())
    }

    fn reset(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clock::fake::FakeClock;
    use alloc::vec::Vec;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Requests(Mutex<Vec<PowerCommand>>);

    impl PowerControl for Requests {
        fn request(&self, command: PowerCommand) {
            self.0.lock().unwrap().push(command);
        }
    }

    fn after(
        writes: &[(u64, u64)],
        device: impl FnOnce(Arc<dyn PowerControl>) -> Arc<dyn Device>,
    ) -> Vec<PowerCommand> {
        let requests = Arc::new(Requests::default());
        let device = device(requests.clone());
        for &(offset, value) in writes {
            device.write(offset, Width::Byte, value).unwrap();
        }
        let requests = requests.0.lock().unwrap();
        requests.clone()
    }

    #[test]
    fn the_sleep_register_powers_off_only_with_enable_and_type_5() {
        for (value, expected) in [(0x80, false), (0x34, true), (0x14, false), (0x30, false)] {
            let requests = after(&[(0, value)], |power| Arc::new(AcpiPower(power)));
            assert_eq!(requests == [PowerCommand::Off], expected, "{value:#x}");
        }
    }

    #[test]
    fn each_reset_register_resets() {
        use PowerCommand::Reset;
        assert_eq!(after(&[(1, 1)], |power| Arc::new(AcpiPower(power))), [Reset]);
        assert_eq!(after(&[(1, 0)], |power| Arc::new(AcpiPower(power))), []);
        assert_eq!(after(&[(0, 0xfe)], |power| Arc::new(KeyboardReset(power))), [Reset]);
        assert_eq!(after(&[(0, 0xff), (0, 0xaa)], |power| Arc::new(KeyboardReset(power))), []);
        let pci = |power| -> Arc<dyn Device> { Arc::new(PciReset::new(power)) };
        assert_eq!(after(&[(0, 0x02), (0, 0x06)], pci), [Reset]);
        assert_eq!(after(&[(0, 0x02)], pci), []);
    }

    #[test]
    fn the_keyboard_controller_is_always_ready() {
        let keyboard = KeyboardReset(Arc::new(Requests::default()));
        assert_eq!(keyboard.read(0, Width::Byte), Ok(0), "Linux would poll for seconds on bit 1");
    }

    #[test]
    fn the_timer_counts_at_its_frequency_and_wraps_at_32_bits() {
        let clock = Arc::new(FakeClock::default());
        let timer = PowerTimer(clock.clone());
        clock.set(NANOSECONDS_PER_SECOND);
        assert_eq!(timer.read(0, Width::Word), Ok(3_579_545));
        assert_eq!(timer.read(2, Width::Byte), Ok(3_579_545 >> 16));
        clock.set(u64::MAX);
        assert!(timer.read(0, Width::Word).unwrap() <= 0xffff_ffff);
        assert_eq!(timer.read(u64::MAX, Width::Byte), Ok(0), "no shift is too wide");
    }
}
