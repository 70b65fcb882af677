//! What it takes to start a virtual machine, and to reset it.

use guests::aarch64::psci;
use guests::aarch64::timer::{self, Timer};
use guests::println;

use super::counter::{nanoseconds, row};

/// Microseconds from the announcement of a reset to the reset.
const AHEAD: u64 = 5_000;

/// Virtual and physical counter.
pub(crate) fn counters() -> (u64, u64) {
    (Timer::Virtual.now(), Timer::Physical.now())
}

/// Says when the machine started, announces the next reset and carries it out. The reader subtracts: the start that
/// follows an announcement shows what the reset took.
pub(crate) fn run(virtual_time: u64, physical_time: u64) -> ! {
    row("start-virtual", nanoseconds(virtual_time, 1));
    row("start-physical", nanoseconds(physical_time, 1));
    let at = Timer::Physical.now() + timer::microseconds(AHEAD);
    row("reset-physical", nanoseconds(at, 1));
    println!("bench-end");
    while Timer::Physical.now() < at {}
    psci::call32(psci::function::SYSTEM_RESET, 0, 0, 0);
    psci::system_off()
}
