//! Guests without protection or paging on VT-x processors that demand both of guests (SDM A.7, A.8:
//! those without "unrestricted guest"): what such a processor is given instead. Pure decisions.
//!
//! - Real mode runs in virtual-8086 mode (SDM 22). Every exception exits there, and every instruction
//!   that this mode refuses faults; the hypervisor does what real mode would do. No interrupt reaches
//!   a handler by hardware, so that neither an IDT nor a TSS is needed ([`interrupt`]).
//! - Protected mode without paging runs with paging by a page directory that maps every address to
//!   itself ([`page_directory`]).
//!
//! What a guest sees of its control registers, segments and flags is what it wrote. Known
//! differences: IOPL reads as 3 in real mode, segments have limits of 64 KiB there, and the lowest
//! two bits of CS and SS read as 0 between the switch to protected mode and the first load of them.

pub mod interrupt;
pub mod segments;

use crate::state::{CR0_PE, CR0_PG, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, EFER_SCE};

/// CR0: alignment mask.
const CR0_AM: u64 = 1 << 18;
/// CR4: virtual-8086 mode extensions, which find handlers by the TSS.
const CR4_VME: u64 = 1 << 0;
/// CR4: RDTSC is privileged.
const CR4_TSD: u64 = 1 << 2;
/// CR4: pages of 4 MiB in 32-bit paging.
const CR4_PSE: u64 = 1 << 4;
/// CR4: global pages.
const CR4_PGE: u64 = 1 << 7;
/// CR4: instructions that tell where tables are are privileged.
const CR4_UMIP: u64 = 1 << 11;
/// CR4: five levels.
const CR4_LA57: u64 = 1 << 12;
/// CR4: no execution of user pages by the system.
const CR4_SMEP: u64 = 1 << 20;
/// CR4: no access to user pages by the system.
const CR4_SMAP: u64 = 1 << 21;
/// CR4: protection keys.
const CR4_PKE: u64 = 1 << 22;
/// What would change the meaning of the page directory, whose pages are all user pages.
const CR4_PAGING: u64 =
    CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE;
/// What exists in virtual-8086 mode and not in real mode, which runs at privilege level 0.
const CR4_PRIVILEGE: u64 = CR4_VME | CR4_TSD | CR4_UMIP;

/// How a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The processor has what the guest has.
    Native,
    /// The guest is in protected mode without paging; the processor pages by [`page_directory`].
    Unpaged,
    /// The guest is in real mode; the processor is in virtual-8086 mode and pages as above.
    Real,
}

impl Mode {
    /// How a guest with this CR0 runs. Paging without protection does not exist.
    pub const fn of(cr0: u64) -> Self {
        if cr0 & CR0_PE == 0 {
            Mode::Real
        } else if cr0 & CR0_PG == 0 {
            Mode::Unpaged
        } else {
            Mode::Native
        }
    }

    /// The processor's CR0 for a guest's.
    pub const fn cr0(self, guest: u64) -> u64 {
        match self {
            Mode::Native => guest,
            Mode::Unpaged => guest | CR0_PE | CR0_PG,
            // Alignment is checked at privilege level 3 only.
            Mode::Real => (guest | CR0_PE | CR0_PG) & !CR0_AM,
        }
    }

    /// The processor's CR4 for a guest's.
    pub const fn cr4(self, guest: u64) -> u64 {
        match self {
            Mode::Native => guest,
            Mode::Unpaged | Mode::Real => guest & !self.cr4_held() | CR4_PSE,
        }
    }

    /// Bits of CR4 in which the two may differ.
    pub const fn cr4_held(self) -> u64 {
        match self {
            Mode::Native => 0,
            Mode::Unpaged => CR4_PAGING,
            Mode::Real => CR4_PAGING | CR4_PRIVILEGE,
        }
    }

    /// The processor's EFER for a guest's: with paging, both bits of long mode are equal.
    pub const fn efer(self, guest: u64) -> u64 {
        match self {
            Mode::Native => guest,
            Mode::Unpaged => guest & !(EFER_LME | EFER_LMA),
            // No system call leads out of virtual-8086 mode, whatever the processor thinks of them.
            Mode::Real => guest & !(EFER_LME | EFER_LMA | EFER_SCE),
        }
    }
}

/// Number of entries of [`page_directory`].
pub const DIRECTORY_ENTRIES: usize = 1024;

/// The page directory that maps all 4 GiB to themselves, in pages of 4 MiB (SDM 5.3). The processor
/// has nothing to note in it, so that it can be read-only.
pub fn page_directory() -> [u32; DIRECTORY_ENTRIES] {
    /// Present, writable, user, accessed, dirty, maps memory.
    const ENTRY: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7;
    const PAGE_SHIFT: u32 = 22;
    let mut entries = [0; DIRECTORY_ENTRIES];
    for (page, entry) in (0u32..).zip(&mut entries) {
        *entry = page << PAGE_SHIFT | ENTRY;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Memory;
    use crate::translate::Paging;
    use bunshin::address::GuestAddress;
    use proptest::prelude::*;

    #[test]
    fn protection_and_paging_tell_how_a_guest_runs() {
        for (cr0, mode) in [
            (0x6000_0010, Mode::Real),
            (0x11, Mode::Unpaged),
            (0x8000_0011, Mode::Native),
            // The guest's own writes of this are refused.
            (0x8000_0010, Mode::Real),
        ] {
            assert_eq!(Mode::of(cr0), mode, "{cr0:#x}");
        }
    }

    /// The page directory at address 0, and nothing else.
    fn directory() -> Memory {
        let memory = Memory::new();
        memory.put(0, page_directory().map(u32::to_le_bytes).as_flattened());
        memory
    }

    #[test]
    fn processors_need_write_nothing_to_the_page_directory() {
        let accessed_and_dirty = 0x60;
        assert!(page_directory().iter().all(|e| e & accessed_and_dirty == accessed_and_dirty));
    }

    proptest! {
        #[test]
        fn without_paging_every_address_is_its_own(
            cr0 in any::<u64>(), cr4 in any::<u64>(), efer in any::<u64>(), linear in any::<u32>(),
        ) {
            let mode = Mode::of(cr0);
            prop_assume!(mode != Mode::Native);
            let (cr0, cr4, efer) = (mode.cr0(cr0), mode.cr4(cr4), mode.efer(efer));
            prop_assert_eq!(cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
            let paging = Paging { cr0, cr3: 0, cr4, efer };
            let linear = u64::from(linear);
            prop_assert_eq!(paging.translate(&directory(), linear), Some(GuestAddress(linear)));
        }

        #[test]
        fn what_differs_is_held(cr0 in any::<u64>(), cr4 in any::<u64>()) {
            let mode = Mode::of(cr0);
            prop_assert_eq!((mode.cr4(cr4) ^ cr4) & !mode.cr4_held(), 0);
        }
    }
}
