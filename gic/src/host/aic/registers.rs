//! The system registers that only Apple's CPUs have, and the timers' that tell who raised FIQ. On other architectures
//! than AArch64, where the driver is only tested, they are plain variables.

pub(super) use implementation::*;

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod implementation {
    use aarch64_cpu::asm::barrier;

    macro_rules! read {
        ($name:literal) => {{
            let value: u64;
            // SAFETY: reading this register changes nothing; the machine with an AIC has it.
            unsafe {
                core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
            }
            value
        }};
    }

    macro_rules! write {
        ($name:literal, $value:expr) => {{
            let value: u64 = $value;
            // SAFETY: this register concerns interrupts only, not memory.
            unsafe {
                core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack, preserves_flags));
            }
        }};
    }

    /// `MIDR_EL1`.
    pub(in super::super) fn read_main_id() -> u64 {
        read!("MIDR_EL1")
    }

    /// `IPI_SR`: bit 0 says that a fast IPI has arrived.
    pub(in super::super) fn read_ipi_status() -> u64 {
        read!("S3_5_C15_C1_1")
    }

    /// Bit 0 written as one clears it.
    pub(in super::super) fn write_ipi_status(value: u64) {
        write!("S3_5_C15_C1_1", value);
    }

    /// `IPI_RR_LOCAL`: sends a fast IPI to a CPU of the same cluster, named by Aff0.
    pub(in super::super) fn write_ipi_local(value: u64) {
        barrier::dsb(barrier::ISHST);
        write!("S3_5_C15_C0_0", value);
    }

    /// `IPI_RR_GLOBAL`: sends one to any CPU: Aff0 in bits 7:0, Aff1 in bits 23:16.
    pub(in super::super) fn write_ipi_global(value: u64) {
        barrier::dsb(barrier::ISHST);
        write!("S3_5_C15_C0_1", value);
    }

    /// `VM_TMR_FIQ_ENA`: which timers of the guest raise FIQ: bit 0 virtual, bit 1 physical.
    pub(in super::super) fn read_guest_timers() -> u64 {
        read!("S3_5_C15_C1_3")
    }

    pub(in super::super) fn write_guest_timers(value: u64) {
        write!("S3_5_C15_C1_3", value);
    }

    /// `CNTV_CTL_EL02`: the guest's, since E2H is set on every machine with an AIC.
    pub(in super::super) fn read_virtual_timer() -> u64 {
        read!("S3_5_C14_C3_1")
    }

    /// `CNTP_CTL_EL02`.
    pub(in super::super) fn read_physical_timer() -> u64 {
        read!("S3_5_C14_C2_1")
    }

    /// `CNTHP_CTL_EL2`.
    pub(in super::super) fn read_hypervisor_timer() -> u64 {
        read!("CNTHP_CTL_EL2")
    }

    /// Has neither the CPU's performance monitors (`PMCR0`) nor the cluster's (`UPMCR0`) interrupt.
    pub(in super::super) fn silence_performance_monitors() {
        const MODE: u64 = 0b111 << 8;
        const CLUSTER_MODE: u64 = 0b111 << 16;
        write!("S3_1_C15_C0_0", read!("S3_1_C15_C0_0") & !MODE);
        write!("S3_7_C15_C0_4", read!("S3_7_C15_C0_4") & !CLUSTER_MODE);
    }
}

#[cfg(all(not(target_arch = "aarch64"), not(test)))]
mod implementation {
    pub(in super::super) fn read_main_id() -> u64 {
        0
    }
    pub(in super::super) fn read_ipi_status() -> u64 {
        0
    }
    pub(in super::super) fn write_ipi_status(_: u64) {}
    pub(in super::super) fn write_ipi_local(_: u64) {}
    pub(in super::super) fn write_ipi_global(_: u64) {}
    pub(in super::super) fn read_guest_timers() -> u64 {
        0
    }
    pub(in super::super) fn write_guest_timers(_: u64) {}
    pub(in super::super) fn read_virtual_timer() -> u64 {
        0
    }
    pub(in super::super) fn read_physical_timer() -> u64 {
        0
    }
    pub(in super::super) fn read_hypervisor_timer() -> u64 {
        0
    }
    pub(in super::super) fn silence_performance_monitors() {}
}

#[cfg(all(not(target_arch = "aarch64"), test))]
pub(super) mod implementation {
    use std::cell::Cell;

    /// What stands for the registers of the one CPU of a test.
    #[derive(Default)]
    pub(in super::super) struct Fake {
        pub(in super::super) ipi_status: Cell<u64>,
        pub(in super::super) ipi_local: Cell<Option<u64>>,
        pub(in super::super) ipi_global: Cell<Option<u64>>,
        pub(in super::super) guest_timers: Cell<u64>,
        pub(in super::super) virtual_timer: Cell<u64>,
        pub(in super::super) physical_timer: Cell<u64>,
        pub(in super::super) hypervisor_timer: Cell<u64>,
    }

    thread_local! {
        static FAKE: Fake = Fake::default();
    }

    pub(in super::super) fn with<T>(use_it: impl FnOnce(&Fake) -> T) -> T {
        FAKE.with(use_it)
    }

    pub(in super::super) fn read_main_id() -> u64 {
        0
    }
    pub(in super::super) fn read_ipi_status() -> u64 {
        with(|fake| fake.ipi_status.get())
    }
    pub(in super::super) fn write_ipi_status(value: u64) {
        with(|fake| fake.ipi_status.set(fake.ipi_status.get() & !value));
    }
    pub(in super::super) fn write_ipi_local(value: u64) {
        with(|fake| fake.ipi_local.set(Some(value)));
    }
    pub(in super::super) fn write_ipi_global(value: u64) {
        with(|fake| fake.ipi_global.set(Some(value)));
    }
    pub(in super::super) fn read_guest_timers() -> u64 {
        with(|fake| fake.guest_timers.get())
    }
    pub(in super::super) fn write_guest_timers(value: u64) {
        with(|fake| fake.guest_timers.set(value));
    }
    pub(in super::super) fn read_virtual_timer() -> u64 {
        with(|fake| fake.virtual_timer.get())
    }
    pub(in super::super) fn read_physical_timer() -> u64 {
        with(|fake| fake.physical_timer.get())
    }
    pub(in super::super) fn read_hypervisor_timer() -> u64 {
        with(|fake| fake.hypervisor_timer.get())
    }
    pub(in super::super) fn silence_performance_monitors() {}
}
