//! The registers that decide what a guest's CPU traps.

use log::debug;
use traps::control::{Choices, GuestControls};

use crate::el2::features::Features;
use crate::el2::registers::{read_register, synchronize, write_register};

/// `VMPIDR_EL2.RES1`: the multiprocessing format.
const MPIDR_RES1: u64 = 1 << 31;

/// `VMPIDR_EL2` of a virtual CPU with this affinity.
pub(crate) const fn vmpidr(affinity: u64) -> u64 {
    MPIDR_RES1 | affinity
}

/// `HCR_EL2` bits that change while a guest runs.
mod hcr {
    /// A virtual SError is pending.
    pub(super) const VSE: u64 = 1 << 8;
    /// WFI traps.
    pub(super) const TWI: u64 = 1 << 13;
    /// WFE traps.
    pub(super) const TWE: u64 = 1 << 14;
    /// Writes of the virtual memory control registers trap.
    pub(super) const TVM: u64 = 1 << 26;
}

/// Trap controls of one virtual CPU.
#[derive(Debug)]
pub(crate) struct TrapControls {
    controls: GuestControls,
    hcr: u64,
}

impl TrapControls {
    /// Those of a virtual CPU after reset.
    pub(crate) fn new(features: &Features) -> Self {
        let controls = GuestControls::new(
            &features.id,
            &Choices {
                e2h: features.e2h,
                performance_monitors: features.event_counters.is_some(),
                event_counters: features
                    .event_counters
                    .map_or(0, |count| u8::try_from(count).unwrap_or(u8::MAX)),
                pointer_authentication: features.pointer_authentication,
                ..Choices::default()
            },
        );
        let hcr = controls.hcr.bits();
        TrapControls { controls, hcr }
    }

    /// Back to the state after reset.
    pub(crate) fn reset(&mut self) {
        self.hcr = self.controls.hcr.bits();
    }

    /// Puts them into this CPU. With `trap_idle`, WFI and WFE exit.
    pub(crate) fn load(&mut self, trap_idle: bool) {
        self.hcr &= !(hcr::TWI | hcr::TWE);
        if trap_idle {
            self.hcr |= hcr::TWI | hcr::TWE;
        }
        let controls = &self.controls;
        write_register!("hcr_el2", self.hcr);
        write_register!("mdcr_el2", controls.mdcr.bits());
        write_register!("cptr_el2", controls.cptr.bits());
        write_register!("hstr_el2", controls.hstr);
        write_register!("cnthctl_el2", controls.cnthctl.bits());
        if let Some(hcrx) = &controls.hcrx {
            write_register!("s3_4_c1_c2_2", hcrx.bits());
        }
        if let Some(fine) = &controls.fine_grained {
            write_register!("s3_4_c1_c1_4", fine.hfgrtr.bits());
            write_register!("s3_4_c1_c1_5", fine.hfgwtr.bits());
            write_register!("s3_4_c1_c1_6", fine.hfgitr.bits());
            write_register!("s3_4_c3_c1_4", fine.hdfgrtr.bits());
            write_register!("s3_4_c3_c1_5", fine.hdfgwtr.bits());
            if fine.second_set {
                // HDFGRTR2, HDFGWTR2, HFGRTR2, HFGWTR2, HFGITR2: every bit
                // that is 0 traps a register that guests do not have.
                write_register!("s3_4_c3_c1_0", 0);
                write_register!("s3_4_c3_c1_1", 0);
                write_register!("s3_4_c3_c1_2", 0);
                write_register!("s3_4_c3_c1_3", 0);
                write_register!("s3_4_c3_c1_7", 0);
            }
        }
        if let Some(partitioning) = &controls.partitioning {
            write_register!("s3_4_c10_c5_0", partitioning.mpam2.bits());
            if read_register!("s3_0_c10_c4_4") & MPAMIDR_HAS_HCR != 0 {
                write_register!("s3_4_c10_c4_0", partitioning.mpamhcr.bits());
            }
        }
        synchronize();
    }

    /// Makes a virtual SError pending.
    pub(crate) fn raise_virtual_serror(&mut self) {
        debug!("a physical SError goes to the guest that ran");
        self.set(hcr::VSE);
    }

    /// Watches for the guest turning its caches on or off.
    pub(crate) fn watch_caches(&mut self, on: bool) {
        if on {
            self.set(hcr::TVM);
        } else {
            self.hcr &= !hcr::TVM;
            write_register!("hcr_el2", self.hcr);
            synchronize();
        }
    }

    /// Whether [`TrapControls::watch_caches`] is on.
    pub(crate) fn watches_caches(&self) -> bool {
        self.hcr & hcr::TVM != 0
    }

    fn set(&mut self, bit: u64) {
        self.hcr |= bit;
        write_register!("hcr_el2", self.hcr);
        synchronize();
    }
}

/// `MPAMIDR_EL1.HAS_HCR`.
const MPAMIDR_HAS_HCR: u64 = 1 << 17;
