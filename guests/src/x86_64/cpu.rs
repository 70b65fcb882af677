//! One processor: CPUID, model-specific and control registers, interrupt flag.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

use super::exception::Fault;

/// CPUID leaf 1, ECX: x2APIC.
pub const X2APIC: u32 = 1 << 21;
/// CPUID leaf 1, ECX: the local APIC's timer has a TSC deadline.
pub const TSC_DEADLINE: u32 = 1 << 24;
/// CPUID leaf 1, ECX: a hypervisor is below.
pub const HYPERVISOR: u32 = 1 << 31;

/// What CPUID says.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Whether a hypervisor with KVM's interface is below.
pub fn has_kvm_interface() -> bool {
    let leaf = cpuid(0x4000_0000, 0);
    let name = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    cpuid(1, 0).ecx & HYPERVISOR != 0 && [leaf.ebx, leaf.ecx, leaf.edx] == name
}

/// Reads a model-specific register that exists.
pub fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading a register changes nothing; one that does not exist panics by exception.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register that exists.
pub fn write_msr(index: u32, value: u64) {
    // SAFETY: callers write registers of devices, none that Rust's code depends on.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
}

/// Reads a model-specific register, or says which exception came.
///
/// # Errors
/// The exception.
pub fn try_read_msr(index: u32) -> Result<u64, Fault> {
    let (mut low, mut high) = (0u32, 0u32);
    crate::attempt!("rdmsr", in("ecx") index, inout("eax") low, inout("edx") high)?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register, or says which exception came.
///
/// # Errors
/// The exception.
pub fn try_write_msr(index: u32, value: u64) -> Result<(), Fault> {
    crate::attempt!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
}

/// The time-stamp counter, read after all instructions before.
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Takes interrupts for the length of a few instructions.
pub fn interrupt_window() {
    // SAFETY: handlers keep every register.
    unsafe { asm!("sti", "nop", "nop", "cli") }
}

/// Waits for an interrupt, which is taken.
pub fn halt() {
    // SAFETY: handlers keep every register. STI takes effect after HLT has begun.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: handlers keep every register.
    unsafe { asm!("sti") }
}

/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: nothing is interrupted any more.
    unsafe { asm!("cli") }
}

/// Halts for ever.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing comes after it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Sets the task priority through CR8.
pub fn set_task_priority(class: u64) {
    // SAFETY: changes only which interrupts are taken.
    unsafe { asm!("mov cr8, {}", in(reg) class, options(nostack)) }
}

/// The task priority from CR8.
pub fn task_priority() -> u64 {
    let class;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr8", out(reg) class, options(nomem, nostack)) }
    class
}
