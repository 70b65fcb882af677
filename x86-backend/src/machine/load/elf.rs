//! ELF kernels of 32 or 64 bits: segments and the PVH note.

use super::Content;
use super::LoadError;
use super::area::Area;
use ::elf::ElfBytes;
use ::elf::abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE};
use ::elf::endian::LittleEndian;
use ::elf::note::Note;
use ::elf::segment::ProgramHeader;

const MAGIC: &[u8; 4] = b"\x7fELF";
/// Name of the notes that Xen defined.
const XEN: &[u8] = b"Xen\0";
/// XEN_ELFNOTE_PHYS32_ENTRY: entry of the PVH protocol.
const PHYS32_ENTRY: u64 = 18;
/// More segments than any kernel has.
const MOST_SEGMENTS: usize = 64;

pub(super) fn is_elf(kernel: &[u8]) -> bool {
    kernel.first_chunk() == Some(MAGIC)
}

/// An ELF file.
pub(super) struct Image<'a> {
    elf: ElfBytes<'a, LittleEndian>,
}

impl<'a> Image<'a> {
    pub(super) fn parse(kernel: &'a [u8]) -> Result<Self, LoadError> {
        let elf = ElfBytes::minimal_parse(kernel)
            .map_err(|_| LoadError::BadElf("its header is damaged"))?;
        let machine = elf.ehdr.e_machine;
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(LoadError::WrongMachine(machine));
        }
        if elf.segments().is_none_or(|segments| segments.len() > MOST_SEGMENTS) {
            return Err(LoadError::BadElf("it has no segments, or too many"));
        }
        Ok(Image { elf })
    }

    /// The entry point of the header.
    pub(super) fn entry(&self) -> u64 {
        self.elf.ehdr.e_entry
    }

    fn segments(&self) -> impl Iterator<Item = ProgramHeader> {
        self.elf.segments().into_iter().flat_map(|segments| segments.iter())
    }

    /// The entry point of the PVH protocol, if the kernel has one.
    pub(super) fn pvh_entry(&self) -> Option<u64> {
        self.segments()
            .filter(|segment| segment.p_type == PT_NOTE)
            .filter_map(|segment| {
                // Linkers leave 0 or 1 where notes are aligned to 4.
                let p_align = if segment.p_align == 8 { 8 } else { 4 };
                self.elf.segment_data_as_notes(&ProgramHeader { p_align, ..segment }).ok()
            })
            .flatten()
            .find_map(|note| match note {
                Note::Unknown(note) if note.name == XEN && note.n_type == PHYS32_ENTRY => {
                    match *note.desc {
                        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
                        [a, b, c, d, e, f, g, h] => {
                            Some(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
                        }
                        _ => None,
                    }
                }
                _ => None,
            })
    }

    /// Places every segment at its physical address.
    pub(super) fn load(&self, area: &mut Area) -> Result<(), LoadError> {
        let mut any = false;
        for segment in self.segments().filter(|s| s.p_type == PT_LOAD && s.p_memsz != 0) {
            any = true;
            let (offset, length) =
                (usize::try_from(segment.p_offset).ok(), usize::try_from(segment.p_filesz).ok());
            let range = offset
                .zip(length)
                .and_then(|(start, length)| Some(start..start.checked_add(length)?))
                .ok_or(LoadError::Truncated("segments"))?;
            if self.elf.segment_data(&segment).is_err() {
                return Err(LoadError::Truncated("segments"));
            }
            if segment.p_filesz > segment.p_memsz {
                return Err(LoadError::BadElf("a segment is longer in the file than in memory"));
            }
            area.take("kernel", segment.p_paddr, segment.p_memsz)?;
            if !range.is_empty() {
                area.write(segment.p_paddr, Content::Kernel(range));
            }
        }
        if any { Ok(()) } else { Err(LoadError::BadElf("it has nothing to load")) }
    }
}
