//! CR0, CR4 and EFER of a guest: what it sees, and what the processor demands (SDM 26.6.6, A.7, A.8).

use x86_backend::controls::FixedBits;
use x86_backend::restricted::Mode;
use x86_backend::state::{CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME};

use super::Vmx;
use super::processor::entry;
use super::vmcs::VmcsField as F;
use crate::engine::{Engine, Field};

/// Bits of CR0 that guests change without an exit: MP, EM, TS, WP, AM.
pub(super) const CR0_GUEST: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 16 | 1 << 18;
/// Bits of CR4 that guests may set if the processor has them: VME to UMIP,
/// FSGSBASE, PCIDE, OSXSAVE, SMEP and SMAP.
const CR4_GUEST: u64 = 0x37_0fff;
/// All others do not exist in guests.
const CR4_HIDDEN: u64 = !CR4_GUEST;

impl Vmx {
    /// Bits of CR0 that must be one and guests need not see.
    fn cr0_ones(&self) -> u64 {
        // Those of protection and paging are the mode's.
        self.controls.cr0.ones & !(CR0_PE | CR0_PG)
    }

    pub(super) fn set_cr0(&mut self, value: u64) {
        self.set_mode(value);
        // Caches stay on, whatever the guest says: EPT gives the memory types.
        let wanted = self.mode.cr0(value & !(CR0_CD | CR0_NW));
        let real = (wanted | self.cr0_ones()) & self.controls.cr0.zeros;
        self.set(F::GuestCr0, real);
        self.set(F::Cr0Shadow, value);
    }

    pub(super) fn set_cr4(&mut self, value: u64) {
        self.set(F::GuestCr4, self.controls.cr4.apply(self.mode.cr4(value)));
        self.set(F::Cr4Shadow, value);
    }

    /// Bits of CR4 whose changes exit.
    pub(super) fn cr4_mask(&self) -> u64 {
        let FixedBits { ones, zeros } = self.controls.cr4;
        CR4_HIDDEN | ones | !zeros | self.mode.cr4_held()
    }

    pub(super) fn set_efer(&mut self, value: u64) {
        self.held.efer = value;
        let real = self.mode.efer(value);
        self.set(F::GuestEfer, real);
        let base = u64::from(self.controls.entry);
        let long = if real & EFER_LMA != 0 { u64::from(entry::GUEST_64) } else { 0 };
        self.set(F::EntryControls, base | long);
    }

    pub(super) fn set_cr3(&mut self, value: u64) {
        if self.mode == Mode::Native {
            self.set(F::GuestCr3, value);
            self.stale = true;
        } else {
            self.held.cr3 = value;
        }
    }

    pub(super) fn write_cr0(&mut self, value: u64) -> bool {
        let old = self.read(Field::Cr0);
        let paging = value & CR0_PG != 0;
        let invalid = value >> 32 != 0
            || (paging && value & CR0_PE == 0)
            || (value & CR0_NW != 0 && value & CR0_CD == 0);
        if invalid {
            return false;
        }
        let efer = self.read(Field::Efer);
        let was_paging = old & CR0_PG != 0;
        if !paging && was_paging && self.read(Field::Cr4) & CR4_PCIDE != 0 {
            return false;
        }
        if paging && !was_paging && efer & EFER_LME != 0 {
            if self.read(Field::Cr4) & CR4_PAE == 0 {
                return false;
            }
            self.set_efer(efer | EFER_LMA);
        } else if !paging && was_paging {
            self.set_efer(efer & !EFER_LMA);
        }
        self.set_cr0(value);
        if paging != was_paging {
            self.stale = true;
        }
        true
    }

    pub(super) fn write_cr4(&mut self, value: u64) -> bool {
        let long = self.read(Field::Efer) & EFER_LMA != 0;
        if value & CR4_HIDDEN != 0 || (long && value & CR4_PAE == 0) {
            return false;
        }
        self.set_cr4(value);
        self.stale = true;
        true
    }
}
