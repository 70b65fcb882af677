//! Counts what operations cost that a hypervisor may have to carry out, the same on every architecture.
//!
//! Each row is a line `bench NAME FIGURE`, in nanoseconds of the guest's counter. Where the counter advances by one
//! nanosecond an instruction (`-icount shift=0` and a counter of 1 GHz), a figure is the number of instructions, those of
//! the guest's own loop included, and repeats. `mode=` on the command line chooses what is counted:
//!
//! | mode | what |
//! |---|---|
//! | (none) | operations of one virtual CPU, then those of two |
//! | `shared` | a switch between two virtual CPUs that share a host CPU |
//! | `virtio` | a disk, and a packet to another machine in mode `echo` and back |
//! | `echo` | sends every packet back, for ever |
//! | `reset` | start and reset of the virtual machine, for ever |
//!
//! What only one architecture has is in its module `bench`, as is how each sends, waits and arms.

mod counter;
mod disk;
mod interrupts;
mod network;
mod restart;

use counter::{nanoseconds, row};
pub(crate) use counter::{repeat, sample};
pub(crate) use interrupts::taken;
pub(crate) use network::on_device;
pub(crate) use restart::Entry;

use crate::machine::bench as arch;
use crate::println;

/// Bytes between the first touches of memory: the largest block that is mapped at once and not always.
const BLOCK: u64 = 2 << 20;

/// Counts, and switches the machine off.
pub fn main() -> ! {
    match arch::option("mode") {
        Some("shared") => {
            arch::quiesce();
            interrupts::switch();
        }
        Some("virtio") => {
            arch::quiesce();
            disk::run();
            network::ask();
        }
        Some("echo") => {
            arch::quiesce();
            network::answer();
        }
        Some("reset") => restart::run(),
        _ => {
            arch::quiesce();
            repeat("loop", || {
                // SAFETY: nothing happens.
                unsafe { core::arch::asm!("nop", options(nostack)) };
            });
            arch::operations();
            first_touch();
            interrupts::alone();
            arch::end_of_interrupt();
            if arch::cpus() > 1 {
                interrupts::between();
            }
        }
    }
    println!("bench-end");
    arch::off()
}

/// Reads memory that nobody has touched, a block further each time.
fn first_touch() {
    const BLOCKS: u64 = 8;
    let first = arch::free_memory().next_multiple_of(BLOCK) + BLOCK;
    let mut ticks = 0;
    for block in 0..BLOCKS {
        let start = arch::now();
        // SAFETY: free memory of the guest's, which it has mapped.
        unsafe { ((first + block * BLOCK) as *const u64).read_volatile() };
        ticks += arch::now() - start;
    }
    row("first-touch", nanoseconds(ticks, BLOCKS));
}
