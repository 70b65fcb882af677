//! The host PC: start-up, descriptor tables, memory, interrupts, processors.

mod allocator;
mod apic;
pub(crate) mod clock;
pub(crate) mod console;
mod entry;
mod faults;
mod firmware;
mod fpu;
pub(crate) mod memory;
pub(crate) mod msr;
mod paging;
mod percpu;
mod segments;
mod smp;
mod start;
pub(crate) mod timer;

use bunshin::address::CpuId;

pub(crate) use fpu::{FpuState, components};
pub(crate) use percpu::PerCpu;
pub(crate) use start::{give_up, release_others};

/// Interrupts host CPU `cpu`, so that it leaves its guest or its idling.
pub(crate) fn kick(cpu: CpuId) {
    if let Some(id) = smp::apic_id(cpu.0) {
        apic::kick(id);
    }
}

/// Serves the interrupts that wait on this host CPU.
pub(crate) fn serve_interrupts() {
    // Interrupts are taken between the two instructions after STI's shadow.
    x86_64::instructions::interrupts::enable();
    x86_64::instructions::nop();
    x86_64::instructions::interrupts::disable();
}

/// Waits until an interrupt has been served.
pub(crate) fn idle() {
    // STI takes effect after HLT has begun, so that no interrupt falls between.
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}

/// Turns the machine off.
pub(crate) fn power_off() -> ! {
    log::info!("all virtual machines have stopped");
    firmware::power_off();
    faults::stop()
}
