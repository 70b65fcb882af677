//! Arithmetic on memory operands, with the status flags.

use bunshin::bus::Width;

/// Carry.
const CF: u64 = 1 << 0;
/// Even number of ones in the low byte.
const PF: u64 = 1 << 2;
/// Carry out of the low four bits.
const AF: u64 = 1 << 4;
/// Zero.
const ZF: u64 = 1 << 6;
/// Sign.
const SF: u64 = 1 << 7;
/// Signed overflow.
const OF: u64 = 1 << 11;

/// The flags of RFLAGS that arithmetic changes.
pub const STATUS_FLAGS: u64 = CF | PF | AF | ZF | SF | OF;

/// An operation on two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alu {
    /// ADD.
    Add,
    /// ADC.
    AddWithCarry,
    /// SUB.
    Sub,
    /// SBB.
    SubWithBorrow,
    /// AND.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
    /// CMP: SUB without result.
    Compare,
    /// TEST: AND without result.
    Test,
    /// INC; the second value is ignored.
    Increment,
    /// DEC; the second value is ignored.
    Decrement,
    /// NOT; the second value is ignored.
    Not,
    /// NEG; the second value is ignored.
    Negate,
    /// BT: the bit goes into the carry flag.
    BitTest,
    /// BTS: and is set.
    BitSet,
    /// BTR: and is cleared.
    BitReset,
    /// BTC: and is inverted.
    BitComplement,
}

impl Alu {
    /// Whether there is a result beside the flags.
    pub const fn has_result(self) -> bool {
        !matches!(self, Alu::Compare | Alu::Test | Alu::BitTest)
    }

    /// The result and RFLAGS of `first op second`.
    pub fn apply(self, first: u64, second: u64, width: Width, rflags: u64) -> (u64, u64) {
        let mask = width.mask();
        let (first, second) = (first & mask, second & mask);
        let carry = rflags & CF;
        let set = |flag: u64, condition: bool| if condition { flag } else { 0 };
        match self {
            Alu::Add => add(first, second, 0, width, rflags),
            Alu::AddWithCarry => add(first, second, carry, width, rflags),
            Alu::Sub | Alu::Compare => subtract(first, second, 0, width, rflags),
            Alu::SubWithBorrow => subtract(first, second, carry, width, rflags),
            Alu::Negate => subtract(0, first, 0, width, rflags),
            // These two leave the carry flag alone.
            Alu::Increment => {
                let (result, flags) = add(first, 1, 0, width, rflags);
                (result, flags & !CF | carry)
            }
            Alu::Decrement => {
                let (result, flags) = subtract(first, 1, 0, width, rflags);
                (result, flags & !CF | carry)
            }
            Alu::And | Alu::Test => logic(first & second, width, rflags),
            Alu::Or => logic(first | second, width, rflags),
            Alu::Xor => logic(first ^ second, width, rflags),
            Alu::Not => (!first & mask, rflags),
            Alu::BitTest | Alu::BitSet | Alu::BitReset | Alu::BitComplement => {
                let number = second & width.bytes().saturating_mul(8).saturating_sub(1);
                let bit = 1u64.wrapping_shl((number & 63) as u32);
                let result = match self {
                    Alu::BitSet => first | bit,
                    Alu::BitReset => first & !bit,
                    Alu::BitComplement => first ^ bit,
                    _ => first,
                };
                (result, rflags & !CF | set(CF, first & bit != 0))
            }
        }
    }
}

fn sign(value: u64, width: Width) -> bool {
    value & (width.mask() ^ width.mask() >> 1) != 0
}

/// `rflags` with the flags of `result`, and carry, adjust and overflow given.
fn flags(result: u64, width: Width, rflags: u64, [cf, af, of]: [bool; 3]) -> u64 {
    let even = (result & 0xff).count_ones() & 1 == 0;
    let conditions =
        [(CF, cf), (PF, even), (AF, af), (ZF, result == 0), (SF, sign(result, width)), (OF, of)];
    conditions
        .into_iter()
        .filter(|(_, condition)| *condition)
        .fold(rflags & !STATUS_FLAGS, |flags, (flag, _)| flags | flag)
}

fn logic(result: u64, width: Width, rflags: u64) -> (u64, u64) {
    (result, flags(result, width, rflags, [false; 3]))
}

fn add(first: u64, second: u64, carry: u64, width: Width, rflags: u64) -> (u64, u64) {
    let wide = u128::from(first).wrapping_add(second.into()).wrapping_add(carry.into());
    let result = (wide & u128::from(width.mask())) as u64;
    let overflow = sign((first ^ result) & (second ^ result), width);
    let adjust = (first ^ second ^ result) & 0x10 != 0;
    let carried = wide > u128::from(width.mask());
    (result, flags(result, width, rflags, [carried, adjust, overflow]))
}

fn subtract(first: u64, second: u64, borrow: u64, width: Width, rflags: u64) -> (u64, u64) {
    let result = first.wrapping_sub(second).wrapping_sub(borrow) & width.mask();
    let overflow = sign((first ^ second) & (first ^ result), width);
    let adjust = (first ^ second ^ result) & 0x10 != 0;
    let borrowed = u128::from(second).wrapping_add(borrow.into()) > u128::from(first);
    (result, flags(result, width, rflags, [borrowed, adjust, overflow]))
}
