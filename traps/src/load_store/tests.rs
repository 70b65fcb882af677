//! The decoder against two independent disassemblers, and what its results mean.

use disarm64::decoder_load_store;
use yaxpeax_arch::{Decoder, U8Reader};
use yaxpeax_arm::armv8::a64::InstDecoder;

use super::*;

/// The mnemonics of what is supported, in the disassemblers' spelling, and the one that this module's view of them has.
///
/// Offset forms, non-temporal pairs and kinds of ordering do not differ in what they do to a device.
const MNEMONICS: &[(&str, &str)] = &[
    ("ldur", "ldr"),
    ("stur", "str"),
    ("ldtr", "ldtr"),
    ("sttr", "sttr"),
    ("ldr", "ldr"),
    ("str", "str"),
    ("ldnp", "ldp"),
    ("stnp", "stp"),
    ("ldpsw", "ldpsw"),
    ("ldp", "ldp"),
    ("stp", "stp"),
    ("ldapur", "ldar"),
    ("ldapr", "ldar"),
    ("ldlar", "ldar"),
    ("ldar", "ldar"),
    ("stlur", "stlr"),
    ("stllr", "stlr"),
    ("stlr", "stlr"),
    ("prfum", "prefetch"),
    ("prfm", "prefetch"),
];

/// A line of a disassembler in the spelling of [`spell`]; `None` for an instruction that is not supported.
fn normalise(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let mnemonic = words.next()?;
    let operands: Vec<&str> = words.collect();
    let operands = operands.join(" ");
    // How the disassemblers show registers and extensions that are not allocated.
    if ["<undefined>", "xtb", "xth"].iter().any(|reserved| operands.contains(reserved)) {
        return None;
    }
    let (name, suffix) = MNEMONICS.iter().find_map(|(spelt, meant)| {
        let suffix = mnemonic.strip_prefix(spelt)?;
        matches!(suffix, "" | "b" | "h" | "sb" | "sh" | "sw").then_some((*meant, suffix))
    })?;
    if name == "prefetch" {
        return Some(name.to_string());
    }
    // Literal forms have no base register in brackets.
    let bracket = operands.find('[')?;
    let (targets, address) = operands.split_at(bracket);
    let mut text = format!("{name}{suffix} {targets}");
    for (i, piece) in address.split('#').enumerate() {
        if i == 0 {
            text += piece;
            continue;
        }
        let end = piece.find([']', ',']).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        let negative = number.starts_with('-');
        let digits = number.trim_start_matches('-');
        let value = match digits.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        let value = value.unwrap_or_else(|_| panic!("number in {line:?}"));
        text += &format!("#{}{rest}", if negative { -value } else { value });
    }
    for (spelt, meant) in
        [(", lsl #0]", "]"), ("xtw #0]", "xtw]"), ("xtx #0]", "xtx]"), (", #0]!", ", #0]!")]
    {
        text = text.replace(spelt, meant);
    }
    Some(if text.ends_with(", #0]") { text.replace(", #0]", "]") } else { text })
}

/// The name of a register.
fn name(register: Register, access: &LoadStore) -> String {
    match register {
        Register::Vector(number) => {
            let letter = ["b", "h", "s", "d", "q"][access.size as usize];
            format!("{letter}{number}")
        }
        Register::General(number) => general(number, access.is_64bit, "zr"),
    }
}

fn general(number: u8, is_64bit: bool, thirty_one: &str) -> String {
    let letter = if is_64bit { "x" } else { "w" };
    match (number, thirty_one) {
        (31, "sp") => "sp".to_string(),
        (31, _) => format!("{letter}{thirty_one}"),
        _ => format!("{letter}{number}"),
    }
}

/// The decoded instruction as a line of assembly.
fn spell(instruction: Instruction) -> String {
    let access = match instruction {
        Instruction::Access(access) => access,
        Instruction::Prefetch => return "prefetch".to_string(),
        other => panic!("{other:?}"),
    };
    let mnemonic = match (access.direction, access.second, access.ordered, access.unprivileged) {
        (Direction::Read, Some(_), ..) => "ldp",
        (Direction::Write, Some(_), ..) => "stp",
        (Direction::Read, _, true, _) => "ldar",
        (Direction::Write, _, true, _) => "stlr",
        (Direction::Read, _, _, true) => "ldtr",
        (Direction::Write, _, _, true) => "sttr",
        (Direction::Read, ..) => "ldr",
        (Direction::Write, ..) => "str",
    };
    let suffix = match (access.first, access.size, access.sign_extend) {
        (Register::Vector(_), ..) => "",
        (_, AccessSize::Byte, false) => "b",
        (_, AccessSize::Byte, true) => "sb",
        (_, AccessSize::Halfword, false) => "h",
        (_, AccessSize::Halfword, true) => "sh",
        (_, AccessSize::Word, true) => "sw",
        _ => "",
    };
    let targets: Vec<String> =
        access.elements().map(|element| name(element.register, &access)).collect();
    let base = general(access.base, true, "sp");
    let address = match (access.offset, access.index) {
        (Offset::Immediate(0), Index::Offset) => format!("[{base}]"),
        (Offset::Immediate(bytes), Index::Offset) => format!("[{base}, #{bytes}]"),
        (Offset::Immediate(bytes), Index::Pre) => format!("[{base}, #{bytes}]!"),
        (Offset::Immediate(bytes), Index::Post) => format!("[{base}], #{bytes}"),
        (Offset::Register { number, extend, shift }, Index::Offset) => {
            let (word, is_64bit) = match extend {
                Extend::UnsignedWord => ("uxtw", false),
                Extend::Unsigned => ("lsl", true),
                Extend::SignedWord => ("sxtw", false),
                Extend::Signed => ("sxtx", true),
            };
            let register = general(number, is_64bit, "zr");
            match (extend, shift) {
                (Extend::Unsigned, 0) => format!("[{base}, {register}]"),
                (_, 0) => format!("[{base}, {register}, {word}]"),
                _ => format!("[{base}, {register}, {word} #{shift}]"),
            }
        }
        other => panic!("{other:?}"),
    };
    format!("{mnemonic}{suffix} {}, {address}", targets.join(", "))
}

/// Whether the registers of this instruction overlap in a CONSTRAINED UNPREDICTABLE way. Looks at the encoding only.
fn overlaps(word: u32, line: &str) -> bool {
    let vector = word & 1 << 26 != 0;
    let (rt, rn, rt2) = (word & 31, word >> 5 & 31, word >> 10 & 31);
    let is_pair = line.starts_with("ldp") || line.starts_with("stp");
    let write_back = line.ends_with('!') || line.contains("],");
    let base = !vector && rn != 31 && write_back && (rt == rn || is_pair && rt2 == rn);
    base || is_pair && line.starts_with('l') && rt == rt2
}

/// Compares `word` with both disassemblers.
fn compare(word: u32) {
    let ours = decode(word);
    let first = decoder_load_store::decode(word).and_then(|line| normalise(&line.to_string()));
    let second = InstDecoder::default().decode(&mut U8Reader::new(&word.to_le_bytes()));
    let second = second.ok().and_then(|line| normalise(&line.to_string()));
    match ours {
        Ok(Instruction::CacheMaintenance { .. } | Instruction::ZeroBlock { .. }) => {
            assert_eq!(word >> 22, 0xd500_0000 >> 22, "{word:#010x}: not of the system class");
        }
        Ok(instruction) => {
            let line = Some(spell(instruction));
            assert!(
                first == line && second == line,
                "{word:#010x}: {line:?}, not {first:?} and {second:?}"
            );
        }
        // The disassemblers differ on bits that should be one: then it is no instruction to emulate.
        Err(Unsupported) if first == second => {
            let allowed = first.as_ref().is_none_or(|line| overlaps(word, line));
            assert!(allowed, "{word:#010x}: unsupported, not {first:?}");
        }
        Err(Unsupported) => {}
    }
}

/// The values of bits 29 to 24 that hold loads and stores of one or two registers, and those next to them.
const CLASSES: [u32; 16] = [
    0b00_1000, 0b00_1001, 0b00_1100, 0b00_1101, 0b01_1001, 0b01_1101, 0b10_1000, 0b10_1001,
    0b10_1100, 0b10_1101, 0b11_1000, 0b11_1001, 0b11_1100, 0b11_1101, 0b01_1000, 0b11_0101,
];

/// Words of `class` from a generator of pseudo-random numbers.
fn words(class: u32, count: usize) -> impl Iterator<Item = u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u32 & !(0x3f << 24) | class << 24
    })
}

#[test]
fn random_words_of_every_class_are_decoded_as_two_disassemblers_do() {
    CLASSES.iter().flat_map(|&class| words(class, 20_000)).for_each(compare);
}

#[test]
fn ordered_accesses_are_decoded_as_two_disassemblers_do() {
    // These have fields that must be all ones, which random words miss.
    for word in words(0b00_1000, 20_000) {
        compare(word | 31 << 16 | 31 << 10);
    }
    for word in words(0b11_1000, 20_000) {
        compare(word & !(0xfff << 12) | 0xbfc << 12);
    }
}

#[test]
fn every_opcode_is_decoded_as_two_disassemblers_do() {
    // All bits but those of immediates and registers.
    for class in CLASSES {
        for high in 0..4 {
            for middle in 0..8 {
                for low in 0..64 {
                    for registers in [0x41, 0x001f_0041, 0x001f_03e0, 0x001f_03ff] {
                        compare(high << 30 | class << 24 | middle << 21 | low << 10 | registers);
                    }
                }
            }
        }
    }
}

#[test]
#[ignore = "takes hours: all 2^32 words against both disassemblers"]
fn every_word_is_decoded_as_two_disassemblers_do() {
    (0..=u32::MAX).for_each(compare);
}

#[test]
fn cache_maintenance_and_zeroing_name_their_address_register() {
    let maintenance = |address_register| Ok(Instruction::CacheMaintenance { address_register });
    let table = [
        (0xd508_7620, maintenance(0)),  // dc ivac, x0
        (0xd50b_7521, maintenance(1)),  // ic ivau, x1
        (0xd50b_7a22, maintenance(2)),  // dc cvac, x2
        (0xd50b_7b23, maintenance(3)),  // dc cvau, x3
        (0xd50b_7c24, maintenance(4)),  // dc cvap, x4
        (0xd50b_7d25, maintenance(5)),  // dc cvadp, x5
        (0xd50b_7e3f, maintenance(31)), // dc civac, xzr
        (0xd50b_7427, Ok(Instruction::ZeroBlock { address_register: 7 })), // dc zva, x7
        (0xd50b_7467, Err(Unsupported)), // dc gva, x7: memory tags are hidden
        (0xd508_7640, Err(Unsupported)), // dc isw, x0: traps, does not abort
        (0xd52b_7427, Err(Unsupported)), // sysl
        (0xd503_201f, Err(Unsupported)), // nop
    ];
    for (word, expected) in table {
        assert_eq!(decode(word), expected, "{word:#010x}");
    }
}

#[test]
fn what_must_not_reach_a_device_is_unsupported() {
    let table = [
        (0xc85f_7c20, "ldxr x0, [x1]"),
        (0xc802_7c20, "stxr w2, x0, [x1]"),
        (0xc85f_fc20, "ldaxr x0, [x1]"),
        (0xc87f_0440, "ldxp x0, x1, [x2]"),
        (0xc8a2_7c20, "cas x2, x0, [x1]"),
        (0xf822_0020, "ldadd x2, x0, [x1]"),
        (0xf822_8020, "swp x2, x0, [x1]"),
        (0xf83f_d020, "ld64b x0, [x1]"),
        (0xf83f_9020, "st64b x0, [x1]"),
        (0xf820_0420, "ldraa x0, [x1]"),
        (0x4c40_7020, "ld1 {v0.16b}, [x1]"),
        (0x0d40_8020, "ld1 {v0.s}[0], [x1]"),
        (0x5800_0000, "ldr x0, ."),
        (0xd920_0820, "stg x0, [x1]"),
        (0x6900_0440, "stgp x0, x1, [x2]"),
        (0x1901_0440, "cpyfp"),
        (0xf840_0421, "ldr x1, [x1], #0: target and base"),
        (0xa9c1_0442, "ldp x2, x1, [x2, #16]!: target and base"),
        (0xa940_0021, "ldp x1, x0, [x1] is fine"),
        (0xa940_0420, "ldp x0, x1, [x1] is fine"),
        (0xa940_0020, "ldp x0, x0, [x1]: the same target twice"),
        (0xd65f_03c0, "ret"),
        (0x0000_0000, "udf"),
    ];
    for (word, line) in table {
        assert_eq!(decode(word).is_err(), !line.ends_with("is fine"), "{line}");
    }
}

/// Decodes a word that is known to be a load or store.
fn access(word: u32) -> LoadStore {
    match decode(word) {
        Ok(Instruction::Access(access)) => access,
        other => panic!("{word:#010x}: {other:?}"),
    }
}

#[test]
fn addresses_and_write_back_follow_from_the_registers() {
    let far = 0xffff_8000_0900_0000;
    let table = [
        (0xf840_8c20, far, 0, far + 8, Some(far + 8)), // ldr x0, [x1, #8]!
        (0xb840_8420, far, 0, far, Some(far + 8)),     // ldr w0, [x1], #8
        (0xb85f_c420, far, 0, far, Some(far - 4)),     // ldr w0, [x1], #-4
        (0xf85f_8020, far, 0, far - 8, None),          // ldur x0, [x1, #-8]
        (0x3dff_fc20, far, 0, far + 0xfff0, None),     // ldr q0, [x1, #65520]
        (0xa9c1_0440, far, 0, far + 16, Some(far + 16)), // ldp x0, x1, [x2, #16]!
        (0xa8ff_0440, far, 0, far, Some(far - 16)),    // ldp x0, x1, [x2], #-16
        (0xf862_7820, far, 2, far + 16, None),         // ldr x0, [x1, x2, lsl #3]
        (0xf862_5820, far, 0xdead_beef_0000_0002, far + 16, None), // ldr x0, [x1, w2, uxtw #3]
        (0xf862_d820, far, 0xffff_ffff, far - 8, None), // ldr x0, [x1, w2, sxtw #3]
        (0xf862_e820, far, u64::MAX, far - 1, None),   // ldr x0, [x1, x2, sxtx]
        (0xf840_8c20, u64::MAX, 0, 7, Some(7)),        // wraps
    ];
    for (word, base, offset, address, write_back) in table {
        assert_eq!(
            access(word).resolve(base, offset),
            Resolved { address, write_back },
            "{word:#010x}"
        );
    }
}

#[test]
fn a_pair_has_its_elements_side_by_side() {
    let elements =
        |word| access(word).elements().map(|e| (e.register, e.offset)).collect::<Vec<_>>();
    use Register::{General, Vector};
    assert_eq!(elements(0xa9c1_0440), [(General(0), 0), (General(1), 8)]);
    assert_eq!(elements(0x2941_0440), [(General(0), 0), (General(1), 4)]);
    assert_eq!(elements(0xad41_0440), [(Vector(0), 0), (Vector(1), 16)]);
    assert_eq!(elements(0xf840_8c20), [(General(0), 0)]);
}

#[test]
fn the_offset_register_is_named_or_is_the_zero_register() {
    assert_eq!(access(0xf862_7820).offset_register(), 2);
    assert_eq!(access(0xf840_8c20).offset_register(), 31);
}
