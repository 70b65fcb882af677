//! The system registers of GICv3. On other architectures than AArch64, where only the rest is tested, they read as zero
//! and ignore writes.

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::*;
#[cfg(not(target_arch = "aarch64"))]
pub(super) use other::*;

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod aarch64 {
    use aarch64_cpu::asm::barrier;
    use aarch64_cpu::registers::*;
    use arm_gic::gicv3::GicCpuInterface;
    use arm_sysregs::el1::accessors::{
        read_icc_iar1_el1, write_icc_bpr1_el1, write_icc_ctlr_el1, write_icc_dir_el1,
        write_icc_eoir1_el1, write_icc_sgi1r_el1, write_icc_sre_el1,
    };
    use arm_sysregs::el1::registers::{
        IccBpr1El1, IccCtlrEl1, IccDirEl1, IccEoir1El1, IccSgi1rEl1, IccSreEl1,
    };
    use arm_sysregs::el2::accessors::{read_icc_sre_el2, write_icc_sre_el2};
    use arm_sysregs::el2::registers::IccSreEl2;
    use tock_registers::interfaces::{Readable, Writeable};

    /// Makes all stores so far visible to the other CPUs before the interrupt that tells of them.
    #[inline(always)]
    pub(in super::super) fn publish_stores() {
        barrier::dsb(barrier::ISHST);
    }

    /// Sets up the CPU interface of this CPU: system registers, all priorities, group 1, priority drop and deactivation
    /// apart. False if firmware keeps the system registers from us.
    pub(in super::super) fn init_cpu_interface() -> bool {
        // SAFETY: SRE changes from 0 to 1 or stays; nothing uses the memory-mapped interface.
        unsafe {
            write_icc_sre_el2(IccSreEl2::SRE | IccSreEl2::DFB | IccSreEl2::DIB | IccSreEl2::ENABLE)
        };
        barrier::isb(barrier::SY);
        if !read_icc_sre_el2().contains(IccSreEl2::SRE) {
            return false;
        }
        // SAFETY: as above, for the guest.
        unsafe { write_icc_sre_el1(IccSreEl1::SRE | IccSreEl1::DFB | IccSreEl1::DIB) };
        barrier::isb(barrier::SY);
        GicCpuInterface::set_priority_mask(u8::MAX);
        write_icc_bpr1_el1(IccBpr1El1::empty());
        write_icc_ctlr_el1(IccCtlrEl1::EOIMODE);
        GicCpuInterface::enable_group1(true);
        barrier::isb(barrier::SY);
        true
    }

    #[inline(always)]
    pub(in super::super) fn read_icc_iar1() -> u32 {
        let value = read_icc_iar1_el1().bits() as u32;
        // The state change must be complete before the interrupt can be signalled again (IHI 0069 4.8.8).
        barrier::dsb(barrier::SY);
        value
    }

    #[inline(always)]
    pub(in super::super) fn write_icc_eoir1(value: u32) {
        write_icc_eoir1_el1(IccEoir1El1::from_bits_retain(value.into()));
    }

    #[inline(always)]
    pub(in super::super) fn write_icc_dir(value: u32) {
        write_icc_dir_el1(IccDirEl1::from_bits_retain(value.into()));
    }

    #[inline(always)]
    pub(in super::super) fn write_icc_sgi1r(value: u64) {
        write_icc_sgi1r_el1(IccSgi1rEl1::from_bits_retain(value));
        barrier::isb(barrier::SY);
    }

    pub(in super::super) fn read_ich_vtr() -> u64 {
        ICH_VTR_EL2.get()
    }

    pub(in super::super) fn read_ich_misr() -> u64 {
        ICH_MISR_EL2.get()
    }

    pub(in super::super) fn read_ich_vmcr() -> u64 {
        ICH_VMCR_EL2.get()
    }

    pub(in super::super) fn write_ich_vmcr(value: u64) {
        ICH_VMCR_EL2.set(value);
    }

    pub(in super::super) fn read_ich_hcr() -> u64 {
        ICH_HCR_EL2.get()
    }

    pub(in super::super) fn write_ich_hcr(value: u64) {
        ICH_HCR_EL2.set(value);
    }

    /// Reads a system register that no crate knows.
    macro_rules! read {
        ($name:literal) => {{
            let value: u64;
            // SAFETY: reading this register changes nothing, and at EL2 with ICC_SRE_EL2.SRE set it exists.
            unsafe {
                core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
            }
            value
        }};
    }

    /// `ICH_EISR_EL2`.
    #[inline(always)]
    pub(in super::super) fn read_ich_eisr() -> u64 {
        read!("S3_4_C12_C11_3")
    }

    /// `ICH_ELRSR_EL2`.
    #[inline(always)]
    pub(in super::super) fn read_ich_elrsr() -> u64 {
        read!("S3_4_C12_C11_5")
    }

    /// Accessors of numbered registers; numbers that don't exist read as zero and are not written.
    macro_rules! numbered {
        ($read:ident, $write:ident: 0 $first:ident 1 $second:ident $($n:literal $register:ident)*) => {
            #[inline(always)]
            pub(in super::super) fn $read(n: usize) -> u64 {
                /// Those that are rarely in use, apart, so that the first do not become part of their table.
                #[inline(never)]
                fn other(n: usize) -> u64 {
                    match n {
                        $($n => $register.get(),)*
                        _ => 0,
                    }
                }
                match n {
                    0 => $first.get(),
                    1 => $second.get(),
                    _ => other(n),
                }
            }

            #[inline(always)]
            pub(in super::super) fn $write(n: usize, value: u64) {
                /// As for reads.
                #[inline(never)]
                fn other(n: usize, value: u64) {
                    match n {
                        $($n => $register.set(value),)*
                        _ => {}
                    }
                }
                match n {
                    0 => $first.set(value),
                    1 => $second.set(value),
                    _ => other(n, value),
                }
            }
        };
    }

    numbered!(read_ich_lr, write_ich_lr:
        0 ICH_LR0_EL2 1 ICH_LR1_EL2 2 ICH_LR2_EL2 3 ICH_LR3_EL2 4 ICH_LR4_EL2 5 ICH_LR5_EL2 6 ICH_LR6_EL2
        7 ICH_LR7_EL2 8 ICH_LR8_EL2 9 ICH_LR9_EL2 10 ICH_LR10_EL2 11 ICH_LR11_EL2 12 ICH_LR12_EL2 13 ICH_LR13_EL2
        14 ICH_LR14_EL2 15 ICH_LR15_EL2);
    numbered!(read_ich_ap0r, write_ich_ap0r:
        0 ICH_AP0R0_EL2 1 ICH_AP0R1_EL2 2 ICH_AP0R2_EL2 3 ICH_AP0R3_EL2);
    numbered!(read_ich_ap1r, write_ich_ap1r:
        0 ICH_AP1R0_EL2 1 ICH_AP1R1_EL2 2 ICH_AP1R2_EL2 3 ICH_AP1R3_EL2);
}

#[cfg(not(target_arch = "aarch64"))]
mod other {
    macro_rules! absent_to_read {
        ($($name:ident($($argument:ty),*) -> $value:ty;)*) => {
            $(pub(in super::super) fn $name($(_: $argument),*) -> $value {
                0
            })*
        };
    }

    macro_rules! absent_to_write {
        ($($name:ident($($argument:ty),*);)*) => {
            $(pub(in super::super) fn $name($(_: $argument),*) {})*
        };
    }

    absent_to_read! {
        read_icc_iar1() -> u32;
        read_ich_vtr() -> u64;
        read_ich_misr() -> u64;
        read_ich_vmcr() -> u64;
        read_ich_hcr() -> u64;
        read_ich_eisr() -> u64;
        read_ich_elrsr() -> u64;
        read_ich_lr(usize) -> u64;
        read_ich_ap0r(usize) -> u64;
        read_ich_ap1r(usize) -> u64;
    }

    absent_to_write! {
        write_icc_eoir1(u32);
        write_icc_dir(u32);
        write_icc_sgi1r(u64);
        write_ich_vmcr(u64);
        write_ich_hcr(u64);
        write_ich_lr(usize, u64);
        write_ich_ap0r(usize, u64);
        write_ich_ap1r(usize, u64);
    }

    pub(in super::super) fn publish_stores() {}

    pub(in super::super) fn init_cpu_interface() -> bool {
        true
    }
}
