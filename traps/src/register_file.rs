//! What a load puts into a general-purpose register, and what a store takes from it.

use crate::syndrome::AccessSize;

/// The number of the zero register (or, as a base, of the stack pointer).
pub const ZERO_REGISTER: u8 = 31;

/// The value of a general-purpose register after a load of `size` that read `value`.
///
/// Bits of `value` above `size` are ignored. `sign_extend` copies the top bit upwards; `is_64bit` says whether to the
/// width of an X register, or only to that of a W register, whose upper half becomes zero.
#[inline]
#[must_use]
pub const fn extend(value: u64, size: AccessSize, sign_extend: bool, is_64bit: bool) -> u64 {
    if matches!(size, AccessSize::Doubleword | AccessSize::Quadword) {
        return value;
    }
    let unused = u64::BITS.wrapping_sub(8 << size as u32);
    let top = value.wrapping_shl(unused);
    let extended = if sign_extend {
        (top as i64).wrapping_shr(unused) as u64
    } else {
        top.wrapping_shr(unused)
    };
    if is_64bit { extended } else { extended as u32 as u64 }
}

/// The lowest bytes of `value` that a store of `size` writes.
#[inline]
#[must_use]
pub const fn truncate(value: u64, size: AccessSize) -> u64 {
    extend(value, size, false, true)
}

/// `value`, of `size` bytes in the order of the guest's data accesses, in the order of memory; and back.
///
/// `big_endian` is `SCTLR_EL1.EE` for EL1, `SCTLR_EL1.E0E` for EL0, and `PSTATE.E` in AArch32.
#[inline]
#[must_use]
pub const fn to_memory_order(value: u64, size: AccessSize, big_endian: bool) -> u64 {
    if !big_endian {
        return value;
    }
    match size {
        AccessSize::Byte => value,
        AccessSize::Halfword => (value as u16).swap_bytes() as u64,
        AccessSize::Word => (value as u32).swap_bytes() as u64,
        AccessSize::Doubleword | AccessSize::Quadword => value.swap_bytes(),
    }
}

/// The value of general-purpose register `number` in `registers` (X0 to X30); the zero register, and every number
/// that does not exist, is zero.
#[inline]
#[must_use]
pub fn read(registers: &[u64; 31], number: u8) -> u64 {
    registers.get(usize::from(number)).copied().unwrap_or(0)
}

/// Writes general-purpose register `number` in `registers` (X0 to X30); a write of the zero register does nothing.
#[inline]
pub fn write(registers: &mut [u64; 31], number: u8, value: u64) {
    if let Some(register) = registers.get_mut(usize::from(number)) {
        *register = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AccessSize::{Byte, Doubleword, Halfword, Word};

    #[test]
    fn loads_extend_as_the_instructions_do() {
        let all = 0xfedc_ba98_8765_84f3;
        let table = [
            (Byte, false, false, 0xf3),                    // ldrb w
            (Byte, true, false, 0xffff_fff3),              // ldrsb w
            (Byte, true, true, 0xffff_ffff_ffff_fff3),     // ldrsb x
            (Halfword, false, false, 0x84f3),              // ldrh w
            (Halfword, true, false, 0xffff_84f3),          // ldrsh w
            (Halfword, true, true, 0xffff_ffff_ffff_84f3), // ldrsh x
            (Word, false, false, 0x8765_84f3),             // ldr w
            (Word, true, true, 0xffff_ffff_8765_84f3),     // ldrsw
            (Doubleword, false, true, all),                // ldr x
        ];
        for (size, sign, wide, expected) in table {
            assert_eq!(extend(all, size, sign, wide), expected, "{size:?} sign {sign} wide {wide}");
        }
        assert_eq!(extend(0x7f, Byte, true, true), 0x7f);
    }

    #[test]
    fn the_zero_register_reads_as_zero_and_swallows_writes() {
        let mut registers = [7; 31];
        write(&mut registers, ZERO_REGISTER, 1);
        assert_eq!(registers, [7; 31]);
        assert_eq!(read(&registers, ZERO_REGISTER), 0);
        assert_eq!(read(&registers, 255), 0);
        write(&mut registers, 30, 1);
        assert_eq!(read(&registers, 30), 1);
    }

    #[test]
    fn a_big_endian_guest_has_its_bytes_swapped_within_the_access() {
        assert_eq!(to_memory_order(0x1122_3344, Word, true), 0x4433_2211);
        assert_eq!(to_memory_order(0x1122, Halfword, true), 0x2211);
        assert_eq!(to_memory_order(0x11, Byte, true), 0x11);
        assert_eq!(to_memory_order(0x1122_3344_5566_7788, Doubleword, true), 0x8877_6655_4433_2211);
        assert_eq!(to_memory_order(0x1122_3344, Word, false), 0x1122_3344);
        assert_eq!(truncate(0x1_8000, Halfword), 0x8000);
    }
}
