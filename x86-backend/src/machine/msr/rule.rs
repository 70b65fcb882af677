//! Which values a guest may write.

use crate::machine::GeneralProtection;

/// Bits of a linear address; five-level paging is hidden.
const LINEAR_BITS: u32 = 48;

bitflags::bitflags! {
    /// EFER.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET.
        const SCE = 1 << 0;
        /// Long mode once paging is on.
        const LME = 1 << 8;
        /// Long mode is on; follows LME and CR0.PG.
        const LMA = 1 << 10;
        /// No-execute pages.
        const NXE = 1 << 11;
    }
}

/// EFER after a guest with `old` and CR0.PG = `paging` writes `value`.
///
/// # Errors
/// [`GeneralProtection`] for bits that do not exist in guests (SVME, LMSLE,
/// FFXSR, ...) and for a change of LME while paging is on (APM 3.1.7).
pub fn write_efer(old: Efer, value: u64, paging: bool) -> Result<Efer, GeneralProtection> {
    let new = Efer::from_bits(value).ok_or(GeneralProtection)?;
    if paging && new.symmetric_difference(old).contains(Efer::LME) {
        return Err(GeneralProtection);
    }
    let mut new = new;
    new.set(Efer::LMA, old.contains(Efer::LMA));
    Ok(new)
}

/// A rule for written values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Every value; the owner decides.
    Any,
    /// None: the register is read-only.
    ReadOnly,
    /// Every value, and none has an effect.
    Ignore,
    /// Only these bits may be set.
    Only(u64),
    /// Every value, of which only these bits are kept.
    Keep(u64),
    /// A canonical linear address.
    Canonical,
    /// Eight memory types of the page-attribute table.
    PageAttributes,
    /// Eight memory types of a fixed-range MTRR.
    FixedRange,
    /// Base (even index) or mask (odd index) of a variable-range MTRR.
    VariableRange,
    /// IA32_MTRR_DEF_TYPE.
    DefaultType,
}

/// Uncacheable, write-combining, write-through, write-protected, write-back.
const fn is_memory_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// The types above and "uncached", which only page attributes have.
const fn is_page_attribute(value: u8) -> bool {
    is_memory_type(value) || value == 7
}

/// MTRR_DEF_TYPE: fixed ranges enabled, MTRRs enabled.
const DEFAULT_TYPE_ENABLES: u64 = 0b11 << 10;
/// Variable-range mask: valid.
const MASK_VALID: u64 = 1 << 11;
const PAGE_MASK: u64 = 0xfff;

const fn is_canonical(address: u64) -> bool {
    let above = 64u32.wrapping_sub(LINEAR_BITS);
    let extended = ((address as i64).wrapping_shl(above)).wrapping_shr(above) as u64;
    extended == address
}

impl Rule {
    /// The value to keep when `value` is written to register `index`.
    pub(super) fn check(
        self,
        value: u64,
        index: u32,
        address_bits: u32,
    ) -> Result<u64, GeneralProtection> {
        let [low, ..] = value.to_le_bytes();
        let reserved_address = u64::MAX.checked_shl(address_bits).unwrap_or(0);
        let valid = match self {
            Rule::Any => true,
            Rule::Ignore => return Ok(0),
            Rule::ReadOnly => false,
            Rule::Only(bits) => value & !bits == 0,
            Rule::Keep(bits) => return Ok(value & bits),
            Rule::Canonical => is_canonical(value),
            Rule::PageAttributes => value.to_le_bytes().into_iter().all(is_page_attribute),
            Rule::FixedRange => value.to_le_bytes().into_iter().all(is_memory_type),
            Rule::VariableRange if index & 1 == 0 => {
                is_memory_type(low) && value & (PAGE_MASK & !0xff | reserved_address) == 0
            }
            Rule::VariableRange => value & (PAGE_MASK & !MASK_VALID | reserved_address) == 0,
            Rule::DefaultType => is_memory_type(low) && value & !(0xff | DEFAULT_TYPE_ENABLES) == 0,
        };
        if valid { Ok(value) } else { Err(GeneralProtection) }
    }
}
