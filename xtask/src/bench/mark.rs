//! A program for Linux guests that marks a place in the count of instructions.

use super::counter::MARK;

/// The instructions of `mark`: the mark itself, then `exit(0)`: `MOV X0, #0`, `MOV X8, #93`, `SVC #0`.
const CODE: [u32; 4] = [u32::from_le_bytes(MARK), 0xd280_0000, 0xd280_0ba8, 0xd400_0001];

/// Where it is loaded.
const BASE: u64 = 0x1_0000;
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
/// Values of the ELF header: `ET_EXEC`, `EM_AARCH64`, `EV_CURRENT`; of the program header: `PT_LOAD`, `PF_R | PF_X`.
const EXECUTABLE: u16 = 2;
const AARCH64: u16 = 183;
const VERSION: u32 = 1;
const LOAD: u32 = 1;
const READ_EXECUTE: u32 = 5;
/// Class 64 bits, little-endian, version 1; the rest is padding.
const IDENTITY: [u8; 16] = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The program as a static ELF file of one segment.
pub fn program() -> Vec<u8> {
    let headers = u64::from(HEADER + PROGRAM_HEADER);
    let length = headers + size_of_val(&CODE) as u64;
    let mut file = IDENTITY.to_vec();
    let mut half = |value: u16| file.extend(value.to_le_bytes());
    half(EXECUTABLE);
    half(AARCH64);
    file.extend(VERSION.to_le_bytes());
    // Entry, program headers, section headers.
    file.extend([BASE + headers, u64::from(HEADER), 0].into_iter().flat_map(u64::to_le_bytes));
    // Flags, then sizes and numbers of headers: of the file, of segments, of sections.
    file.extend(0u32.to_le_bytes());
    file.extend([HEADER, PROGRAM_HEADER, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    file.extend([LOAD, READ_EXECUTE].into_iter().flat_map(u32::to_le_bytes));
    // Offset, virtual and physical address, size in the file and in memory, alignment.
    file.extend([0, BASE, BASE, length, length, BASE].into_iter().flat_map(u64::to_le_bytes));
    file.extend(CODE.into_iter().flat_map(u32::to_le_bytes));
    file
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSegment};

    use super::*;

    #[test]
    fn the_program_is_an_elf_file_that_begins_with_the_mark() {
        let file = program();
        let elf = object::File::parse(&file[..]).unwrap();
        assert_eq!(elf.architecture(), object::Architecture::Aarch64);
        let segments: Vec<_> = elf.segments().collect();
        let [segment] = &segments[..] else { panic!("{} segments", segments.len()) };
        assert_eq!((segment.address(), segment.size()), (BASE, file.len() as u64));
        let at = usize::try_from(elf.entry() - segment.address()).unwrap();
        let code = &segment.data().unwrap()[at..];
        assert_eq!(code, CODE.map(u32::to_le_bytes).concat());
    }
}
