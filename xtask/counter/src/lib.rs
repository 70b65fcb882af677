//! A plugin for QEMU's software emulation that counts the instructions that a machine executes, those of a hypervisor
//! apart from all others, and writes both at marks.
//!
//! Each instruction counts when it is executed, by an addition that the emulator puts in front of it. So the count is
//! exact whatever interrupts a block of instructions, and it does not depend on time: a CPU that idles counts nothing.
//!
//! | option | |
//! |---|---|
//! | `hypervisor=FIRST-END` | physical addresses of the hypervisor's image; without it, nothing is the hypervisor's |
//! | `out=FILE` | where lines go |
//!
//! A line is `mark HYPERVISOR OTHERS` whenever a program executes `HINT #127`, and `end HYPERVISOR OTHERS` at last.
#![deny(missing_docs)]

mod options;
// Tests have no emulator to link with.
#[cfg(not(test))]
pub mod plugin;
