//! What the simulated M1 and the one who loads it have to agree about.
//!
//! An emulated CPU is not Apple's: some registers differ, others are absent. Who loads an image for this machine
//! replaces the instructions that access them by `SMC`, whose number says what was there.

/// Where the image goes; any multiple of 2 MiB in its memory would do.
pub const IMAGE: u64 = 0x8_1000_0000;
/// Where the device tree goes.
pub const TREE: u64 = 0x8_0800_0000;
/// Where the bundle goes.
pub const BUNDLE: u64 = 0x8_2000_0000;
/// Start of the memory.
pub const MEMORY: u64 = 0x8_0000_0000;
/// The first part of the memory is the boot loader's, with the spin table at its start.
pub const BOOT_LOADER_SIZE: u64 = 0x1_0000;
/// Affinity of each CPU: two efficient and two fast ones.
pub const AFFINITIES: [u64; 4] = [0x0, 0x1, 0x1_0100, 0x1_0101];

/// Where CPU `cpu` looks for the address that it is to start at.
#[must_use]
pub const fn release_address(cpu: usize) -> u64 {
    MEMORY + 8 * cpu as u64
}

/// A system register by the fields of the instructions that access it.
const fn register(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// A register that is not as on an M1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `HCR_EL2`, whose E2H is fixed.
    HypervisorConfiguration,
    /// `MPIDR_EL1`
    Affinity,
    /// `MIDR_EL1`
    MainId,
    /// `ID_AA64PFR0_EL1`: neither EL3 nor the system registers of a GIC.
    ProcessorFeatures,
    /// `ID_AA64DFR0_EL1`: no architected performance monitors.
    DebugFeatures,
    /// `ID_AA64MMFR0_EL1`: 36 bits of address, and 16 KiB for stage 2.
    MemoryModel0,
    /// `ID_AA64MMFR1_EL1`: 8 bits of VMID.
    MemoryModel1,
    /// `ICH_VTR_EL2`: the virtual CPU interface may raise an SError.
    VirtualInterface,
    /// `IPI_RR_LOCAL`
    IpiLocal,
    /// `IPI_RR_GLOBAL`
    IpiGlobal,
    /// `IPI_SR`
    IpiStatus,
    /// `VM_TMR_FIQ_ENA`
    GuestTimers,
    /// `PMCR0`
    PerformanceControl,
    /// `UPMCR0`
    ClusterPerformanceControl,
}

use Register::*;

/// The registers, whether reads of them are replaced, and whether writes are.
const REGISTERS: [(Register, u32, bool, bool); 14] = [
    (HypervisorConfiguration, register(3, 4, 1, 1, 0), false, true),
    (Affinity, register(3, 0, 0, 0, 5), true, false),
    (MainId, register(3, 0, 0, 0, 0), true, false),
    (ProcessorFeatures, register(3, 0, 0, 4, 0), true, false),
    (DebugFeatures, register(3, 0, 0, 5, 0), true, false),
    (MemoryModel0, register(3, 0, 0, 7, 0), true, false),
    (MemoryModel1, register(3, 0, 0, 7, 1), true, false),
    (VirtualInterface, register(3, 4, 12, 11, 1), true, false),
    (IpiLocal, register(3, 5, 15, 0, 0), true, true),
    (IpiGlobal, register(3, 5, 15, 0, 1), true, true),
    (IpiStatus, register(3, 5, 15, 1, 1), true, true),
    (GuestTimers, register(3, 5, 15, 1, 3), true, true),
    (PerformanceControl, register(3, 1, 15, 0, 0), true, true),
    (ClusterPerformanceControl, register(3, 7, 15, 0, 4), true, true),
];

/// An access to such a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which register.
    pub register: Register,
    /// It is a read.
    pub read: bool,
    /// Number of the general register; 31 is the zero register.
    pub operand: usize,
}

const MSR_MRS_MASK: u32 = 0xffd0_0000;
const MSR_MRS: u32 = 0xd510_0000;
const MRS: u32 = 1 << 21;
const SMC: u32 = 0xd400_0003;

/// What stands in the image instead of `instruction`, where it is not as on an M1.
#[must_use]
pub fn replacement(instruction: u32) -> Option<u32> {
    /// `UDF`
    const UNDEFINED: u32 = 0;
    if instruction & MSR_MRS_MASK != MSR_MRS {
        return None;
    }
    let key = instruction >> 5 & 0xffff;
    let read = instruction & MRS != 0;
    if is_gic(key) {
        return Some(UNDEFINED);
    }
    let index = REGISTERS.iter().position(|&(_, register, reads, writes)| {
        register == key && if read { reads } else { writes }
    })?;
    // Number 0 is left to real calls.
    let number = (index as u32 + 1) << 6 | u32::from(read) << 5 | instruction & 31;
    Some(SMC | number << 5)
}

/// `ICC_*`: the M1 has the virtual CPU interface of a GICv3 but not the physical one.
const fn is_gic(key: u32) -> bool {
    let (crn, crm) = (key >> 7 & 0xf, key >> 3 & 0xf);
    let op1 = key >> 11 & 0x7;
    let priority_mask = key == register(3, 0, 4, 6, 0);
    let el1 = key >> 14 == 3 && op1 == 0 && crn == 12 && crm >= 8;
    el1 || priority_mask || key == register(3, 4, 12, 9, 5)
}

/// What an `SMC` with this number replaces; `None` for a real one.
#[must_use]
pub fn access(number: u32) -> Option<Access> {
    let index = (number >> 6).checked_sub(1)? as usize;
    let &(register, ..) = REGISTERS.get(index)?;
    Some(Access { register, read: number >> 5 & 1 != 0, operand: (number & 31) as usize })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_access_is_understood() {
        for (instruction, expected) in [
            (0xd51c_1109, Some((HypervisorConfiguration, false, 9))),
            (0xd53c_1109, None),
            (0xd538_00a3, Some((Affinity, true, 3))),
            (0xd51d_f01f, Some((IpiLocal, false, 31))),
            (0xd53d_f120, Some((IpiStatus, true, 0))),
            (0xd503_201f, None),
        ] {
            let found = replacement(instruction).map(|word| {
                let access = access(word >> 5 & 0xffff).unwrap();
                (access.register, access.read, access.operand)
            });
            assert_eq!(found, expected, "{instruction:#x}");
        }
    }

    #[test]
    fn physical_gic_registers_are_undefined_and_virtual_ones_stay() {
        // mrs x0, icc_iar1_el1; msr icc_sre_el2, x0; mrs x0, ich_misr_el2.
        assert_eq!(replacement(0xd538_cc00), Some(0));
        assert_eq!(replacement(0xd51c_c9a0), Some(0));
        assert_eq!(replacement(0xd53c_cb40), None);
    }

    #[test]
    fn a_real_call_is_no_access() {
        assert_eq!(access(0), None);
    }
}
