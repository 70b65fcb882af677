//! The decoder (Arm ARM C4.1.94, "Loads and Stores").

use super::{Extend, Index, Instruction, LoadStore, Offset, Register, Unsupported};
use crate::bits::{field, flag, signed_field};
use crate::register_file::ZERO_REGISTER;
use crate::syndrome::{AccessSize, Direction};

/// Decodes `instruction`.
///
/// # Errors
///
/// [`Unsupported`] for anything that is not a load or store which can be emulated.
pub const fn decode(instruction: u32) -> Result<Instruction, Unsupported> {
    let word = instruction as u64;
    // Bits 29 to 24 choose the class; bit 26 chooses SIMD registers.
    match field::<24, 6>(word) {
        0b00_1000 => ordered(word),
        0b01_1001 => ordered_unscaled(word),
        0b10_1000 | 0b10_1001 | 0b10_1100 | 0b10_1101 => pair(word),
        0b11_1001 | 0b11_1101 => unsigned_offset(word),
        0b11_1000 | 0b11_1100 if !flag::<21>(word) => immediate(word),
        0b11_1000 | 0b11_1100 if field::<10, 2>(word) == 0b10 => register_offset(word),
        0b11_1000 if field::<10, 2>(word) == 0b00 => load_acquire_pc(word),
        // PRFM of a literal; the loads of literals are of code, never of a device.
        0b01_1000 if scale(word) == 0b11 => Ok(Instruction::Prefetch),
        0b01_0101 => system(word),
        _ => Err(Unsupported),
    }
}

/// `Rt`.
const fn target(word: u64) -> u8 {
    field::<0, 5>(word) as u8
}

/// `Rn`.
const fn base(word: u64) -> u8 {
    field::<5, 5>(word) as u8
}

/// `Rt2`.
const fn second_target(word: u64) -> u8 {
    field::<10, 5>(word) as u8
}

/// `Rs` or `Rm`.
const fn other(word: u64) -> u8 {
    field::<16, 5>(word) as u8
}

/// The binary logarithm of the size that bits 31 and 30 give.
const fn scale(word: u64) -> u64 {
    field::<30, 2>(word)
}

/// What one register of the class "load/store register" does, from `size`, `V` and `opc`.
struct Transfer {
    direction: Direction,
    size: AccessSize,
    /// The binary logarithm of the size in bytes.
    scale: u32,
    sign_extend: bool,
    is_64bit: bool,
    register: Register,
}

/// A load or store, or a prefetch.
enum Operation {
    Transfer(Transfer),
    Prefetch,
}

/// Decodes `size`, `V` and `opc` of a single-register form.
const fn operation(word: u64) -> Result<Operation, Unsupported> {
    let log2 = scale(word);
    let (high, low) = (flag::<23>(word), flag::<22>(word));
    let direction = if low { Direction::Read } else { Direction::Write };
    if flag::<26>(word) {
        let register = Register::Vector(target(word));
        let (size, scale) = match (high, log2) {
            (false, _) => (AccessSize::from_log2(log2), log2 as u32),
            (true, 0) => (AccessSize::Quadword, 4),
            (true, _) => return Err(Unsupported),
        };
        let sign_extend = false;
        return Ok(Operation::Transfer(Transfer {
            direction,
            size,
            scale,
            sign_extend,
            is_64bit: true,
            register,
        }));
    }
    let (direction, sign_extend, is_64bit) = match (high, low, log2) {
        (false, _, _) => (direction, false, log2 == 3),
        // Sign-extending loads: to 64 bits, then to 32.
        (true, false, 0..=2) => (Direction::Read, true, true),
        (true, true, 0 | 1) => (Direction::Read, true, false),
        (true, false, _) => return Ok(Operation::Prefetch),
        (true, true, _) => return Err(Unsupported),
    };
    let size = AccessSize::from_log2(log2);
    let register = Register::General(target(word));
    Ok(Operation::Transfer(Transfer {
        direction,
        size,
        scale: log2 as u32,
        sign_extend,
        is_64bit,
        register,
    }))
}

/// Puts a single-register form together.
const fn single(word: u64, transfer: &Transfer, offset: Offset, index: Index) -> LoadStore {
    LoadStore {
        direction: transfer.direction,
        size: transfer.size,
        sign_extend: transfer.sign_extend,
        is_64bit: transfer.is_64bit,
        first: transfer.register,
        second: None,
        base: base(word),
        offset,
        index,
        unprivileged: false,
        ordered: false,
    }
}

/// Whether write-back to the base would meet the register itself, which is CONSTRAINED UNPREDICTABLE.
const fn overlaps_base(word: u64, register: Register) -> bool {
    match register {
        // As a base, 31 is the stack pointer; as a target, the zero register.
        Register::General(number) => number == base(word) && number != ZERO_REGISTER,
        Register::Vector(_) => false,
    }
}

/// `LDR`, `STR` and their kin with a 12-bit unsigned, scaled offset.
const fn unsigned_offset(word: u64) -> Result<Instruction, Unsupported> {
    match operation(word) {
        Ok(Operation::Transfer(transfer)) => {
            let offset =
                Offset::Immediate(field::<10, 12>(word).wrapping_shl(transfer.scale) as i64);
            Ok(Instruction::Access(single(word, &transfer, offset, Index::Offset)))
        }
        Ok(Operation::Prefetch) => Ok(Instruction::Prefetch),
        Err(error) => Err(error),
    }
}

/// `LDUR`, `LDTR`, and `LDR` with pre- and post-index, and the stores: a 9-bit signed offset.
const fn immediate(word: u64) -> Result<Instruction, Unsupported> {
    let (index, unprivileged) = match field::<10, 2>(word) {
        0b00 => (Index::Offset, false),
        0b01 => (Index::Post, false),
        0b10 => (Index::Offset, true),
        _ => (Index::Pre, false),
    };
    let transfer = match operation(word) {
        Ok(Operation::Transfer(transfer)) => transfer,
        Ok(Operation::Prefetch) if matches!(index, Index::Offset) && !unprivileged => {
            return Ok(Instruction::Prefetch);
        }
        _ => return Err(Unsupported),
    };
    let write_back = !matches!(index, Index::Offset);
    if (write_back && overlaps_base(word, transfer.register)) || (unprivileged && flag::<26>(word))
    {
        return Err(Unsupported);
    }
    let offset = Offset::Immediate(signed_field::<12, 9>(word));
    let access = single(word, &transfer, offset, index);
    Ok(Instruction::Access(LoadStore { unprivileged, ..access }))
}

/// `LDR`, `STR` and their kin with an offset register.
const fn register_offset(word: u64) -> Result<Instruction, Unsupported> {
    let extend = match field::<13, 3>(word) {
        0b010 => Extend::UnsignedWord,
        0b011 => Extend::Unsigned,
        0b110 => Extend::SignedWord,
        0b111 => Extend::Signed,
        _ => return Err(Unsupported),
    };
    match operation(word) {
        Ok(Operation::Transfer(transfer)) => {
            let shift = if flag::<12>(word) { transfer.scale as u8 } else { 0 };
            let offset = Offset::Register { number: other(word), extend, shift };
            Ok(Instruction::Access(single(word, &transfer, offset, Index::Offset)))
        }
        Ok(Operation::Prefetch) => Ok(Instruction::Prefetch),
        Err(error) => Err(error),
    }
}

/// `LDP`, `STP`, `LDPSW`, `LDNP` and `STNP`.
const fn pair(word: u64) -> Result<Instruction, Unsupported> {
    let (vector, load) = (flag::<26>(word), flag::<22>(word));
    let no_allocate = field::<23, 2>(word) == 0b00;
    let (size, scale, sign_extend) = match (scale(word), vector) {
        (0b00, _) => (AccessSize::Word, 2, false),
        (0b01, false) if load && !no_allocate => (AccessSize::Word, 2, true),
        (0b01, true) | (0b10, false) => (AccessSize::Doubleword, 3, false),
        (0b10, true) => (AccessSize::Quadword, 4, false),
        _ => return Err(Unsupported),
    };
    let index = match field::<23, 2>(word) {
        0b01 => Index::Post,
        0b11 => Index::Pre,
        _ => Index::Offset,
    };
    let (first, second) = if vector {
        (Register::Vector(target(word)), Register::Vector(second_target(word)))
    } else {
        (Register::General(target(word)), Register::General(second_target(word)))
    };
    let write_back = !matches!(index, Index::Offset);
    let same_target = load && target(word) == second_target(word);
    if same_target || (write_back && (overlaps_base(word, first) || overlaps_base(word, second))) {
        return Err(Unsupported);
    }
    Ok(Instruction::Access(LoadStore {
        direction: if load { Direction::Read } else { Direction::Write },
        size,
        sign_extend,
        is_64bit: vector || sign_extend || matches!(size, AccessSize::Doubleword),
        first,
        second: Some(second),
        base: base(word),
        offset: Offset::Immediate(signed_field::<15, 7>(word).wrapping_shl(scale)),
        index,
        unprivileged: false,
        ordered: false,
    }))
}

/// An ordered access of a general-purpose register.
const fn ordered_access(
    word: u64,
    direction: Direction,
    sign_extend: bool,
    is_64bit: bool,
    offset: i64,
) -> Instruction {
    Instruction::Access(LoadStore {
        direction,
        size: AccessSize::from_log2(scale(word)),
        sign_extend,
        is_64bit,
        first: Register::General(target(word)),
        second: None,
        base: base(word),
        offset: Offset::Immediate(offset),
        index: Index::Offset,
        unprivileged: false,
        ordered: true,
    })
}

/// `LDAR`, `STLR`, `LDLAR` and `STLLR`; not the exclusives and compare-and-swap of the same class.
const fn ordered(word: u64) -> Result<Instruction, Unsupported> {
    let exclusive = !flag::<23>(word);
    let compare = flag::<21>(word);
    if exclusive || compare || other(word) != 31 || second_target(word) != 31 {
        return Err(Unsupported);
    }
    let direction = if flag::<22>(word) { Direction::Read } else { Direction::Write };
    Ok(ordered_access(word, direction, false, scale(word) == 3, 0))
}

/// `LDAPUR`, `LDAPURS*` and `STLUR`: a 9-bit signed offset.
const fn ordered_unscaled(word: u64) -> Result<Instruction, Unsupported> {
    if flag::<21>(word) || field::<10, 2>(word) != 0b00 {
        return Err(Unsupported);
    }
    let offset = signed_field::<12, 9>(word);
    match operation(word) {
        Ok(Operation::Transfer(Transfer { direction, sign_extend, is_64bit, .. })) => {
            Ok(ordered_access(word, direction, sign_extend, is_64bit, offset))
        }
        _ => Err(Unsupported),
    }
}

/// `LDAPR`, alone among the atomic operations.
const fn load_acquire_pc(word: u64) -> Result<Instruction, Unsupported> {
    /// `A` = 1, `R` = 0, bit 21 = 1, `Rs` = 31, `o3` = 1, `opc` = `0b100`, in bits 23 to 12.
    const FORM: u64 = 0b1011_1111_1100;
    if field::<12, 12>(word) != FORM {
        return Err(Unsupported);
    }
    Ok(ordered_access(word, Direction::Read, false, scale(word) == 3, 0))
}

/// `DC` and `IC` by virtual address.
const fn system(word: u64) -> Result<Instruction, Unsupported> {
    /// `SYS`: bits 31 to 19, with `op0` = 1 and `L` = 0.
    const SYS: u64 = 0b1_1010_1010_0001;
    if field::<19, 13>(word) != SYS {
        return Err(Unsupported);
    }
    let address_register = target(word);
    let (op1, crn) = (field::<16, 3>(word), field::<12, 4>(word));
    let (crm, op2) = (field::<8, 4>(word), field::<5, 3>(word));
    match (op1, crn, crm, op2) {
        (3, 7, 4, 1) => Ok(Instruction::ZeroBlock { address_register }),
        // IVAC; then IVAU of the instruction cache; CVAC, CVAU, CVAP, CVADP and CIVAC.
        (0, 7, 6, 1) | (3, 7, 5, 1) | (3, 7, 10..=14, 1) => {
            Ok(Instruction::CacheMaintenance { address_register })
        }
        _ => Err(Unsupported),
    }
}
