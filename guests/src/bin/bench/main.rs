//! Counts what operations cost that a hypervisor may have to carry out.
//!
//! Each row is a line `bench NAME FIGURE`, in nanoseconds of the virtual counter. Where the counter advances by one
//! nanosecond an instruction (`-icount shift=0` and a counter of 1 GHz), a figure is the number of instructions, those of
//! the guest's own loop included, and repeats. `mode=` on the command line chooses what is counted:
//!
//! | mode | what |
//! |---|---|
//! | (none) | operations of one virtual CPU, then those of two |
//! | `shared` | a switch between two virtual CPUs that share a host CPU |
//! | `reset` | start and reset of the virtual machine, for ever |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod counter;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod interrupts;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod operations;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod restart;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use super::{interrupts, operations, restart};
    use guests::aarch64::{machine, psci, quiesce, smp};
    use guests::{entry, println};

    fn main() -> ! {
        let (virtual_time, physical_time) = restart::counters();
        match machine().option("mode") {
            Some("shared") => {
                quiesce();
                interrupts::switch();
            }
            Some("reset") => restart::run(virtual_time, physical_time),
            _ => {
                quiesce();
                operations::run();
                interrupts::alone();
                if smp::count() > 1 {
                    interrupts::between();
                }
            }
        }
        println!("bench-end");
        psci::system_off()
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
