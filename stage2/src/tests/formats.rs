//! Formats of other architectures, to prove that the walker fits them.

use crate::{
    Attributes, Entry, Format, Geometry, IdRegisters, Leaf, MemoryType, PhysicalAddress, Software,
    Vmsa,
};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const SOFTWARE_SHIFT: u32 = 52;
/// Ours, ignored by the hardware: the entry maps something, even if it permits nothing.
const MAPPED: u64 = 1 << 56;
const LARGE: u64 = 1 << 7;

fn software(leaf: &Leaf) -> u64 {
    MAPPED | u64::from(leaf.software().bits()) << SOFTWARE_SHIFT
}

fn leaf(entry: u64, read: bool, execute: bool, memory: MemoryType) -> Entry {
    let software = Software::from_bits_truncate((entry >> SOFTWARE_SHIFT) as u8);
    let attributes = Attributes { read, write: false, execute, memory };
    Entry::Leaf(Leaf::from_software(PhysicalAddress(entry & ADDRESS), attributes, software))
}

/// Intel's extended page tables (SDM 29.3.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ept;

impl Ept {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const EXECUTE: u64 = 1 << 2;
    const WRITE_BACK: u64 = 6 << 3;
}

impl Format for Ept {
    const CACHES_REFUSALS: bool = false;

    fn granule_shift(&self) -> u32 {
        12
    }
    fn input_bits(&self) -> u32 {
        48
    }
    fn output_bits(&self) -> u32 {
        46
    }
    fn levels(&self) -> u32 {
        4
    }
    fn leaf_at(&self, level: u32) -> bool {
        level <= 2
    }
    fn expresses(&self, attributes: Attributes) -> bool {
        attributes.read || !attributes.write
    }
    fn leaf(&self, level: u32, leaf: &Leaf) -> u64 {
        let mut entry = leaf.address.0 | software(leaf);
        for (bit, set) in [
            (Self::READ, leaf.attributes.read),
            (Self::WRITE, leaf.writable()),
            (Self::EXECUTE, leaf.attributes.execute),
            (LARGE, level > 0),
            (Self::WRITE_BACK, leaf.attributes.memory == MemoryType::Normal),
        ] {
            if set {
                entry |= bit;
            }
        }
        entry
    }
    fn table(&self, table: PhysicalAddress) -> u64 {
        table.0 | Self::READ | Self::WRITE | Self::EXECUTE
    }
    fn decode(&self, level: u32, entry: u64) -> Entry {
        if entry & (Self::READ | Self::WRITE | Self::EXECUTE | MAPPED) == 0 {
            Entry::Invalid
        } else if level == 0 || entry & LARGE != 0 {
            let memory = if entry & Self::WRITE_BACK == 0 {
                MemoryType::DeviceNGnRnE
            } else {
                MemoryType::Normal
            };
            leaf(entry, entry & Self::READ != 0, entry & Self::EXECUTE != 0, memory)
        } else {
            Entry::Table(PhysicalAddress(entry & ADDRESS))
        }
    }
}

/// AMD's nested page tables (APM 15.25).
#[derive(Clone, Copy, Debug)]
pub(super) struct Npt;

impl Npt {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const UNCACHEABLE: u64 = 1 << 3 | 1 << 4;
    const NO_EXECUTE: u64 = 1 << 63;
}

impl Format for Npt {
    const CACHES_REFUSALS: bool = false;

    fn granule_shift(&self) -> u32 {
        12
    }
    fn input_bits(&self) -> u32 {
        48
    }
    fn output_bits(&self) -> u32 {
        48
    }
    fn levels(&self) -> u32 {
        4
    }
    fn leaf_at(&self, level: u32) -> bool {
        level <= 2
    }
    fn expresses(&self, attributes: Attributes) -> bool {
        attributes.read
    }
    fn leaf(&self, level: u32, leaf: &Leaf) -> u64 {
        let mut entry = leaf.address.0 | software(leaf) | Self::PRESENT | Self::USER;
        for (bit, set) in [
            (Self::WRITE, leaf.writable()),
            (Self::NO_EXECUTE, !leaf.attributes.execute),
            (LARGE, level > 0),
            (Self::UNCACHEABLE, leaf.attributes.memory != MemoryType::Normal),
        ] {
            if set {
                entry |= bit;
            }
        }
        entry
    }
    fn table(&self, table: PhysicalAddress) -> u64 {
        table.0 | Self::PRESENT | Self::WRITE | Self::USER
    }
    fn decode(&self, level: u32, entry: u64) -> Entry {
        if entry & Self::PRESENT == 0 {
            Entry::Invalid
        } else if level == 0 || entry & LARGE != 0 {
            let memory = if entry & Self::UNCACHEABLE == 0 {
                MemoryType::Normal
            } else {
                MemoryType::DeviceNGnRnE
            };
            leaf(entry, true, entry & Self::NO_EXECUTE == 0, memory)
        } else {
            Entry::Table(PhysicalAddress(entry & ADDRESS))
        }
    }
}

/// A Cortex-A72: 4 KiB granule; three levels with a root of two tables for 40 bits.
pub(super) fn kib4() -> Vmsa {
    Geometry::choose(IdRegisters { mmfr0: 0x1124, mmfr1: 0 }, Some(40)).unwrap().format()
}

/// A CPU without 4 KiB pages; three levels for 42 bits.
pub(super) fn kib16() -> Vmsa {
    Geometry::choose(IdRegisters { mmfr0: 0xf010_0005, mmfr1: 0 }, Some(42)).unwrap().format()
}
