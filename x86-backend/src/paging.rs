//! Entries of the second translation stage: nested page tables of AMD-V
//! (APM 15.25, in the long-mode format) and extended page tables of VT-x
//! (SDM 30.3). One walker, that of `stage2`, serves both.

use stage2::{Attributes, Entry, Format, Leaf, MemoryType, PhysicalAddress, Software};

/// Address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where both formats leave four bits to software.
const SOFTWARE_SHIFT: u32 = 52;
/// Maps memory above the lowest level.
const LARGE: u64 = 1 << 7;

/// Bits of a nested page table's entry.
mod npt {
    pub(super) const PRESENT: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    /// Nested walks count as user accesses.
    pub(super) const USER: u64 = 1 << 2;
    pub(super) const WRITE_THROUGH: u64 = 1 << 3;
    pub(super) const CACHE_DISABLE: u64 = 1 << 4;
    pub(super) const ACCESSED: u64 = 1 << 5;
    pub(super) const DIRTY: u64 = 1 << 6;
    pub(super) const NO_EXECUTE: u64 = 1 << 63;
}

/// Bits of an extended page table's entry.
mod ept {
    pub(super) const READ: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const EXECUTE: u64 = 1 << 2;
    pub(super) const TYPE_SHIFT: u32 = 3;
    pub(super) const TYPE_MASK: u64 = 0b111;
    pub(super) const UNCACHEABLE: u64 = 0;
    pub(super) const WRITE_COMBINING: u64 = 1;
    pub(super) const WRITE_BACK: u64 = 6;
}

/// Which vendor's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nested page tables of AMD-V.
    Npt,
    /// Extended page tables of VT-x.
    Ept,
}

/// The format of a guest's second stage: four levels, 48 address bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nested {
    /// Which vendor's entries.
    pub kind: Kind,
    /// Whether entries may map 1 GiB.
    pub huge: bool,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
}

impl Format for Nested {
    // A processor that faults looks the entry up anew.
    const CACHES_REFUSALS: bool = false;

    fn granule_shift(&self) -> u32 {
        12
    }

    fn input_bits(&self) -> u32 {
        48
    }

    fn output_bits(&self) -> u32 {
        self.physical_bits.clamp(36, 52)
    }

    fn levels(&self) -> u32 {
        4
    }

    fn leaf_at(&self, level: u32) -> bool {
        level <= 1 || (level == 2 && self.huge)
    }

    fn expresses(&self, attributes: Attributes) -> bool {
        // Neither format has entries that refuse reads and allow something else everywhere.
        attributes.read
    }

    fn leaf(&self, level: u32, leaf: &Leaf) -> u64 {
        let attributes = leaf.attributes;
        let common = leaf.address.0 & ADDRESS
            | u64::from(leaf.software().bits()) << SOFTWARE_SHIFT
            | if level == 0 { 0 } else { LARGE };
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        match self.kind {
            Kind::Npt => {
                let memory = match attributes.memory {
                    MemoryType::Normal => 0,
                    MemoryType::NormalNonCacheable => npt::CACHE_DISABLE,
                    MemoryType::DeviceNGnRnE | MemoryType::DeviceNGnRE => {
                        npt::CACHE_DISABLE | npt::WRITE_THROUGH
                    }
                };
                common
                    | memory
                    | npt::PRESENT
                    | npt::USER
                    | npt::ACCESSED
                    | npt::DIRTY
                    | flag(leaf.writable(), npt::WRITE)
                    | flag(!attributes.execute, npt::NO_EXECUTE)
            }
            Kind::Ept => {
                let memory = match attributes.memory {
                    MemoryType::Normal => ept::WRITE_BACK,
                    MemoryType::NormalNonCacheable => ept::WRITE_COMBINING,
                    MemoryType::DeviceNGnRnE | MemoryType::DeviceNGnRE => ept::UNCACHEABLE,
                };
                common
                    | memory << ept::TYPE_SHIFT
                    | ept::READ
                    | flag(leaf.writable(), ept::WRITE)
                    | flag(attributes.execute, ept::EXECUTE)
            }
        }
    }

    fn table(&self, table: PhysicalAddress) -> u64 {
        table.0 & ADDRESS
            | match self.kind {
                Kind::Npt => npt::PRESENT | npt::WRITE | npt::USER | npt::ACCESSED,
                Kind::Ept => ept::READ | ept::WRITE | ept::EXECUTE,
            }
    }

    fn decode(&self, level: u32, entry: u64) -> Entry {
        let present = match self.kind {
            Kind::Npt => entry & npt::PRESENT != 0,
            Kind::Ept => entry & (ept::READ | ept::WRITE | ept::EXECUTE) != 0,
        };
        if !present {
            return Entry::Invalid;
        }
        let address = PhysicalAddress(entry & ADDRESS);
        if level != 0 && entry & LARGE == 0 {
            return Entry::Table(address);
        }
        let (execute, memory) = match self.kind {
            Kind::Npt => (
                entry & npt::NO_EXECUTE == 0,
                match (entry & npt::CACHE_DISABLE != 0, entry & npt::WRITE_THROUGH != 0) {
                    (false, _) => MemoryType::Normal,
                    (true, false) => MemoryType::NormalNonCacheable,
                    (true, true) => MemoryType::DeviceNGnRnE,
                },
            ),
            Kind::Ept => (
                entry & ept::EXECUTE != 0,
                match entry >> ept::TYPE_SHIFT & ept::TYPE_MASK {
                    ept::WRITE_BACK => MemoryType::Normal,
                    ept::WRITE_COMBINING => MemoryType::NormalNonCacheable,
                    _ => MemoryType::DeviceNGnRnE,
                },
            ),
        };
        let attributes = Attributes { read: true, write: false, execute, memory };
        let bits = (entry >> SOFTWARE_SHIFT & 0xf) as u8;
        Entry::Leaf(Leaf::from_software(address, attributes, Software::from_bits_truncate(bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn formats() -> [Nested; 2] {
        [Kind::Npt, Kind::Ept].map(|kind| Nested { kind, huge: true, physical_bits: 48 })
    }

    #[test]
    fn entries_have_the_bits_of_the_manuals() {
        let [npt, ept] = formats();
        let ram = Leaf::new(PhysicalAddress(0x4020_0000), Attributes::RAM);
        let rom = Leaf::new(PhysicalAddress(0x1000), Attributes::ROM);
        let hardware = !(0xf << SOFTWARE_SHIFT);
        assert_eq!(npt.leaf(1, &ram) & hardware, 0x4020_00e7);
        assert_eq!(npt.leaf(0, &rom) & hardware, 0x1065);
        assert_eq!(npt.table(PhysicalAddress(0x5000)), 0x5027);
        assert_eq!(ept.leaf(1, &ram) & hardware, 0x4020_00b7);
        assert_eq!(ept.leaf(0, &rom) & hardware, 0x1035);
        assert_eq!(ept.table(PhysicalAddress(0x5000)), 0x5007);
        assert!(npt.leaf(0, &Leaf::new(PhysicalAddress(0), Attributes::DEVICE)) >> 63 == 1);
    }

    proptest! {
        #[test]
        fn a_leaf_reads_back(
            page in 0u64..1 << 36, level in 0u32..3, write in any::<bool>(), execute in any::<bool>(),
            normal in any::<bool>(), shared in any::<bool>(), logged in any::<bool>(), dirty in any::<bool>(),
        ) {
            for format in formats() {
                let memory = if normal { MemoryType::Normal } else { MemoryType::DeviceNGnRnE };
                let span = 12 + 9 * level;
                let address = PhysicalAddress(page << 12 >> span << span);
                let attributes = Attributes { read: true, write, execute, memory };
                let leaf = Leaf { address, attributes, shared, logged, dirty };
                prop_assert_eq!(format.decode(level, format.leaf(level, &leaf)), Entry::Leaf(leaf));
            }
        }

        #[test]
        fn a_retired_table_is_invalid_at_every_level(page in 0u64..1 << 36, level in 0u32..4) {
            for format in formats() {
                prop_assert_eq!(format.decode(level, page << 12 | 1 << 11), Entry::Invalid);
            }
        }
    }
}
