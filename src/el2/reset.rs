//! Turning the host off: by firmware where there is PSCI, else by its watchdog.

use drivers::watchdog::{Apple, Bcm2835};
use platform::discover::ResetDevice;
use smccc::{Hvc, Smc};

use crate::el2::device_registers::DeviceRegisters;
use crate::el2::fault;
use crate::el2::host::Host;
use crate::el2::smp::Conduit;
use crate::el2::stack;

/// A watchdog that can turn the machine off.
pub(crate) type Watchdog = Bcm2835<DeviceRegisters>;

/// Maps the registers of the machine's watchdog. It is of use later only if it can turn the machine off, but no
/// watchdog may run from now on.
///
/// # Errors
/// Those of the map.
pub(crate) fn open_watchdog(device: &ResetDevice) -> Result<Option<Watchdog>, stage2::Error> {
    Ok(match *device {
        ResetDevice::Bcm2835Watchdog(region) => Some(Bcm2835::new(DeviceRegisters::map(region)?)),
        ResetDevice::AppleWatchdog(region) => {
            Apple::new(DeviceRegisters::map(region)?).disable();
            None
        }
    })
}

impl Host {
    /// Turns the machine off, or says that it cannot.
    pub(crate) fn power_off(&self) -> ! {
        if let Some((used, size)) = stack::deepest() {
            log::info!("stacks: at most {used} of {size} bytes used");
        }
        let refused = match self.conduit {
            Some(Conduit::Smc) => smccc::psci::system_off::<Smc>().err(),
            Some(Conduit::Hvc) => smccc::psci::system_off::<Hvc>().err(),
            None => None,
        };
        if let Some(reason) = refused {
            log::warn!("the firmware does not turn this machine off: {reason}");
        }
        match &self.watchdog {
            Some(watchdog) => watchdog.power_off(),
            None => log::info!("this machine cannot turn itself off; you may do it now"),
        }
        fault::halt()
    }
}
