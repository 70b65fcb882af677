//! The host PC: start-up, descriptor tables, memory, interrupts, processors.

mod allocator;
mod apic;
mod console;
mod entry;
mod faults;
mod memory;
mod paging;
mod percpu;
mod segments;
mod smp;
mod start;
mod timer;
