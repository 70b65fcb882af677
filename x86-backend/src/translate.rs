//! Linear addresses of a guest: the walk of its own page tables (SDM 5.3 to
//! 5.5), for instructions that the hypervisor must see.
//!
//! Permissions are not checked: the guest's processor did, just before.

use bunshin::address::GuestAddress;
use bunshin::memory::GuestMemory;

use crate::state::{CR0_PG, CR4_PAE, EFER_LMA, EFER_LME};

/// CR4: pages of 4 MiB in 32-bit paging.
const CR4_PSE: u64 = 1 << 4;
/// CR4: five levels.
const CR4_LA57: u64 = 1 << 12;
/// Entry: present.
const PRESENT: u64 = 1 << 0;
/// Entry: maps memory above the lowest level.
const LARGE: u64 = 1 << 7;
/// Address bits of a 64-bit entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The registers that choose a paging mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

impl Paging {
    /// The guest-physical address of `linear`; `None` where nothing is mapped.
    pub fn translate<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        linear: u64,
    ) -> Option<GuestAddress> {
        if self.cr0 & CR0_PG == 0 {
            return Some(GuestAddress(linear & 0xffff_ffff));
        }
        if self.efer & EFER_LMA != 0 {
            let table = self.cr3 & ADDRESS;
            return if self.cr4 & CR4_LA57 == 0 {
                walk(memory, table, &[39, 30, 21, 12], linear)
            } else {
                walk(memory, table, &[48, 39, 30, 21, 12], linear)
            };
        }
        let linear = linear & 0xffff_ffff;
        if self.cr4 & CR4_PAE != 0 {
            // Four pointers, which need not be aligned to a page and map nothing themselves.
            let place = (self.cr3 & 0xffff_ffe0).wrapping_add(linear >> 30 << 3);
            let pointer = memory.load_u64(GuestAddress(place)).ok()?;
            let table = (pointer & PRESENT != 0).then_some(pointer & ADDRESS)?;
            walk(memory, table, &[21, 12], linear)
        } else {
            walk_narrow(memory, self.cr3 & 0xffff_f000, self.cr4 & CR4_PSE != 0, linear)
        }
    }

    /// Whether a processor that gets these registers keeps the four directory pointers of PAE paging.
    pub const fn has_directory_pointers(&self) -> bool {
        let turns_long_on = self.efer & (EFER_LME | EFER_LMA) != 0;
        self.cr0 & CR0_PG != 0 && self.cr4 & CR4_PAE != 0 && !turns_long_on
    }

    /// The directory pointers, with `address_bits` in a physical address; `None` if one that is present
    /// has a reserved bit, for which the instruction that loads them faults (SDM 5.4.1).
    pub fn directory_pointers<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        address_bits: u32,
    ) -> Option<[u64; 4]> {
        /// Bits below the address: 1, 2 and 5 to 8.
        const RESERVED: u64 = 0b11 << 1 | 0b1111 << 5;
        let beyond = u64::MAX.checked_shl(address_bits).unwrap_or(0);
        let mut bytes = [[0; 8]; 4];
        let table = GuestAddress(self.cr3 & 0xffff_ffe0);
        // Unreadable memory reads as pointers that are not present.
        let _ = memory.read(table, bytes.as_flattened_mut());
        let pointers = bytes.map(u64::from_le_bytes);
        let valid = |pointer: &u64| *pointer & PRESENT == 0 || *pointer & (RESERVED | beyond) == 0;
        pointers.iter().all(valid).then_some(pointers)
    }

    /// The byte at a linear address, without a copy; `None` where nothing is mapped.
    pub fn byte<M: GuestMemory + ?Sized>(&self, memory: &M, linear: u64) -> Option<u8> {
        let GuestAddress(address) = self.translate(memory, linear)?;
        let word = memory.load_u64(GuestAddress(address & !0b111)).ok()?;
        Some((word >> ((address & 0b111) << 3) & 0xff) as u8)
    }

    /// Copies `bytes` from linear addresses. Returns how many could be read.
    pub fn read<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        linear: u64,
        bytes: &mut [u8],
    ) -> usize {
        let mut done = 0usize;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = linear.wrapping_add(done as u64);
            let in_page = usize::try_from(PAGE.wrapping_sub(at % PAGE)).unwrap_or(usize::MAX);
            let size = rest.len().min(in_page);
            let Some(part) = rest.get_mut(..size) else { break };
            let Some(address) = self.translate(memory, at) else { break };
            if memory.read(address, part).is_err() {
                break;
            }
            done = done.saturating_add(size);
        }
        done
    }

    /// Copies `bytes` to linear addresses; false when part could not be written.
    pub fn write<M: GuestMemory + ?Sized>(&self, memory: &M, linear: u64, bytes: &[u8]) -> bool {
        let mut done = 0usize;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = linear.wrapping_add(done as u64);
            let in_page = usize::try_from(PAGE.wrapping_sub(at % PAGE)).unwrap_or(usize::MAX);
            let size = rest.len().min(in_page);
            let written = rest
                .get(..size)
                .zip(self.translate(memory, at))
                .is_some_and(|(part, address)| memory.write(address, part).is_ok());
            if !written {
                return false;
            }
            done = done.saturating_add(size);
        }
        true
    }
}

/// Walks tables of 512 entries of 8 bytes, whose indices start at these bits of the address.
#[inline]
fn walk<M: GuestMemory + ?Sized>(
    memory: &M,
    mut table: u64,
    shifts: &[u32],
    linear: u64,
) -> Option<GuestAddress> {
    for &shift in shifts {
        let index = linear >> shift & 0x1ff;
        let entry = memory.load_u64(GuestAddress(table | index << 3)).ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        if shift == 12 || (entry & LARGE != 0 && shift <= 30) {
            let inside = (1u64 << shift).wrapping_sub(1);
            return Some(GuestAddress(entry & ADDRESS & !inside | linear & inside));
        }
        table = entry & ADDRESS;
    }
    None
}

/// Walks the two levels of 32-bit paging, of 1024 entries of 4 bytes; `large` says whether the
/// upper one may map memory.
fn walk_narrow<M: GuestMemory + ?Sized>(
    memory: &M,
    directory: u64,
    large: bool,
    linear: u64,
) -> Option<GuestAddress> {
    let load = |table: u64, index: u64| {
        let mut bytes = [0; 4];
        memory.read(GuestAddress(table | index << 2), &mut bytes).ok()?;
        let entry = u64::from(u32::from_le_bytes(bytes));
        (entry & PRESENT != 0).then_some(entry)
    };
    let entry = load(directory, linear >> 22 & 0x3ff)?;
    if large && entry & LARGE != 0 {
        // Such entries keep address bits 39:32 in bits 20:13 (SDM table 5-4).
        let high = (entry >> 13 & 0xff) << 32;
        return Some(GuestAddress(entry & 0xffc0_0000 | high | linear & 0x3f_ffff));
    }
    let entry = load(entry & ADDRESS, linear >> 12 & 0x3ff)?;
    Some(GuestAddress(entry & ADDRESS | linear & 0xfff))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Memory;
    use crate::state::CR0_PE;
    use proptest::prelude::*;

    fn ram(entries: &[(u64, u64)], width: usize) -> Memory {
        let memory = Memory::new();
        for (place, entry) in entries {
            memory.put(*place, &entry.to_le_bytes()[..width]);
        }
        memory
    }

    const PAGED: u64 = CR0_PE | CR0_PG;

    #[test]
    fn every_paging_mode_finds_pages_of_every_size() {
        let long = Paging { cr0: PAGED, cr3: 0x1000, cr4: CR4_PAE, efer: EFER_LMA };
        let memory = ram(
            &[
                (0x1ff8, 0x2003),
                (0x2000, 0x4000_0083),
                (0x2008, 0x3003),
                (0x3000, 0x20_0083),
                (0x3008, 0x4003),
                (0x4000, 0x8000_0000_0000_7003),
            ],
            8,
        );
        let base = 0xffff_ff80_0000_0000;
        for (linear, physical) in [
            (base + 0x1234, Some(0x4000_1234)),
            (base + 0x4000_1234, Some(0x20_1234)),
            (base + 0x4020_0234, Some(0x7234)),
            (base + 0x4020_1234, None),
            (0x1234, None),
        ] {
            assert_eq!(long.translate(&memory, linear), physical.map(GuestAddress), "{linear:#x}");
        }
        let five = Paging { cr4: CR4_PAE | CR4_LA57, cr3: 0x5000, ..long };
        memory.put(0x5000, &0x1003u64.to_le_bytes());
        assert_eq!(
            five.translate(&memory, (base & 0xffff_ffff_ffff) + 0x10),
            Some(GuestAddress(0x4000_0010))
        );

        let pae = Paging { cr0: PAGED, cr3: 0x1020, cr4: CR4_PAE, efer: 0 };
        let memory = ram(&[(0x1028, 0x2001), (0x2000, 0x20_0083)], 8);
        assert_eq!(pae.translate(&memory, 0x4000_0042), Some(GuestAddress(0x20_0042)));

        let old = Paging { cr0: PAGED, cr3: 0x1000, cr4: CR4_PSE, efer: 0 };
        let memory = ram(&[(0x1000, 0x40_0083), (0x1004, 0x2003), (0x2004, 0x9003)], 4);
        assert_eq!(old.translate(&memory, 0x1234), Some(GuestAddress(0x40_1234)));
        assert_eq!(old.translate(&memory, 0x40_1234), Some(GuestAddress(0x9234)));

        let flat = Paging { cr0: CR0_PE, cr3: 0, cr4: 0, efer: 0 };
        assert_eq!(flat.translate(&memory, 0x1234), Some(GuestAddress(0x1234)));
    }

    #[test]
    fn directory_pointers_have_no_reserved_bits() {
        let pae = Paging { cr0: PAGED, cr3: 0x1020, cr4: CR4_PAE, efer: 0 };
        for (pointer, valid) in [
            (0x2001, true),
            (0x2e19, true),
            (0x2003, false),
            (0x2005, false),
            (0x2021, false),
            (0x2101, false),
            (1 << 35 | 1, true),
            (1 << 36 | 1, false),
            (1 << 63 | 1, false),
            (!1, true),
        ] {
            let memory = ram(&[(0x1020, 0x3001), (0x1038, pointer)], 8);
            let expected = valid.then_some([0x3001, 0, 0, pointer]);
            assert_eq!(pae.directory_pointers(&memory, 36), expected, "{pointer:#x}");
        }
        let nowhere = Paging { cr3: 0xffff_ffe0, ..pae };
        assert_eq!(nowhere.directory_pointers(&ram(&[], 8), 36), Some([0; 4]));
    }

    #[test]
    fn only_pae_paging_has_directory_pointers() {
        let pae = Paging { cr0: PAGED, cr3: 0, cr4: CR4_PAE, efer: 0 };
        for (paging, expected) in [
            (pae, true),
            (Paging { cr0: CR0_PE, ..pae }, false),
            (Paging { cr4: 0, ..pae }, false),
            (Paging { efer: EFER_LME, ..pae }, false),
            (Paging { efer: EFER_LME | EFER_LMA, ..pae }, false),
        ] {
            assert_eq!(paging.has_directory_pointers(), expected, "{paging:x?}");
        }
    }

    #[test]
    fn copies_cross_pages_and_stop_at_holes() {
        let paging = Paging { cr0: PAGED, cr3: 0x1000, cr4: 0, efer: 0 };
        let memory = ram(&[(0x1000, 0x2003), (0x2000, 0x9003), (0x2004, 0x8003)], 4);
        assert!(paging.write(&memory, 0xffe, &[1, 2, 3, 4]));
        let mut bytes = [0; 4];
        assert_eq!(paging.read(&memory, 0xffe, &mut bytes), 4);
        assert_eq!(bytes, [1, 2, 3, 4]);
        for (linear, byte) in
            [(0xffe, Some(1)), (0xfff, Some(2)), (0x1000, Some(3)), (0x2000, None)]
        {
            assert_eq!(paging.byte(&memory, linear), byte, "{linear:#x}");
        }
        memory.read(GuestAddress(0x8000), &mut bytes[..2]).unwrap();
        assert_eq!(bytes[..2], [3, 4]);
        assert_eq!(paging.read(&memory, 0x1ffe, &mut bytes), 2);
        assert!(!paging.write(&memory, 0x1ffe, &bytes));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_walk_panic(
            entries in proptest::collection::vec((0u64..0x1ffe, any::<u64>()), 0..64),
            cr3 in any::<u64>(), cr4 in any::<u64>(), efer in any::<u64>(), linear in any::<u64>(),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(p, e)| (p * 8, e)).collect();
            let memory = ram(&entries, 8);
            let paging = Paging { cr0: PAGED, cr3, cr4, efer };
            let _ = paging.translate(&memory, linear);
            let _ = paging.read(&memory, linear, &mut [0; 15]);
        }
    }
}
