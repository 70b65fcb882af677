//! The A64 loads and stores that a data abort reports without a syndrome (`ISV` = 0), decoded from the instruction.
//!
//! A device model sees such accesses: pairs, write-back forms and SIMD registers carry no syndrome, and compilers use
//! them on device memory when drivers are careless. [`decode`] says which registers go where; the caller, who has the
//! registers and can translate the addresses, performs the accesses in order and then the write-back.
//!
//! Exclusives, compare-and-swap, atomic read-modify-write, structure loads and stores of SIMD, 64-byte accesses,
//! memory copies, loads with authentication and memory tags are [`Unsupported`]: on device memory they would be
//! UNPREDICTABLE or fault on hardware too, and the guest gets an abort. So are forms whose registers overlap in a way
//! that the architecture calls CONSTRAINED UNPREDICTABLE.

mod decoder;

use core::fmt;

use crate::syndrome::{AccessSize, Direction};

pub use decoder::decode;

/// What an instruction that caused a data abort does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// A load or store of one or two registers.
    Access(LoadStore),
    /// A prefetch hint: nothing need happen.
    Prefetch,
    /// Cache maintenance by virtual address (`DC`, `IC`): nothing need happen for a device.
    CacheMaintenance {
        /// The number of the register with the address.
        address_register: u8,
    },
    /// `DC ZVA`: zeroes the naturally aligned block, of the size that `DCZID_EL0` tells, that contains the address.
    ZeroBlock {
        /// The number of the register with the address.
        address_register: u8,
    },
}

/// An instruction that cannot be emulated, or that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a load or store that can be emulated on a device; use single-register LDR and STR there")
    }
}

impl core::error::Error for Unsupported {}

/// A register that is loaded or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// General-purpose; 31 is the zero register.
    General(u8),
    /// SIMD and floating-point. A load clears the bits above its size.
    Vector(u8),
}

/// The part of a load or store that moves one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Which register.
    pub register: Register,
    /// Where, in bytes from the address of the access.
    pub offset: u64,
}

/// The offset that is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// A constant, in bytes.
    Immediate(i64),
    /// A register.
    Register {
        /// Its number; 31 is the zero register.
        number: u8,
        /// How it is widened.
        extend: Extend,
        /// By how many bits it is then shifted to the left, 0 to 4.
        shift: u8,
    },
}

/// How an offset register is widened to 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extend {
    /// `UXTW`: the lower half, zero-extended.
    UnsignedWord,
    /// `LSL`, `UXTX`: all 64 bits.
    Unsigned,
    /// `SXTW`: the lower half, sign-extended.
    SignedWord,
    /// `SXTX`: all 64 bits.
    Signed,
}

/// When the offset is added to the base register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// For the address only.
    Offset,
    /// Before the access; the sum is written back.
    Pre,
    /// After the access; the sum is written back.
    Post,
}

/// A load or store of one or two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStore {
    /// A load reads memory, a store writes it.
    pub direction: Direction,
    /// The size of each element in memory.
    pub size: AccessSize,
    /// A load sign-extends each element.
    pub sign_extend: bool,
    /// A load into a general-purpose register fills 64 bits, not 32.
    pub is_64bit: bool,
    /// The first register, at the address.
    pub first: Register,
    /// The second register of a pair, directly after the first.
    pub second: Option<Register>,
    /// The number of the base register; 31 is the stack pointer of the current level.
    pub base: u8,
    /// The offset.
    pub offset: Offset,
    /// When it is added.
    pub index: Index,
    /// With the permissions of EL0 (`LDTR`, `STTR`).
    pub unprivileged: bool,
    /// With acquire or release semantics.
    pub ordered: bool,
}

/// The addresses of a load or store, for certain values of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The virtual address of the first element. Unlike `FAR_EL2`, it is not the one that faulted if that was the
    /// second, and it still has a tag in its top byte.
    pub address: u64,
    /// The new value of the base register, which must be written after the last element was accessed.
    pub write_back: Option<u64>,
}

impl LoadStore {
    /// The elements, one or two, in the order of their addresses.
    pub fn elements(&self) -> impl Iterator<Item = Element> + use<> {
        let first = Element { register: self.first, offset: 0 };
        let offset = self.size.bytes();
        let second = self.second.map(|register| Element { register, offset });
        core::iter::once(first).chain(second)
    }

    /// The number of the offset register; 31, the zero register, if the offset is a constant.
    #[must_use]
    pub const fn offset_register(&self) -> u8 {
        match self.offset {
            Offset::Immediate(_) => crate::register_file::ZERO_REGISTER,
            Offset::Register { number, .. } => number,
        }
    }

    /// The address, and the new base, where the base register holds `base` and the offset register `offset`.
    #[must_use]
    pub const fn resolve(&self, base: u64, offset: u64) -> Resolved {
        let offset = match self.offset {
            Offset::Immediate(bytes) => bytes as u64,
            Offset::Register { extend, shift, .. } => {
                let value = match extend {
                    Extend::UnsignedWord => offset as u32 as u64,
                    Extend::SignedWord => offset as i32 as u64,
                    Extend::Unsigned | Extend::Signed => offset,
                };
                value.wrapping_shl(shift as u32)
            }
        };
        let sum = base.wrapping_add(offset);
        match self.index {
            Index::Offset => Resolved { address: sum, write_back: None },
            Index::Pre => Resolved { address: sum, write_back: Some(sum) },
            Index::Post => Resolved { address: base, write_back: Some(sum) },
        }
    }
}

#[cfg(test)]
mod tests;
