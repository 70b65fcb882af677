//! The guest's instructions and data, by linear address.

use x86_backend::machine::decode::{CodeSize, LONGEST_INSTRUCTION};
use x86_backend::machine::registers::Attributes;
use x86_backend::state::{DR6_BS, EFER_LMA, RFLAGS_TF, SegmentName};
use x86_backend::translate::Paging;

use super::X86Vcpu;
use crate::engine::{Engine, Field};

impl<E: Engine> X86Vcpu<E> {
    pub(super) fn paging(&self) -> Paging {
        Paging {
            cr0: self.field(Field::Cr0),
            cr3: self.field(Field::Cr3),
            cr4: self.field(Field::Cr4),
            efer: self.field(Field::Efer),
        }
    }

    /// Size of the code that runs: 16, 32 or 64 bits.
    pub(super) fn code_bits(&self) -> u32 {
        let attributes = self.engine.segment(SegmentName::Cs).attributes;
        if self.field(Field::Efer) & EFER_LMA != 0 && attributes.contains(Attributes::LONG) {
            64
        } else if attributes.contains(Attributes::BIG) {
            32
        } else {
            16
        }
    }

    /// The same as the decoder takes it.
    pub(super) fn code_size(&self) -> CodeSize {
        match self.code_bits() {
            64 => CodeSize::Bits64,
            32 => CodeSize::Bits32,
            _ => CodeSize::Bits16,
        }
    }

    /// Base of a segment: in 64-bit code only FS and GS have one.
    pub(super) fn segment_base(&self, name: SegmentName) -> u64 {
        match name {
            SegmentName::Fs | SegmentName::Gs => self.engine.segment(name).base,
            _ if self.code_bits() == 64 => 0,
            _ => self.engine.segment(name).base,
        }
    }

    /// The bytes at the instruction pointer, as many as are mapped.
    pub(super) fn fetch(&self, bytes: &mut [u8; LONGEST_INSTRUCTION]) -> usize {
        self.paging().read(&*self.pc.ram, self.code_address(), bytes)
    }

    /// Linear address of the instruction that exited.
    fn code_address(&self) -> u64 {
        self.segment_base(SegmentName::Cs).wrapping_add(self.field(Field::Rip))
    }

    /// Moves on past the instruction that exited. `plain` is its length
    /// without prefixes, for hardware that does not tell.
    pub(super) fn skip(&mut self, plain: u8) {
        let length = match self.decoded_length.or_else(|| self.engine.instruction_length()) {
            Some(length) => length,
            None => self.prefixes().saturating_add(plain),
        };
        self.advance(length);
    }

    /// Moves on by `length` bytes.
    pub(super) fn advance(&mut self, length: u8) {
        let next = self.field(Field::Rip).wrapping_add(u64::from(length));
        let mask = if self.code_bits() == 64 { u64::MAX } else { u64::from(u32::MAX) };
        self.engine.write(Field::Rip, next & mask);
        self.engine.clear_shadow();
        let rflags = self.field(Field::Rflags);
        if rflags & RFLAGS_TF != 0 {
            self.engine.add_debug_causes(DR6_BS);
            self.raise_fault(x86_backend::event::DEBUG);
        }
    }

    /// Length of the prefixes of the instruction that exited.
    fn prefixes(&self) -> u8 {
        let long = self.code_bits() == 64;
        // Nearly always there are none, and the opcode has two bytes or more.
        let first = self.paging().byte(&*self.pc.ram, self.code_address());
        if first == Some(ESCAPE) || first.is_some_and(|byte| !is_prefix(byte, long)) {
            return 0;
        }
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let known = self.fetch(&mut bytes);
        let count = bytes.iter().take(known).take_while(|byte| is_prefix(**byte, long)).count();
        u8::try_from(count).unwrap_or(0)
    }
}

/// The first byte of opcodes of two bytes or more.
const ESCAPE: u8 = 0x0f;

/// Whether a byte in front of an opcode is a prefix, in 64-bit code or other.
fn is_prefix(byte: u8, long: bool) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
        || (long && byte & 0xf0 == 0x40)
}
