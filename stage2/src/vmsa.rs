//! Stage-2 descriptors of VMSAv8-64 (Arm ARM D8.3.2 and D8.6), without FEAT_S2FWB and FEAT_LPA2.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "the sums join disjoint bit fields; shifts are by named constants"
)]

use tock_registers::LocalRegisterCopy;

use crate::{Attributes, Entry, Format, Leaf, MemoryType, PhysicalAddress, Software};

use self::descriptor::DESCRIPTOR;

mod descriptor {
    tock_registers::register_bitfields![u64,
        pub(super) DESCRIPTOR [
            /// Bits that the hardware ignores.
            SOFTWARE OFFSET(55) NUMBITS(4) [],
            /// Execute-never, in the base form without FEAT_XNX.
            XN OFFSET(54) NUMBITS(1) [],
            /// The first 48 bits of an output address or of a table's, at their own places.
            ADDRESS OFFSET(12) NUMBITS(36) [],
            /// Access flag: an access to an entry without it faults.
            AF OFFSET(10) NUMBITS(1) [],
            SH OFFSET(8) NUMBITS(2) [
                NonShareable = 0b00,
                OuterShareable = 0b10,
                InnerShareable = 0b11
            ],
            /// S2AP[1].
            WRITE OFFSET(7) NUMBITS(1) [],
            /// S2AP[0].
            READ OFFSET(6) NUMBITS(1) [],
            MEMATTR OFFSET(2) NUMBITS(4) [
                DeviceNGnRnE = 0b0000,
                DeviceNGnRE = 0b0001,
                NormalNonCacheable = 0b0101,
                NormalWriteBack = 0b1111
            ],
            /// A table above the last level, a page at the last level; otherwise a block above it.
            TABLE_OR_PAGE OFFSET(1) NUMBITS(1) [],
            VALID OFFSET(0) NUMBITS(1) []
        ]
    ];
}

/// Size of the smallest page and of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB pages, blocks of 2 MiB and 1 GiB.
    Kib4,
    /// 16 KiB pages, blocks of 32 MiB.
    Kib16,
}

impl Granule {
    /// Binary logarithm of the bytes in a page.
    pub const fn shift(self) -> u32 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
        }
    }

    /// Bytes in a page.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// The format of a VMSAv8-64 stage 2; [`Geometry::format`](crate::Geometry::format) makes the one
/// that fits the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vmsa {
    pub(crate) granule: Granule,
    pub(crate) input_bits: u32,
    pub(crate) output_bits: u32,
    pub(crate) levels: u32,
}

impl Vmsa {
    /// The granule.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    fn memory_type(&self, entry: LocalRegisterCopy<u64, DESCRIPTOR::Register>) -> MemoryType {
        use DESCRIPTOR::MEMATTR::Value;
        match entry.read_as_enum(DESCRIPTOR::MEMATTR) {
            Some(Value::NormalWriteBack) => MemoryType::Normal,
            Some(Value::NormalNonCacheable) => MemoryType::NormalNonCacheable,
            Some(Value::DeviceNGnRE) => MemoryType::DeviceNGnRE,
            Some(Value::DeviceNGnRnE) | None => MemoryType::DeviceNGnRnE,
        }
    }
}

impl Format for Vmsa {
    fn granule_shift(&self) -> u32 {
        self.granule.shift()
    }

    fn input_bits(&self) -> u32 {
        self.input_bits
    }

    fn output_bits(&self) -> u32 {
        self.output_bits
    }

    fn levels(&self) -> u32 {
        self.levels
    }

    fn leaf_at(&self, level: u32) -> bool {
        match self.granule {
            Granule::Kib4 => level <= 2,
            Granule::Kib16 => level <= 1,
        }
    }

    fn expresses(&self, _: Attributes) -> bool {
        true
    }

    fn leaf(&self, level: u32, leaf: &Leaf) -> u64 {
        let Attributes { read, write: _, execute, memory } = leaf.attributes;
        let memory = match memory {
            MemoryType::Normal => {
                DESCRIPTOR::MEMATTR::NormalWriteBack + DESCRIPTOR::SH::InnerShareable
            }
            // The hardware takes these for outer shareable whatever the entry says.
            MemoryType::NormalNonCacheable => {
                DESCRIPTOR::MEMATTR::NormalNonCacheable + DESCRIPTOR::SH::OuterShareable
            }
            MemoryType::DeviceNGnRE => {
                DESCRIPTOR::MEMATTR::DeviceNGnRE + DESCRIPTOR::SH::OuterShareable
            }
            MemoryType::DeviceNGnRnE => {
                DESCRIPTOR::MEMATTR::DeviceNGnRnE + DESCRIPTOR::SH::OuterShareable
            }
        };
        let fields = DESCRIPTOR::VALID::SET
            + DESCRIPTOR::TABLE_OR_PAGE.val(u64::from(level == 0))
            + memory
            + DESCRIPTOR::READ.val(u64::from(read))
            + DESCRIPTOR::WRITE.val(u64::from(leaf.writable()))
            + DESCRIPTOR::AF::SET
            + DESCRIPTOR::ADDRESS.val(leaf.address.0 >> DESCRIPTOR::ADDRESS.shift)
            + DESCRIPTOR::XN.val(u64::from(!execute))
            + DESCRIPTOR::SOFTWARE.val(u64::from(leaf.software().bits()));
        fields.value
    }

    fn table(&self, table: PhysicalAddress) -> u64 {
        let fields = DESCRIPTOR::VALID::SET
            + DESCRIPTOR::TABLE_OR_PAGE::SET
            + DESCRIPTOR::ADDRESS.val(table.0 >> DESCRIPTOR::ADDRESS.shift);
        fields.value
    }

    fn decode(&self, level: u32, entry: u64) -> Entry {
        let entry = LocalRegisterCopy::<u64, DESCRIPTOR::Register>::new(entry);
        if !entry.is_set(DESCRIPTOR::VALID) {
            return Entry::Invalid;
        }
        let address = PhysicalAddress(entry.read(DESCRIPTOR::ADDRESS) << DESCRIPTOR::ADDRESS.shift);
        match (entry.is_set(DESCRIPTOR::TABLE_OR_PAGE), level) {
            // A block entry at the last level is reserved: it faults (Arm ARM D8.3).
            (false, 0) => Entry::Invalid,
            (true, 1..) => Entry::Table(address),
            (true, 0) | (false, 1..) => {
                let attributes = Attributes {
                    read: entry.is_set(DESCRIPTOR::READ),
                    write: false,
                    execute: !entry.is_set(DESCRIPTOR::XN),
                    memory: self.memory_type(entry),
                };
                let bits = u8::try_from(entry.read(DESCRIPTOR::SOFTWARE)).unwrap_or_default();
                let software = Software::from_bits_truncate(bits);
                Entry::Leaf(Leaf::from_software(address, attributes, software))
            }
        }
    }
}
