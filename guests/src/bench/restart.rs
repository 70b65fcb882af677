//! What it takes to start a virtual machine, and to reset it.

use super::{arch, nanoseconds, row};
use crate::println;

/// Ticks from the announcement of a reset to the reset.
const AHEAD: u64 = 5_000_000;

/// When the guest executed its first instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Ticks since the machine was made or reset; `None` where no clock starts then.
    pub(crate) machine: Option<u64>,
    /// Ticks of a clock that a reset does not set back.
    pub(crate) host: u64,
}

/// Says when the machine started, announces the next reset and carries it out. The reader subtracts: the start that
/// follows an announcement shows what the reset took.
pub(super) fn run() -> ! {
    let entry = arch::entry();
    if let Some(machine) = entry.machine {
        row("start-virtual", nanoseconds(machine, 1));
    }
    row("start-physical", nanoseconds(entry.host, 1));
    let at = arch::host_time() + AHEAD;
    row("reset-physical", nanoseconds(at, 1));
    println!("bench-end");
    while arch::host_time() < at {}
    arch::reset()
}
