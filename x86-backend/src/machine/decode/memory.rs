//! Instructions with one operand in memory that is a device's register.

use super::{Alu, CodeSize, General, decode, length, memory_width};
use bunshin::bus::Width;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// How a value read fills its register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// With zeros, or exactly.
    Zero,
    /// With its sign.
    Sign,
}

/// A value that goes into memory or into an operation with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a register.
    Register(General),
    /// Part of the instruction, sign-extended to 64 bits where the instruction does so.
    Immediate(u64),
}

/// What an instruction does with its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Register from memory: MOV, MOVZX, MOVSX, MOVSXD, LODS.
    Load {
        /// Destination.
        register: General,
        /// Treatment of its upper bits.
        extension: Extension,
    },
    /// Memory from register or immediate: MOV, MOVNTI, STOS.
    Store(Source),
    /// Memory from memory and another value: ADD, OR, AND, ... The comparisons,
    /// which have no result, read only.
    Update(Alu, Source),
    /// Register from itself and memory: ADD, OR, AND, ...
    Combine(Alu, General),
    /// Register and memory change places: XCHG.
    Exchange(General),
    /// Memory from memory: MOVS. One side, or both, may be a device.
    Copy,
}

/// A string instruction's further operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringForm {
    /// Prefixed: RCX counts.
    pub repeat: bool,
    /// Width of RSI, RDI and RCX in bits: 16, 32 or 64.
    pub address_bits: u32,
    /// Segment of the source, numbered as in encodings: ES 0, CS 1, SS 2, DS
    /// 3, FS 4, GS 5. The destination's is always ES.
    pub segment: u8,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInstruction {
    /// Length in bytes.
    pub length: u8,
    /// Width of the access to memory.
    pub width: Width,
    /// What it does.
    pub operation: Operation,
    /// Present for string instructions.
    pub string: Option<StringForm>,
}

/// The first access of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read; then go on with [`MemoryInstruction::after_read`].
    Read,
    /// Write this; then the instruction is done.
    Write(u64),
}

/// What a read leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Number and new full value of a register.
    pub register: Option<(u8, u64)>,
    /// RFLAGS.
    pub rflags: u64,
    /// Value to be written back to the same address.
    pub write: Option<u64>,
}

impl MemoryInstruction {
    /// The first access. `register` gives the full value of a register by
    /// number. [`Operation::Copy`] reads.
    pub fn start(&self, register: impl Fn(u8) -> u64) -> Access {
        match self.operation {
            Operation::Store(source) => {
                Access::Write(value_of(source, register) & self.width.mask())
            }
            _ => Access::Read,
        }
    }

    /// Goes on after `value` was read from memory.
    pub fn after_read(&self, value: u64, register: impl Fn(u8) -> u64, rflags: u64) -> Outcome {
        let value = value & self.width.mask();
        let nothing = Outcome { register: None, rflags, write: None };
        match self.operation {
            Operation::Load { register: to, extension } => {
                let extended = match extension {
                    Extension::Zero => value,
                    Extension::Sign => sign_extend(value, self.width),
                };
                let full = to.insert(register(to.number), extended);
                Outcome { register: Some((to.number, full)), ..nothing }
            }
            Operation::Update(alu, source) => {
                let other = value_of(source, register);
                let (result, rflags) = alu.apply(value, other, self.width, rflags);
                Outcome { rflags, write: alu.has_result().then_some(result), ..nothing }
            }
            Operation::Combine(alu, to) => {
                let old = register(to.number);
                let (result, rflags) = alu.apply(to.extract(old), value, self.width, rflags);
                let changed = alu.has_result().then(|| (to.number, to.insert(old, result)));
                Outcome { register: changed, rflags, write: None }
            }
            Operation::Exchange(with) => {
                let old = register(with.number);
                Outcome {
                    register: Some((with.number, with.insert(old, value))),
                    rflags,
                    write: Some(with.extract(old)),
                }
            }
            Operation::Copy => Outcome { write: Some(value), ..nothing },
            Operation::Store(_) => nothing,
        }
    }
}

fn value_of(source: Source, register: impl Fn(u8) -> u64) -> u64 {
    match source {
        Source::Register(general) => general.extract(register(general.number)),
        Source::Immediate(value) => value,
    }
}

fn sign_extend(value: u64, width: Width) -> u64 {
    let sign = width.mask() ^ width.mask() >> 1;
    if value & sign != 0 { value | !width.mask() } else { value }
}

/// Decodes the instruction at the start of `bytes`. `None` if it is
/// incomplete, has no memory operand, or does with it what nobody does with a
/// device's registers.
pub fn memory_instruction(bytes: &[u8], size: CodeSize) -> Option<MemoryInstruction> {
    let instruction = decode(bytes, size)?;
    let operation = operation(&instruction)?;
    let width = memory_width(&instruction)?;
    let string = string_form(&instruction);
    Some(MemoryInstruction { length: length(&instruction), width, operation, string })
}

fn is_memory(kind: OpKind) -> bool {
    kind == OpKind::Memory
}

fn general(instruction: &Instruction, operand: u32) -> Option<General> {
    let kind = instruction.try_op_kind(operand).ok()?;
    let register = instruction.try_op_register(operand).ok()?;
    if kind == OpKind::Register { General::new(register) } else { None }
}

/// Operand 1 as a source for a memory operand 0.
fn source(instruction: &Instruction) -> Option<Source> {
    if let Some(register) = general(instruction, 1) {
        return Some(Source::Register(register));
    }
    instruction.try_immediate(1).ok().map(Source::Immediate)
}

fn operation(instruction: &Instruction) -> Option<Operation> {
    let to_memory = is_memory(instruction.op0_kind());
    let from_memory = is_memory(instruction.op1_kind());
    let load = |extension| {
        let register = general(instruction, 0)?;
        from_memory.then_some(Operation::Load { register, extension })
    };
    let alu = |alu: Alu| {
        if to_memory {
            Some(Operation::Update(alu, source(instruction)?))
        } else if from_memory {
            Some(Operation::Combine(alu, general(instruction, 0)?))
        } else {
            None
        }
    };
    // The bit of a register operand may lie in another word.
    let bit = |alu: Alu| {
        let number = instruction.try_immediate(1).ok()?;
        to_memory.then_some(Operation::Update(alu, Source::Immediate(number)))
    };
    let unary = |alu: Alu| to_memory.then_some(Operation::Update(alu, Source::Immediate(0)));
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti if to_memory => {
            Some(Operation::Store(source(instruction)?))
        }
        Mnemonic::Mov | Mnemonic::Movzx => load(Extension::Zero),
        Mnemonic::Movsx | Mnemonic::Movsxd => load(Extension::Sign),
        Mnemonic::Add => alu(Alu::Add),
        Mnemonic::Adc => alu(Alu::AddWithCarry),
        Mnemonic::Sub => alu(Alu::Sub),
        Mnemonic::Sbb => alu(Alu::SubWithBorrow),
        Mnemonic::And => alu(Alu::And),
        Mnemonic::Or => alu(Alu::Or),
        Mnemonic::Xor => alu(Alu::Xor),
        Mnemonic::Cmp => alu(Alu::Compare),
        Mnemonic::Test => alu(Alu::Test),
        Mnemonic::Inc => unary(Alu::Increment),
        Mnemonic::Dec => unary(Alu::Decrement),
        Mnemonic::Not => unary(Alu::Not),
        Mnemonic::Neg => unary(Alu::Negate),
        Mnemonic::Bt => bit(Alu::BitTest),
        Mnemonic::Bts => bit(Alu::BitSet),
        Mnemonic::Btr => bit(Alu::BitReset),
        Mnemonic::Btc => bit(Alu::BitComplement),
        Mnemonic::Xchg if to_memory => Some(Operation::Exchange(general(instruction, 1)?)),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            Some(Operation::Store(Source::Register(general(instruction, 1)?)))
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            let register = general(instruction, 0)?;
            Some(Operation::Load { register, extension: Extension::Zero })
        }
        // The vector instruction of the same name has register operands.
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq
            if string_form(instruction).is_some() =>
        {
            Some(Operation::Copy)
        }
        _ => None,
    }
}

pub(super) fn string_form(instruction: &Instruction) -> Option<StringForm> {
    let bits = |kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(16),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(32),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(64),
        _ => None,
    };
    let address_bits = bits(instruction.op0_kind()).or(bits(instruction.op1_kind()))?;
    let segment = segment_number(instruction.segment_prefix());
    let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    Some(StringForm { repeat, address_bits, segment })
}

/// Number of a segment register in encodings; that of DS for anything else.
pub(super) fn segment_number(register: Register) -> u8 {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}
