//! The host's serial ports: from a node of the device tree to a driver.

mod pl011;

use alloc::boxed::Box;

use drivers::serial::{Layout, Ns16550, S5l, Serial};
use platform::discover::{Console, ConsoleKind};

use crate::el2::device_registers::DeviceRegisters;
use crate::el2::uart::pl011::Pl011;

/// A serial port that any CPU may use.
pub(crate) type Port = Box<dyn Serial + Send + Sync>;

/// Maps a port's registers and gives its driver; `None` where there is none.
///
/// # Errors
/// Those of the map.
pub(crate) fn open(console: &Console) -> Result<Option<Port>, stage2::Error> {
    let registers = || DeviceRegisters::map(console.registers);
    let layout = Layout { shift: console.reg_shift, words: console.io_width == 4 };
    Ok(Some(match console.kind {
        ConsoleKind::Pl011 => Box::new(Pl011::new(registers()?)),
        ConsoleKind::Bcm2835Aux | ConsoleKind::Ns16550 => {
            Box::new(Ns16550::new(registers()?, layout))
        }
        ConsoleKind::S5l => Box::new(S5l::new(registers()?)),
        ConsoleKind::Unknown(_) => return Ok(None),
    }))
}
