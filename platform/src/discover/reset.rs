//! What resets the machine.

use crate::Region;
use crate::tree::Tree;

/// No machine has more watchdogs of a kind; the limit bounds the time for a hostile tree.
const MAX_CANDIDATES: usize = 16;

/// A device that resets the machine where firmware doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetDevice {
    /// Power management block of Broadcom's BCM2835 family: a watchdog that is made to expire at once.
    Bcm2835Watchdog(Region),
    /// Apple's watchdog.
    AppleWatchdog(Region),
}

impl ResetDevice {
    /// Its registers.
    #[must_use]
    pub const fn registers(self) -> Region {
        match self {
            Self::Bcm2835Watchdog(region) | Self::AppleWatchdog(region) => region,
        }
    }
}

pub(super) fn discover(tree: &Tree) -> Option<ResetDevice> {
    let find = |names: &[&str]| {
        tree.compatible(names).take(MAX_CANDIDATES).find_map(|node| node.mapped_reg(0).ok())
    };
    find(&["brcm,bcm2835-pm-wdt", "brcm,bcm2835-pm"])
        .map(ResetDevice::Bcm2835Watchdog)
        .or_else(|| find(&["apple,wdt"]).map(ResetDevice::AppleWatchdog))
}
