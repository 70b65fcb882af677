//! A program for Linux guests that marks a place in the count of instructions.

use object::elf::{EM_AARCH64, EM_X86_64};

use super::counter;
use crate::arch::Arch;

/// What follows the mark: `exit(0)`.
fn exit(arch: Arch) -> Vec<u8> {
    /// `MOV X0, #0`, `MOV X8, #93`, `SVC #0`.
    const AARCH64: [u32; 3] = [0xd280_0000, 0xd280_0ba8, 0xd400_0001];
    /// `XOR EDI, EDI`, `MOV EAX, 60`, `SYSCALL`.
    const X86_64: [u8; 9] = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    match arch {
        Arch::Aarch64 => AARCH64.map(u32::to_le_bytes).concat(),
        Arch::X86_64 => X86_64.to_vec(),
    }
}

/// Where it is loaded.
const BASE: u64 = 0x1_0000;
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
/// Values of the ELF header: `ET_EXEC`, `EV_CURRENT`; of the program header: `PT_LOAD`, `PF_R | PF_X`.
const EXECUTABLE: u16 = 2;
const VERSION: u32 = 1;
const LOAD: u32 = 1;
const READ_EXECUTE: u32 = 5;
/// Class 64 bits, little-endian, version 1; the rest is padding.
const IDENTITY: [u8; 16] = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The program as a static ELF file of one segment.
pub fn program(arch: Arch) -> Vec<u8> {
    let headers = u64::from(HEADER + PROGRAM_HEADER);
    let code = [counter::mark(arch), &exit(arch)].concat();
    let length = headers + code.len() as u64;
    let mut file = IDENTITY.to_vec();
    let mut half = |value: u16| file.extend(value.to_le_bytes());
    half(EXECUTABLE);
    half(match arch {
        Arch::Aarch64 => EM_AARCH64.0,
        Arch::X86_64 => EM_X86_64.0,
    });
    file.extend(VERSION.to_le_bytes());
    // Entry, program headers, section headers.
    file.extend([BASE + headers, u64::from(HEADER), 0].into_iter().flat_map(u64::to_le_bytes));
    // Flags, then sizes and numbers of headers: of the file, of segments, of sections.
    file.extend(0u32.to_le_bytes());
    file.extend([HEADER, PROGRAM_HEADER, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    file.extend([LOAD, READ_EXECUTE].into_iter().flat_map(u32::to_le_bytes));
    // Offset, virtual and physical address, size in the file and in memory, alignment.
    file.extend([0, BASE, BASE, length, length, BASE].into_iter().flat_map(u64::to_le_bytes));
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSegment};

    use super::*;

    #[test]
    fn the_program_is_an_elf_file_that_begins_with_the_mark() {
        let architectures = [object::Architecture::Aarch64, object::Architecture::X86_64];
        for (arch, architecture) in Arch::ALL.into_iter().zip(architectures) {
            let file = program(arch);
            let elf = object::File::parse(&file[..]).unwrap();
            assert_eq!(elf.architecture(), architecture);
            let segments: Vec<_> = elf.segments().collect();
            let [segment] = &segments[..] else { panic!("{} segments", segments.len()) };
            assert_eq!((segment.address(), segment.size()), (BASE, file.len() as u64));
            let at = usize::try_from(elf.entry() - segment.address()).unwrap();
            let code = &segment.data().unwrap()[at..];
            assert!(code.starts_with(counter::mark(arch)) && code.ends_with(&exit(arch)));
        }
    }
}
