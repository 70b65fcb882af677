//! Instructions that virtual-8086 mode refuses and real mode has: those that exit elsewhere, with all
//! of their operands.

use super::{CodeSize, General, Kind, StringForm, decode, length};
use super::{intercept, memory};
use bunshin::bus::Width;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// A descriptor-table register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableName {
    /// GDTR.
    Gdtr,
    /// IDTR.
    Idtr,
}

/// What a refused instruction is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refused {
    /// INT n.
    Interrupt(u8),
    /// IN, OUT, INS, OUTS.
    Port {
        /// The port; `None` if DX has it.
        port: Option<u8>,
        /// Width of an element.
        width: Width,
        /// IN and INS.
        input: bool,
        /// INS and OUTS.
        string: Option<StringForm>,
    },
    /// LGDT and LIDT.
    LoadTable {
        /// The register.
        table: TableName,
        /// Where limit and base are.
        operand: MemoryOperand,
        /// Only 24 bits of the base count.
        narrow: bool,
    },
    /// SGDT and SIDT.
    StoreTable {
        /// The register.
        table: TableName,
        /// Where limit and base go.
        operand: MemoryOperand,
    },
    /// LMSW with an operand in memory.
    LoadStatusWord(MemoryOperand),
    /// Another instruction.
    Other(Kind),
}

/// An operand in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryOperand(Instruction);

impl MemoryOperand {
    /// Number of its segment register in encodings: ES 0, CS 1, SS 2, DS 3, FS 4, GS 5.
    pub fn segment(&self) -> u8 {
        memory::segment_number(self.0.memory_segment())
    }

    /// Its offset in that segment. `register` gives the full value of a register by number.
    pub fn offset(&self, register: impl Fn(u8) -> u64) -> u32 {
        let value = |name: Register, _, _| {
            // Segments count from zero here.
            Some(General::new(name).map_or(0, |general| general.extract(register(general.number))))
        };
        // The operand is the first, and no vector.
        self.0.virtual_address(0, 0, value).unwrap_or(0) as u32
    }
}

/// Decodes the instruction at the start of `bytes`, and its length with all prefixes; `None` if it is invalid
/// or incomplete.
pub fn refused(bytes: &[u8]) -> Option<(Refused, u8)> {
    let instruction = decode(bytes, CodeSize::Bits16)?;
    Some((what(&instruction), length(&instruction)))
}

fn what(instruction: &Instruction) -> Refused {
    let operand = MemoryOperand(*instruction);
    match instruction.mnemonic() {
        Mnemonic::Int => Refused::Interrupt(instruction.immediate8()),
        Mnemonic::Lgdt | Mnemonic::Lidt => Refused::LoadTable {
            table: table(instruction),
            operand,
            narrow: matches!(instruction.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16),
        },
        Mnemonic::Sgdt | Mnemonic::Sidt => {
            Refused::StoreTable { table: table(instruction), operand }
        }
        Mnemonic::Lmsw if instruction.op0_kind() == OpKind::Memory => {
            Refused::LoadStatusWord(operand)
        }
        _ => match intercept::kind(instruction) {
            Kind::Input { width, .. } => port(instruction, width, true),
            Kind::Output { width, .. } => port(instruction, width, false),
            kind => Refused::Other(kind),
        },
    }
}

fn table(instruction: &Instruction) -> TableName {
    match instruction.mnemonic() {
        Mnemonic::Lgdt | Mnemonic::Sgdt => TableName::Gdtr,
        _ => TableName::Idtr,
    }
}

fn port(instruction: &Instruction, width: Width, input: bool) -> Refused {
    let kind = if input { instruction.op1_kind() } else { instruction.op0_kind() };
    let port = (kind == OpKind::Immediate8).then(|| instruction.immediate8());
    Refused::Port { port, width, input, string: memory::string_form(instruction) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn registers(number: u8) -> u64 {
        0xaaaa_aaaa_0000_0100 + u64::from(number) * 0x1_0001
    }

    fn offset(bytes: &[u8]) -> (u8, u32) {
        match refused(bytes) {
            Some((
                Refused::LoadTable { operand, .. }
                | Refused::StoreTable { operand, .. }
                | Refused::LoadStatusWord(operand),
                _,
            )) => (operand.segment(), operand.offset(registers)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn operands_in_memory_are_found_in_every_form() {
        for (bytes, segment, expected) in [
            // lgdt [0x1234]
            (&[0x0f, 0x01, 0x16, 0x34, 0x12][..], 3, 0x1234),
            // lidt [cs:bx+si+0x10]
            (&[0x2e, 0x0f, 0x01, 0x58, 0x10], 1, 0x103 + 0x106 + 0x10),
            // lgdt [bp+di-1]: the stack's segment
            (&[0x0f, 0x01, 0x53, 0xff], 2, 0x105 + 0x107 - 1),
            // lmsw [bx-0x200]: offsets wrap around at 64 KiB
            (&[0x0f, 0x01, 0xb7, 0x00, 0xfe], 3, 0xff03),
            // lidt [eax+ecx*4+0x10]
            (&[0x67, 0x0f, 0x01, 0x5c, 0x88, 0x10], 3, 0x100 + (0x1_0101 << 2) + 0x10),
            // sidt [fs:esp]
            (&[0x64, 0x67, 0x0f, 0x01, 0x0c, 0x24], 4, 0x4_0104),
            // sgdt [ebp]
            (&[0x67, 0x0f, 0x01, 0x45, 0x00], 2, 0x5_0105),
        ] {
            assert_eq!(offset(bytes), (segment, expected), "{bytes:x?}");
        }
    }

    #[test]
    fn what_real_mode_has_and_virtual_8086_mode_has_not_is_told_apart() {
        let eax = General { number: 0, width: Width::Word, high: false };
        let string =
            |repeat, address_bits, segment| Some(StringForm { repeat, address_bits, segment });
        let port = |port, width, input, string| Refused::Port { port, width, input, string };
        for (bytes, expected) in [
            (&[0xcd, 0x21][..], Refused::Interrupt(0x21)),
            (&[0xf4], Refused::Other(Kind::Hlt)),
            (&[0x0f, 0x32], Refused::Other(Kind::ReadMsr)),
            (&[0x0f, 0x30], Refused::Other(Kind::WriteMsr)),
            (&[0x0f, 0x06], Refused::Other(Kind::ClearTaskSwitched)),
            (&[0x0f, 0x09], Refused::Other(Kind::CacheControl)),
            (&[0x0f, 0x22, 0xc0], Refused::Other(Kind::WriteControl { control: 0, register: eax })),
            (&[0x0f, 0x20, 0xe0], Refused::Other(Kind::ReadControl { control: 4, register: eax })),
            (
                &[0x0f, 0x23, 0xf8],
                Refused::Other(Kind::DebugRegister { debug: 7, register: eax, write: true }),
            ),
            (&[0xe4, 0x60], port(Some(0x60), Width::Byte, true, None)),
            (&[0xe7, 0x80], port(Some(0x80), Width::Half, false, None)),
            (&[0x66, 0xed], port(None, Width::Word, true, None)),
            (&[0xee], port(None, Width::Byte, false, None)),
            (&[0xf3, 0x6c], port(None, Width::Byte, true, string(true, 16, 3))),
            (&[0x67, 0x26, 0x6f], port(None, Width::Half, false, string(false, 32, 0))),
            (&[0x90], Refused::Other(Kind::Other)),
        ] {
            assert_eq!(refused(bytes), Some((expected, bytes.len() as u8)), "{bytes:x?}");
        }
        let narrow = |bytes| match refused(bytes) {
            Some((Refused::LoadTable { table, narrow, .. }, _)) => (table, narrow),
            other => panic!("{other:?}"),
        };
        assert_eq!(narrow(&[0x0f, 0x01, 0x16, 0, 0]), (TableName::Gdtr, true));
        assert_eq!(narrow(&[0x66, 0x0f, 0x01, 0x1e, 0, 0]), (TableName::Idtr, false));
        assert_eq!(refused(&[0x0f]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            match refused(&bytes) {
                Some((
                    Refused::LoadTable { operand, .. }
                    | Refused::StoreTable { operand, .. }
                    | Refused::LoadStatusWord(operand),
                    _,
                )) => {
                    prop_assert!(operand.segment() <= 5);
                    let _ = operand.offset(registers);
                }
                Some((_, length)) => prop_assert!((1..=15).contains(&length)),
                None => {}
            }
        }
    }
}
