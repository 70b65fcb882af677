//! Which tables the CPU can walk: from the ID registers to `VTCR_EL2` and `VTTBR_EL2`.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "the sums join disjoint bit fields; widths and levels are bounded by `choose`"
)]

use tock_registers::LocalRegisterCopy;

use crate::{Granule, PhysicalAddress, Vmid, VmidBits, Vmsa};

use self::registers::{ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, VTCR_EL2, VTTBR_EL2};

mod registers {
    tock_registers::register_bitfields![u64,
        /// Memory model features, register 0 (Arm ARM D24.2).
        pub(super) ID_AA64MMFR0_EL1 [
            TGRAN4_2 OFFSET(40) NUMBITS(4) [
                AsStage1 = 0,
                No = 1,
                Yes = 2,
                YesWith52Bits = 3
            ],
            TGRAN16_2 OFFSET(32) NUMBITS(4) [
                AsStage1 = 0,
                No = 1,
                Yes = 2,
                YesWith52Bits = 3
            ],
            TGRAN4 OFFSET(28) NUMBITS(4) [
                Yes = 0,
                YesWith52Bits = 1,
                No = 15
            ],
            TGRAN16 OFFSET(20) NUMBITS(4) [
                No = 0,
                Yes = 1,
                YesWith52Bits = 2
            ],
            PARANGE OFFSET(0) NUMBITS(4) [
                Bits32 = 0,
                Bits36 = 1,
                Bits40 = 2,
                Bits42 = 3,
                Bits44 = 4,
                Bits48 = 5
            ]
        ],
        /// Memory model features, register 1.
        pub(super) ID_AA64MMFR1_EL1 [
            VMIDBITS OFFSET(4) NUMBITS(4) [
                Bits8 = 0,
                Bits16 = 2
            ]
        ],
        /// Virtualization translation control register (Arm ARM D24.2).
        pub(super) VTCR_EL2 [
            RES1 OFFSET(31) NUMBITS(1) [],
            /// Hardware management of the dirty state.
            HD OFFSET(22) NUMBITS(1) [],
            /// Hardware management of the access flag.
            HA OFFSET(21) NUMBITS(1) [],
            VS OFFSET(19) NUMBITS(1) [
                Bits8 = 0,
                Bits16 = 1
            ],
            PS OFFSET(16) NUMBITS(3) [],
            TG0 OFFSET(14) NUMBITS(2) [
                Kib4 = 0b00,
                Kib16 = 0b10
            ],
            SH0 OFFSET(12) NUMBITS(2) [
                InnerShareable = 0b11
            ],
            ORGN0 OFFSET(10) NUMBITS(2) [
                WriteBackWriteAllocate = 0b01
            ],
            IRGN0 OFFSET(8) NUMBITS(2) [
                WriteBackWriteAllocate = 0b01
            ],
            SL0 OFFSET(6) NUMBITS(2) [],
            T0SZ OFFSET(0) NUMBITS(6) []
        ],
        /// Virtualization translation table base register.
        pub(super) VTTBR_EL2 [
            VMID OFFSET(48) NUMBITS(16) [],
            BADDR OFFSET(1) NUMBITS(47) [],
            /// Common not private: whether CPUs may share TLB entries.
            CNP OFFSET(0) NUMBITS(1) []
        ]
    ];
}

/// The widest address without FEAT_LPA2.
const MAX_BITS: u32 = 48;
/// The narrowest guest address space: what a guest's 32-bit peripherals need.
const MIN_INPUT_BITS: u32 = 32;
/// An index of a full table of the granule and four bits more, by concatenating sixteen tables.
const CONCATENATION_BITS: u32 = 4;

/// The ID registers that decide, as read on the CPU. On a machine with different cores, ask
/// [`Geometry::choose`] for each and take [`Geometry::common`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// `ID_AA64MMFR0_EL1`.
    pub mmfr0: u64,
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
}

/// Why no stage 2 fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Neither 4 KiB nor 16 KiB pages at stage 2.
    #[error("the CPU has no 4 KiB or 16 KiB pages at stage 2 (ID_AA64MMFR0_EL1 {mmfr0:#x})")]
    NoGranule {
        /// `ID_AA64MMFR0_EL1`.
        mmfr0: u64,
    },
    /// The guest address space asked for is too narrow, or wider than the CPU's physical addresses.
    #[error("a guest address space of {asked} bits; this CPU can do {least} to {most}")]
    InputBits {
        /// What was asked for.
        asked: u32,
        /// The narrowest possible.
        least: u32,
        /// The widest possible.
        most: u32,
    },
    /// The cores have no page size in common.
    #[error("the cores of this machine have no stage 2 page size in common")]
    MixedGranules,
}

/// The shape of stage 2 on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    granule: Granule,
    input_bits: u32,
    output_bits: u32,
    levels: u32,
    vmid_bits: VmidBits,
}

impl Geometry {
    /// Chooses the page size (4 KiB if the CPU has it at stage 2, else 16 KiB) and the widths: physical
    /// addresses up to 48 bits, guest addresses as wide as those or `input_bits` (32 to that).
    /// The root takes up to sixteen concatenated tables if that saves a level.
    ///
    /// # Errors
    /// [`GeometryError::NoGranule`], [`GeometryError::InputBits`].
    pub fn choose(ids: IdRegisters, input_bits: Option<u32>) -> Result<Self, GeometryError> {
        let granule = granule(ids.mmfr0).ok_or(GeometryError::NoGranule { mmfr0: ids.mmfr0 })?;
        let mmfr1 = LocalRegisterCopy::<u64, ID_AA64MMFR1_EL1::Register>::new(ids.mmfr1);
        let vmid_bits = match mmfr1.read_as_enum(ID_AA64MMFR1_EL1::VMIDBITS) {
            Some(ID_AA64MMFR1_EL1::VMIDBITS::Value::Bits16) => VmidBits::Sixteen,
            Some(ID_AA64MMFR1_EL1::VMIDBITS::Value::Bits8) | None => VmidBits::Eight,
        };
        Self::new(granule, physical_bits(ids.mmfr0), input_bits, vmid_bits)
    }

    /// What both of two different cores can do, with a guest address space that is no wider than
    /// either's.
    ///
    /// # Errors
    /// [`GeometryError::MixedGranules`].
    pub fn common(self, other: Self) -> Result<Self, GeometryError> {
        if self.granule != other.granule {
            return Err(GeometryError::MixedGranules);
        }
        let input_bits = self.input_bits.min(other.input_bits);
        let vmid_bits = self.vmid_bits.min(other.vmid_bits);
        let output_bits = self.output_bits.min(other.output_bits);
        Self::new(self.granule, output_bits, Some(input_bits), vmid_bits)
    }

    fn new(
        granule: Granule,
        output_bits: u32,
        input_bits: Option<u32>,
        vmid_bits: VmidBits,
    ) -> Result<Self, GeometryError> {
        // A guest address wider than the physical ones is UNPREDICTABLE (Arm ARM D8.2.2).
        let asked = input_bits.unwrap_or(output_bits);
        if !(MIN_INPUT_BITS..=output_bits).contains(&asked) {
            return Err(GeometryError::InputBits {
                asked,
                least: MIN_INPUT_BITS,
                most: output_bits,
            });
        }
        // Each level resolves the bits of one index; concatenation gives the root four more.
        let below_root = asked - granule.shift() - CONCATENATION_BITS;
        let levels = below_root.div_ceil(granule.shift() - 3);
        Ok(Self { granule, input_bits: asked, output_bits, levels, vmid_bits })
    }

    /// Size of pages and tables.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// Width of a guest's addresses in bits.
    pub fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// Width of physical addresses in bits.
    pub fn output_bits(&self) -> u32 {
        self.output_bits
    }

    /// The level where the walk starts, as Arm counts: 0 is the top, 3 has pages.
    pub fn start_level(&self) -> u32 {
        4 - self.levels
    }

    /// Width of a VMID.
    pub fn vmid_bits(&self) -> VmidBits {
        self.vmid_bits
    }

    /// The format of entries for [`PageTable::new`](crate::PageTable::new).
    pub fn format(&self) -> Vmsa {
        Vmsa {
            granule: self.granule,
            input_bits: self.input_bits,
            output_bits: self.output_bits,
            levels: self.levels,
        }
    }

    /// The value of `VTCR_EL2`: walks are write-back cacheable and inner shareable, the hardware
    /// manages neither access flag nor dirty state.
    pub fn vtcr(&self) -> u64 {
        let (tg0, start_levels) = match self.granule {
            Granule::Kib4 => (VTCR_EL2::TG0::Kib4, [2, 1, 0, 3]),
            Granule::Kib16 => (VTCR_EL2::TG0::Kib16, [3, 2, 1, 0]),
        };
        // SL0 names the start level in an order of the granule's own (Arm ARM D8.2.2).
        let sl0 = start_levels.iter().zip(0..).find(|(level, _)| **level == self.start_level());
        let ps = match self.output_bits {
            ..36 => ID_AA64MMFR0_EL1::PARANGE::Value::Bits32,
            36..40 => ID_AA64MMFR0_EL1::PARANGE::Value::Bits36,
            40..42 => ID_AA64MMFR0_EL1::PARANGE::Value::Bits40,
            42..44 => ID_AA64MMFR0_EL1::PARANGE::Value::Bits42,
            44..48 => ID_AA64MMFR0_EL1::PARANGE::Value::Bits44,
            48.. => ID_AA64MMFR0_EL1::PARANGE::Value::Bits48,
        };
        let vs = match self.vmid_bits {
            VmidBits::Eight => VTCR_EL2::VS::Bits8,
            VmidBits::Sixteen => VTCR_EL2::VS::Bits16,
        };
        let fields = VTCR_EL2::RES1::SET
            + VTCR_EL2::HD::CLEAR
            + VTCR_EL2::HA::CLEAR
            + vs
            + VTCR_EL2::PS.val(ps as u64)
            + tg0
            + VTCR_EL2::SH0::InnerShareable
            + VTCR_EL2::ORGN0::WriteBackWriteAllocate
            + VTCR_EL2::IRGN0::WriteBackWriteAllocate
            + VTCR_EL2::SL0.val(sl0.map_or(0, |(_, code)| code))
            + VTCR_EL2::T0SZ.val(u64::from(64 - self.input_bits));
        fields.value
    }

    /// The value of `VTTBR_EL2` for a VM: its tag and the root of its table
    /// ([`PageTable::root`](crate::PageTable::root)). `CnP` is 0: CPUs share no TLB entries.
    pub fn vttbr(&self, vmid: Vmid, root: PhysicalAddress) -> u64 {
        let fields = VTTBR_EL2::VMID.val(u64::from(vmid.get()))
            + VTTBR_EL2::BADDR.val(root.0 >> VTTBR_EL2::BADDR.shift)
            + VTTBR_EL2::CNP::CLEAR;
        fields.value
    }
}

/// The page size for stage 2. A stage-2 field of its own overrides that of stage 1.
fn granule(mmfr0: u64) -> Option<Granule> {
    use ID_AA64MMFR0_EL1 as MMFR0;
    let mmfr0 = LocalRegisterCopy::<u64, MMFR0::Register>::new(mmfr0);
    let kib4 = match mmfr0.read_as_enum(MMFR0::TGRAN4_2) {
        Some(MMFR0::TGRAN4_2::Value::AsStage1) => matches!(
            mmfr0.read_as_enum(MMFR0::TGRAN4),
            Some(MMFR0::TGRAN4::Value::Yes | MMFR0::TGRAN4::Value::YesWith52Bits)
        ),
        Some(MMFR0::TGRAN4_2::Value::Yes | MMFR0::TGRAN4_2::Value::YesWith52Bits) => true,
        Some(MMFR0::TGRAN4_2::Value::No) | None => false,
    };
    let kib16 = match mmfr0.read_as_enum(MMFR0::TGRAN16_2) {
        Some(MMFR0::TGRAN16_2::Value::AsStage1) => matches!(
            mmfr0.read_as_enum(MMFR0::TGRAN16),
            Some(MMFR0::TGRAN16::Value::Yes | MMFR0::TGRAN16::Value::YesWith52Bits)
        ),
        Some(MMFR0::TGRAN16_2::Value::Yes | MMFR0::TGRAN16_2::Value::YesWith52Bits) => true,
        Some(MMFR0::TGRAN16_2::Value::No) | None => false,
    };
    if kib4 {
        Some(Granule::Kib4)
    } else if kib16 {
        Some(Granule::Kib16)
    } else {
        None
    }
}

/// Width of physical addresses, at most what a descriptor without FEAT_LPA2 holds.
fn physical_bits(mmfr0: u64) -> u32 {
    use ID_AA64MMFR0_EL1::PARANGE::Value;
    let mmfr0 = LocalRegisterCopy::<u64, ID_AA64MMFR0_EL1::Register>::new(mmfr0);
    match mmfr0.read_as_enum(ID_AA64MMFR0_EL1::PARANGE) {
        Some(Value::Bits32) => 32,
        Some(Value::Bits36) => 36,
        Some(Value::Bits40) => 40,
        Some(Value::Bits42) => 42,
        Some(Value::Bits44) => 44,
        // 52, 56 and what later CPUs add: wider than this format.
        Some(Value::Bits48) | None => MAX_BITS,
    }
}
