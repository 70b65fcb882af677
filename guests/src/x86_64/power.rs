//! Turning the machine off and restarting it.

use super::acpi::acpi;
use super::{cpu, port};

/// Sleep control register of hardware-reduced machines: type 5, enable.
const SLEEP_OFF: u8 = 5 << 2 | 1 << 5;
/// Sleep control register of the hypervisor's guests, should the tables not be read yet.
const USUAL_SLEEP_PORT: u16 = 0x600;
/// PM1a control register of QEMU's PCs, and what turns them off.
const QEMU_PM1_CONTROL: u16 = 0x604;
const QEMU_OFF: u16 = 1 << 13;

/// Turns the machine off.
pub fn off() -> ! {
    let sleep = acpi().map_or(USUAL_SLEEP_PORT, |acpi| acpi.sleep);
    if acpi().is_none_or(|acpi| acpi.reduced) {
        port::write8(sleep, SLEEP_OFF);
    }
    port::write16(QEMU_PM1_CONTROL, QEMU_OFF);
    cpu::stop()
}

/// Restarts the machine by the register that the tables name.
pub fn reset() -> ! {
    if let Some(acpi) = acpi() {
        let (register, value) = acpi.reset;
        port::write8(register, value);
    }
    cpu::stop()
}
