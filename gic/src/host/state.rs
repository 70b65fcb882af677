//! What a vCPU has in the virtual CPU interface beside its list registers.

/// The saved state of a virtual CPU interface. Its registers are opaque; the default is the state after reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CpuInterfaceState {
    /// `ICH_VMCR_EL2` or `GICH_VMCR`.
    pub vmcr: u64,
    /// `ICH_AP0Rn_EL2`, or `GICH_APR` in the first.
    pub active_group0: [u64; 4],
    /// `ICH_AP1Rn_EL2`.
    pub active_group1: [u64; 4],
}
