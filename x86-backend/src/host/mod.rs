//! The host PC: start-up, descriptor tables, memory, interrupts, processors.

mod allocator;
mod apic;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod devices;
pub(crate) mod entropy;
mod entry;
mod faults;
mod firmware;
mod fpu;
pub(crate) mod input;
mod legacy;
pub(crate) mod memory;
pub(crate) mod msr;
mod paging;
mod percpu;
mod segments;
mod smp;
mod start;
pub(crate) mod timer;

use bunshin::address::CpuId;
use x86_backend::machine::layout;

pub(crate) use fpu::{FpuState, components};
pub(crate) use percpu::PerCpu;
pub(crate) use start::{give_up, release_others};

/// Width of this processor's physical addresses.
pub(crate) fn physical_bits() -> u32 {
    core::arch::x86_64::__cpuid(0x8000_0008).eax & 0xff
}

/// Width of guests' physical addresses.
pub(crate) fn address_bits() -> u32 {
    layout::address_bits(physical_bits())
}

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
    input::pump();
}

/// Serves a non-maskable interrupt that ended a guest's run.
pub(crate) fn serve_nmi() {
    // SAFETY: the gate of the non-maskable interrupt leads to its handler, which returns.
    unsafe { core::arch::asm!("int 2", options(nomem)) }
}

/// CR2, which the hypervisor changes only when it dies.
pub(crate) fn read_cr2() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}

/// Sets CR2.
pub(crate) fn write_cr2(value: u64) {
    // SAFETY: the hypervisor reads CR2 only after a page fault of its own, which sets it.
    unsafe { core::arch::asm!("mov cr2, {}", in(reg) value, options(nomem, nostack)) }
}

/// Waits until an interrupt has been served.
pub(crate) fn idle() {
    PerCpu::current().timer.arm();
    // STI takes effect after HLT has begun, so that no interrupt falls between.
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
    input::pump();
}

/// Turns the machine off.
pub(crate) fn power_off() -> ! {
    log::info!("all virtual machines have stopped");
    console::drain();
    firmware::power_off();
    faults::stop()
}
