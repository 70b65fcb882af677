use super::*;
use proptest::prelude::*;

const fn general(number: u8, width: Width) -> General {
    General { number, width, high: false }
}

const EAX: General = general(0, Width::Word);
const RAX: General = general(0, Width::Double);
const AL: General = general(0, Width::Byte);
const ECX: General = general(1, Width::Word);
const DX: General = general(2, Width::Half);
const BH: General = General { number: 3, width: Width::Byte, high: true };
const SIL: General = general(6, Width::Byte);
const R9D: General = general(9, Width::Word);
const R15: General = general(15, Width::Double);

fn load(register: General, extension: Extension) -> Operation {
    Operation::Load { register, extension }
}

fn store(register: General) -> Operation {
    Operation::Store(Source::Register(register))
}

#[test]
fn moves_between_registers_and_memory_are_understood() {
    use CodeSize::*;
    use Extension::{Sign, Zero};
    for (bytes, size, width, operation) in [
        (&[0x8b, 0x03][..], Bits64, Width::Word, load(EAX, Zero)),
        (&[0x48, 0x8b, 0x03], Bits64, Width::Double, load(RAX, Zero)),
        (&[0x8a, 0x03], Bits64, Width::Byte, load(AL, Zero)),
        (&[0x8a, 0x3b], Bits64, Width::Byte, load(BH, Zero)),
        (&[0x40, 0x8a, 0x33], Bits64, Width::Byte, load(SIL, Zero)),
        (&[0x66, 0x8b, 0x13], Bits64, Width::Half, load(DX, Zero)),
        (&[0x44, 0x8b, 0x8b, 0x20, 0, 0, 0], Bits64, Width::Word, load(R9D, Zero)),
        (&[0x0f, 0xb6, 0x03], Bits64, Width::Byte, load(EAX, Zero)),
        (&[0x0f, 0xb7, 0x03], Bits64, Width::Half, load(EAX, Zero)),
        (&[0x48, 0x0f, 0xbe, 0x03], Bits64, Width::Byte, load(RAX, Sign)),
        (&[0x48, 0x63, 0x03], Bits64, Width::Word, load(RAX, Sign)),
        (&[0x89, 0x03], Bits64, Width::Word, store(EAX)),
        (&[0x4c, 0x89, 0x3c, 0x24], Bits64, Width::Double, store(R15)),
        (&[0x88, 0x3b], Bits64, Width::Byte, store(BH)),
        (&[0x0f, 0xc3, 0x03], Bits64, Width::Word, store(EAX)),
        (&[0xa1, 0xf0, 0x00, 0xe0, 0xfe], Bits32, Width::Word, load(EAX, Zero)),
        (&[0xa3, 0xb0, 0x00, 0xe0, 0xfe], Bits32, Width::Word, store(EAX)),
        (&[0x66, 0xa1, 0x34, 0x12], Bits16, Width::Word, load(EAX, Zero)),
        (&[0xc7, 0x03, 1, 0, 0, 0], Bits64, Width::Word, Operation::Store(Source::Immediate(1))),
        (
            &[0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff],
            Bits64,
            Width::Double,
            Operation::Store(Source::Immediate(u64::MAX)),
        ),
        (&[0xc6, 0x03, 0x80], Bits64, Width::Byte, Operation::Store(Source::Immediate(0x80))),
        (&[0x87, 0x03], Bits64, Width::Word, Operation::Exchange(EAX)),
    ] {
        let expected =
            MemoryInstruction { length: bytes.len() as u8, width, operation, string: None };
        assert_eq!(memory_instruction(bytes, size), Some(expected), "{bytes:x?}");
    }
}

#[test]
fn arithmetic_on_memory_is_understood() {
    use Operation::{Combine, Update};
    use Source::{Immediate, Register};
    for (bytes, width, operation) in [
        (&[0x09, 0x03][..], Width::Word, Update(Alu::Or, Register(EAX))),
        (&[0xf0, 0x21, 0x03], Width::Word, Update(Alu::And, Register(EAX))),
        (&[0x83, 0x0b, 0xf0], Width::Word, Update(Alu::Or, Immediate(0xffff_ffff_ffff_fff0))),
        (&[0x80, 0x23, 0xfe], Width::Byte, Update(Alu::And, Immediate(0xfe))),
        (&[0x31, 0x0b], Width::Word, Update(Alu::Xor, Register(ECX))),
        (&[0x23, 0x03], Width::Word, Combine(Alu::And, EAX)),
        (&[0x3b, 0x0b], Width::Word, Combine(Alu::Compare, ECX)),
        (&[0x39, 0x0b], Width::Word, Update(Alu::Compare, Register(ECX))),
        (&[0x81, 0x3b, 1, 0, 0, 0], Width::Word, Update(Alu::Compare, Immediate(1))),
        (&[0x85, 0x03], Width::Word, Update(Alu::Test, Register(EAX))),
        (&[0xf7, 0x03, 0, 0x10, 0, 0], Width::Word, Update(Alu::Test, Immediate(0x1000))),
        (&[0xf6, 0x03, 0x20], Width::Byte, Update(Alu::Test, Immediate(0x20))),
        (&[0xff, 0x03], Width::Word, Update(Alu::Increment, Immediate(0))),
        (&[0xf7, 0x13], Width::Word, Update(Alu::Not, Immediate(0))),
        (&[0x0f, 0xba, 0x2b, 5], Width::Word, Update(Alu::BitSet, Immediate(5))),
    ] {
        let found = memory_instruction(bytes, CodeSize::Bits64).unwrap();
        assert_eq!((found.width, found.operation), (width, operation), "{bytes:x?}");
        assert_eq!(usize::from(found.length), bytes.len());
    }
}

#[test]
fn string_instructions_say_how_they_count() {
    let string = |repeat, address_bits, segment| StringForm { repeat, address_bits, segment };
    for (bytes, size, width, operation, form) in [
        (&[0xf3, 0xab][..], CodeSize::Bits64, Width::Word, store(EAX), string(true, 64, 3)),
        (&[0x67, 0x48, 0xab], CodeSize::Bits64, Width::Double, store(RAX), string(false, 32, 3)),
        (&[0xf3, 0xa4], CodeSize::Bits32, Width::Byte, Operation::Copy, string(true, 32, 3)),
        (&[0x65, 0xa5], CodeSize::Bits64, Width::Word, Operation::Copy, string(false, 64, 5)),
        (
            &[0x2e, 0xac],
            CodeSize::Bits16,
            Width::Byte,
            load(AL, Extension::Zero),
            string(false, 16, 1),
        ),
    ] {
        let found = memory_instruction(bytes, size).unwrap();
        assert_eq!((found.width, found.operation), (width, operation), "{bytes:x?}");
        assert_eq!(found.string, Some(form), "{bytes:x?}");
    }
}

#[test]
fn what_nobody_does_to_a_device_is_not_understood() {
    for bytes in [
        &[0x90][..],
        &[0x8b, 0xc3],
        &[0xff, 0x33],
        &[0xff, 0x13],
        &[0x0f, 0x11, 0x03],
        &[0xf2, 0x0f, 0x10, 0x03],
        &[0x0f, 0xb1, 0x0b],
        &[0x0f, 0xab, 0x03],
        &[0xf3, 0xa6],
        &[0x8b],
        &[0x48],
        &[0x0f, 0x0b],
        &[],
        &[0x66; 15],
    ] {
        assert_eq!(memory_instruction(bytes, CodeSize::Bits64), None, "{bytes:x?}");
    }
}

#[test]
fn registers_are_filled_as_the_width_demands() {
    let old = 0x1122_3344_5566_7788;
    for (register, value, expected) in [
        (AL, 0xff, 0x1122_3344_5566_77ff),
        (General { high: true, ..AL }, 0xff, 0x1122_3344_5566_ff88),
        (general(0, Width::Half), 0xffff, 0x1122_3344_5566_ffff),
        (EAX, 0xffff_ffff, 0xffff_ffff),
        (RAX, u64::MAX, u64::MAX),
    ] {
        assert_eq!(register.insert(old, value), expected);
        assert_eq!(register.extract(expected), value);
    }
}

/// Executes an instruction on one device register.
fn execute(bytes: &[u8], registers: &mut [u64; 16], memory: &mut u64, rflags: u64) -> u64 {
    let instruction = memory_instruction(bytes, CodeSize::Bits64).unwrap();
    let value = *registers;
    let get = |number: u8| value[usize::from(number)];
    match instruction.start(get) {
        Access::Write(value) => {
            *memory = value;
            rflags
        }
        Access::Read => {
            let outcome = instruction.after_read(*memory, get, rflags);
            if let Some((number, value)) = outcome.register {
                registers[usize::from(number)] = value;
            }
            *memory = outcome.write.unwrap_or(*memory);
            outcome.rflags
        }
    }
}

#[test]
fn instructions_do_what_they_say() {
    for (bytes, rax, memory, rax_after, memory_after, flags) in [
        (&[0x8a, 0x03][..], u64::MAX, 0x12, 0xffff_ffff_ffff_ff12, 0x12, 0),
        (&[0x8b, 0x03], u64::MAX, 0x9234_5678, 0x9234_5678, 0x9234_5678, 0),
        (&[0x0f, 0xbe, 0x03], u64::MAX, 0x80, 0xffff_ff80, 0x80, 0),
        (&[0x66, 0x0f, 0xbe, 0x03], 0, 0x80, 0xff80, 0x80, 0),
        (&[0x48, 0x63, 0x03], 0, 0x8000_0000, 0xffff_ffff_8000_0000, 0x8000_0000, 0),
        (&[0x89, 0x03], u64::MAX, 0, u64::MAX, 0xffff_ffff, 0),
        (&[0x88, 0x23], 0x1234, 0, 0x1234, 0x12, 0),
        (&[0x09, 0x03], 0x0f, 0xf0, 0x0f, 0xff, 0x4),
        (&[0x21, 0x03], 0x0f, 0xf0, 0x0f, 0, 0x44),
        (&[0x83, 0x2b, 0x01], 0, 0, 0, 0xffff_ffff, 0x95),
        (&[0xff, 0x03], 0, 0x7fff_ffff, 0, 0x8000_0000, 0x894),
        (&[0x3b, 0x03], 5, 5, 5, 5, 0x44),
        (&[0x85, 0x03], 1, 1, 1, 1, 0),
        (&[0x23, 0x03], 0xf0f0, 0xff00, 0xf000, 0xff00, 0x4),
        (&[0x87, 0x03], 0xffff_0000_0000_0001, 2, 2, 1, 0),
        (&[0x0f, 0xba, 0x33, 4], 0, 0x10, 0, 0, 1),
    ] {
        let mut registers = [0; 16];
        registers[0] = rax;
        let mut memory = memory;
        let after = execute(bytes, &mut registers, &mut memory, 0);
        assert_eq!(
            (registers[0], memory, after),
            (rax_after, memory_after, flags),
            "{bytes:x?}: {:#x} {memory:#x} {after:#x}",
            registers[0]
        );
    }
}

#[test]
fn intercepted_instructions_have_their_length_with_prefixes() {
    use Kind::*;
    for (bytes, size, kind) in [
        (&[0x0f, 0xa2][..], CodeSize::Bits64, Cpuid),
        (&[0x66, 0x0f, 0xa2], CodeSize::Bits64, Cpuid),
        (&[0xf4], CodeSize::Bits64, Hlt),
        (&[0x0f, 0x32], CodeSize::Bits64, ReadMsr),
        (&[0x2e, 0x0f, 0x30], CodeSize::Bits32, WriteMsr),
        (&[0x0f, 0x01, 0xd9], CodeSize::Bits64, Hypercall),
        (&[0x0f, 0x01, 0xc1], CodeSize::Bits64, Hypercall),
        (&[0x0f, 0x01, 0xd1], CodeSize::Bits64, SetExtendedControl),
        (&[0x0f, 0x01, 0xf9], CodeSize::Bits64, ReadTscAndAux),
        (&[0xf3, 0x90], CodeSize::Bits64, Pause),
        (&[0x0f, 0x09], CodeSize::Bits64, CacheControl),
        (&[0x0f, 0x01, 0x38], CodeSize::Bits64, InvalidatePage),
        (&[0x0f, 0x06], CodeSize::Bits16, ClearTaskSwitched),
        (&[0xec], CodeSize::Bits64, Input { width: Width::Byte, string: false }),
        (&[0x66, 0xed], CodeSize::Bits64, Input { width: Width::Half, string: false }),
        (&[0xe5, 0x60], CodeSize::Bits64, Input { width: Width::Word, string: false }),
        (&[0xe6, 0x80], CodeSize::Bits16, Output { width: Width::Byte, string: false }),
        (&[0xf3, 0x6e], CodeSize::Bits64, Output { width: Width::Byte, string: true }),
        (&[0xf3, 0x66, 0x6d], CodeSize::Bits64, Input { width: Width::Half, string: true }),
        (&[0x0f, 0x22, 0xc0], CodeSize::Bits64, WriteControl { control: 0, register: RAX }),
        (&[0x41, 0x0f, 0x22, 0xdf], CodeSize::Bits64, WriteControl { control: 3, register: R15 }),
        (&[0x0f, 0x20, 0xe0], CodeSize::Bits32, ReadControl { control: 4, register: EAX }),
        (&[0x44, 0x0f, 0x20, 0xc0], CodeSize::Bits64, ReadControl { control: 8, register: RAX }),
        (&[0x0f, 0x01, 0xf0], CodeSize::Bits64, LoadStatusWord(Some(EAX))),
        (&[0x0f, 0x01, 0x30], CodeSize::Bits64, LoadStatusWord(None)),
        (
            &[0x0f, 0x23, 0xf8],
            CodeSize::Bits64,
            DebugRegister { debug: 7, register: RAX, write: true },
        ),
        (&[0x90], CodeSize::Bits64, Other),
    ] {
        let mut padded = bytes.to_vec();
        padded.resize(20, 0xcc);
        let expected = Intercepted { kind, length: bytes.len() as u8 };
        assert_eq!(intercepted(&padded, size), Some(expected), "{bytes:x?}");
    }
}

/// Flags by their definitions, in wide signed arithmetic.
fn model(alu: Alu, first: u64, second: u64, width: Width, carry: bool) -> (u64, [bool; 5]) {
    let bits = width.bytes() * 8;
    let signed = |value: u64| i128::from((value << (64 - bits)) as i64 >> (64 - bits));
    let (a, b) = (i128::from(first & width.mask()), i128::from(second & width.mask()));
    let c = i128::from(carry);
    let (exact, exact_signed) = match alu {
        Alu::Add => (a + b, signed(first) + signed(second)),
        Alu::AddWithCarry => (a + b + c, signed(first) + signed(second) + c),
        Alu::Sub | Alu::Compare => (a - b, signed(first) - signed(second)),
        Alu::SubWithBorrow => (a - b - c, signed(first) - signed(second) - c),
        _ => unreachable!(),
    };
    let result = exact as u64 & width.mask();
    let range = i128::from(width.mask());
    let carried = exact < 0 || exact > range;
    let overflow = exact_signed != signed(result);
    let even = (result as u8).count_ones().is_multiple_of(2);
    (result, [carried, even, result == 0, signed(result) < 0, overflow])
}

proptest! {
    #[test]
    fn sums_and_differences_agree_with_wide_arithmetic(
        first in any::<u64>(), second in any::<u64>(), near in any::<bool>(), carry in any::<bool>(),
        width in prop_oneof![
            Just(Width::Byte), Just(Width::Half), Just(Width::Word), Just(Width::Double)],
        alu in prop_oneof![
            Just(Alu::Add), Just(Alu::AddWithCarry), Just(Alu::Sub), Just(Alu::SubWithBorrow),
            Just(Alu::Compare)],
    ) {
        let second = if near { first.wrapping_add(second % 3) } else { second };
        let other_flags = 0x202;
        let (result, rflags) = alu.apply(first, second, width, other_flags | u64::from(carry));
        let (expected, flags) = model(alu, first, second, width, carry);
        prop_assert_eq!(result, expected);
        let bits = [0, 2, 6, 7, 11].map(|bit| rflags >> bit & 1 == 1);
        prop_assert_eq!(bits, flags);
        prop_assert_eq!(rflags & !STATUS_FLAGS, other_flags);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..20), value in any::<u64>()
    ) {
        for size in [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64] {
            if let Some(found) = intercepted(&bytes, size) {
                prop_assert!((1..=15).contains(&found.length));
            }
            if let Some(instruction) = memory_instruction(&bytes, size) {
                instruction.start(|_| value);
                instruction.after_read(value, |_| !value, value);
            }
        }
    }
}
