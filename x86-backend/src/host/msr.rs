//! Host MSRs that guests' state passes through.

use core::arch::x86_64::__cpuid;

use x86_64::registers::model_specific::Msr;

/// IA32_TSC_AUX.
const TSC_AUX: u32 = 0xc000_0103;
/// CPUID 8000_0001h EDX: RDTSCP.
const CPUID_RDTSCP: u32 = 1 << 27;

/// Whether the processor has RDTSCP and the register that it reads.
pub(crate) fn has_tsc_aux() -> bool {
    __cpuid(0x8000_0001).edx & CPUID_RDTSCP != 0
}

/// Sets what RDTSCP and RDPID give, which the hypervisor does not use.
pub(crate) fn write_tsc_aux(value: u64) {
    if has_tsc_aux() {
        // SAFETY: the register exists; it takes any 32-bit value.
        unsafe { Msr::new(TSC_AUX).write(value & 0xffff_ffff) }
    }
}
