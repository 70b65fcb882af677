//! Instructions that a guest executes and the hypervisor finishes.
//!
//! Decoding is done by `iced-x86`; here is only what follows from it. The first
//! decoded instruction builds the decoder's tables on the heap (about 80 KiB),
//! later ones allocate nothing: call [`warm_up`] once at start.

mod alu;
mod intercept;
mod memory;
mod real_mode;
#[cfg(test)]
mod tests;

pub use alu::{Alu, STATUS_FLAGS};
pub use intercept::{Intercepted, Kind, intercepted};
pub use memory::{
    Access, Extension, MemoryInstruction, Operation, Outcome, Source, StringForm,
    memory_instruction,
};
pub use real_mode::{MemoryOperand, Refused, TableName, refused};

use bunshin::bus::Width;
use iced_x86::{Decoder, DecoderOptions, Instruction, MemorySize, Register};

/// Length of the longest instruction in bytes.
pub const LONGEST_INSTRUCTION: usize = 15;

/// Default operand size of the code segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, 16-bit protected mode.
    Bits16,
    /// 32-bit protected mode, compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeSize {
    const fn bits(self) -> u32 {
        match self {
            CodeSize::Bits16 => 16,
            CodeSize::Bits32 => 32,
            CodeSize::Bits64 => 64,
        }
    }
}

/// A general register, or a byte of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct General {
    /// Number in instruction encodings: RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, ...
    pub number: u8,
    /// How much of it.
    pub width: Width,
    /// Bits 15:8 (AH, CH, DH, BH) instead of 7:0.
    pub high: bool,
}

/// Position of `register` in the run of `count` registers from `first` on. The
/// decoder numbers the registers of one kind consecutively.
fn position(register: Register, first: Register, count: u8) -> Option<u8> {
    let position = u8::try_from((register as u32).checked_sub(first as u32)?).ok()?;
    (position < count).then_some(position)
}

/// AL, CL, DL, BL, then AH, CH, DH, BH, then SPL and the others up to R15L.
const BYTE_REGISTERS: u8 = 20;
/// Registers whose byte is bits 7:0 without REX prefix.
const LEGACY_LOW: u8 = 4;

impl General {
    fn new(register: Register) -> Option<Self> {
        if let Some(position) = position(register, Register::AL, BYTE_REGISTERS) {
            let high = (LEGACY_LOW..2 * LEGACY_LOW).contains(&position);
            let number =
                if position < LEGACY_LOW { position } else { position.saturating_sub(LEGACY_LOW) };
            return Some(General { number, width: Width::Byte, high });
        }
        [(Register::AX, Width::Half), (Register::EAX, Width::Word), (Register::RAX, Width::Double)]
            .into_iter()
            .find_map(|(first, width)| {
                Some(General { number: position(register, first, 16)?, width, high: false })
            })
    }

    /// The register's part of `full`, zero-extended.
    pub const fn extract(self, full: u64) -> u64 {
        let shifted = if self.high { full >> 8 } else { full };
        shifted & self.width.mask()
    }

    /// The full register after `value` went into this part of `full`: 8 and
    /// 16 bits keep the rest, 32 bits clear the high half.
    pub const fn insert(self, full: u64, value: u64) -> u64 {
        let value = value & self.width.mask();
        match self.width {
            Width::Word | Width::Double => value,
            Width::Byte if self.high => full & !0xff00 | value << 8,
            Width::Byte | Width::Half => full & !self.width.mask() | value,
        }
    }
}

fn decode(bytes: &[u8], size: CodeSize) -> Option<Instruction> {
    let bytes = bytes.get(..LONGEST_INSTRUCTION).unwrap_or(bytes);
    let mut decoder = Decoder::try_new(size.bits(), bytes, DecoderOptions::NONE).ok()?;
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Width of the memory operand; `None` for what is no plain integer.
fn memory_width(instruction: &Instruction) -> Option<Width> {
    match instruction.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => Some(Width::Byte),
        MemorySize::UInt16 | MemorySize::Int16 => Some(Width::Half),
        MemorySize::UInt32 | MemorySize::Int32 => Some(Width::Word),
        MemorySize::UInt64 | MemorySize::Int64 => Some(Width::Double),
        _ => None,
    }
}

fn length(instruction: &Instruction) -> u8 {
    // Never more than 15.
    (instruction.len() & 0xf) as u8
}

/// Builds the decoder's tables.
pub fn warm_up() {
    const NOP: &[u8] = &[0x90];
    let _ = decode(NOP, CodeSize::Bits64);
}
