//! ELF file -> what a bootloader takes: a flat image, or ELF with nothing to spare.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

/// A flat image with larger holes than this is the fault of a linker script.
const LIMIT: u64 = 64 << 20;

/// Places of `e_shoff`, `e_shnum` and `e_shstrndx` in the header of a 64-bit ELF file.
const SECTION_TABLE: Range<usize> = 40..48;
const SECTION_COUNT: Range<usize> = 60..62;
const SECTION_NAMES: Range<usize> = 62..64;

/// Lays the loadable segments of `elf` out as they lie in memory, from the
/// lowest address on and without trailing zeroes that the file does not hold.
///
/// # Errors
/// When `elf` is no 64-bit little-endian ELF file with such segments.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<LittleEndian>::parse(elf).context("not an ELF file")?;
    let endian = file.endian();
    let headers = file.elf_header().program_headers(endian, elf)?;
    let load = headers.iter().filter(|h| h.p_type(endian) == PT_LOAD && h.p_filesz(endian) > 0);
    let base = load.clone().map(|h| h.p_paddr(endian)).min();
    let base = base.context("no segment to load")?;
    let mut image: Vec<u8> = Vec::new();
    for header in load {
        let Ok(data) = header.data(endian, elf) else {
            bail!("a segment lies outside of the ELF file");
        };
        let offset = header.p_paddr(endian) - base;
        ensure!(offset < LIMIT, "segments lie more than {} MiB apart", LIMIT >> 20);
        let offset = usize::try_from(offset)?;
        let end = offset.checked_add(data.len()).context("a segment is too large")?;
        image.resize(image.len().max(end), 0);
        image[offset..end].copy_from_slice(data);
    }
    Ok(image)
}

/// Leaves of `elf` only what a bootloader loads: no symbols, no debug information.
///
/// # Errors
/// As [`flatten`].
pub fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<LittleEndian>::parse(elf).context("not an ELF file")?;
    let endian = header.endian().context("not a little-endian ELF file")?;
    let segments = header.program_headers(endian, elf)?;
    let table = header.e_phoff(endian) + size_of_val(segments) as u64;
    let mut end = table.max(size_of_val(header) as u64);
    for segment in segments {
        let last = segment.p_offset(endian).checked_add(segment.p_filesz(endian));
        end = end.max(last.context("a segment is too large")?);
    }
    let end = usize::try_from(end)?;
    let mut image = elf.get(..end).context("a segment lies outside of the ELF file")?.to_vec();
    // There is no section table any more: its place, its entries and its names.
    for field in [SECTION_TABLE, SECTION_COUNT, SECTION_NAMES] {
        image.get_mut(field).context("not an ELF file")?.fill(0);
    }
    Ok(image)
}

/// Flattens the EL2 image and checks that bootloaders will know it.
///
/// # Errors
/// As [`flatten`], and when the arm64 `Image` header is absent.
pub fn flatten_boot_image(elf: &[u8]) -> Result<Vec<u8>> {
    let image = flatten(elf)?;
    ensure!(
        image.get(0x38..0x3c) == Some(b"ARM\x64"),
        "the image does not start with the arm64 Image header; is it first in linker.ld?"
    );
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these (physical address, data, size in memory) segments.
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(3u16.to_le_bytes());
        file.extend(183u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [0u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, data, size) in segments {
            file.extend(1u32.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [offset, *address, *address, data.len() as u64, *size, 8] {
                file.extend(word.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        segments.iter().for_each(|(_, data, _)| file.extend(*data));
        file
    }

    #[test]
    fn segments_lie_as_in_memory_without_bss() {
        let file = elf(&[(0x1008, b"data", 100), (0x1000, b"text", 4), (0x2000, b"", 64)]);
        assert_eq!(flatten(&file).unwrap(), b"text\0\0\0\0data");
    }

    #[test]
    fn what_cannot_be_flattened_is_refused() {
        for (file, reason) in [
            (b"MZ".to_vec(), "not an ELF file"),
            (elf(&[(0, b"", 64)]), "no segment"),
            (elf(&[(0, b"a", 1), (1 << 40, b"b", 1)]), "MiB apart"),
        ] {
            let error = format!("{:#}", flatten(&file).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
        let mut outside = elf(&[(0, b"abcd", 4)]);
        outside.truncate(outside.len() - 1);
        assert!(flatten(&outside).is_err());
    }

    #[test]
    fn a_stripped_file_keeps_its_segments_and_loses_its_sections() {
        let mut file = elf(&[(0x1000, b"text", 4), (0x1008, b"data", 8)]);
        let length = file.len();
        file[SECTION_TABLE].copy_from_slice(&(length as u64).to_le_bytes());
        file[SECTION_COUNT].copy_from_slice(&1u16.to_le_bytes());
        file.extend([0; 64]);
        file.extend(b"debug information");
        let stripped = strip(&file).unwrap();
        assert_eq!(stripped.len(), length);
        assert_eq!(flatten(&stripped).unwrap(), b"text\0\0\0\0data");
        stripped.get(SECTION_TABLE).unwrap().iter().for_each(|byte| assert_eq!(*byte, 0));
        file.truncate(length - 1);
        assert!(strip(&file).is_err());
    }

    #[test]
    fn a_boot_image_needs_its_header() {
        let mut image = vec![0; 64];
        assert!(flatten_boot_image(&elf(&[(0, &image, 64)])).is_err());
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(flatten_boot_image(&elf(&[(0, &image, 64)])).unwrap(), image);
    }
}
