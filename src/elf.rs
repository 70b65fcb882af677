//! Loading of ELF kernels: program headers into guest memory.

use ::elf::ElfBytes;
use ::elf::abi::PT_LOAD;
use ::elf::endian::LittleEndian;

use crate::address::GuestAddress;
use crate::memory::{GuestMemory, OutOfMemoryRange};

/// Why an ELF file cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not a 64-bit little-endian ELF file, or cut short.
    #[error("kernel: malformed ELF file; give a statically linked 64-bit little-endian executable")]
    Malformed,
    /// An executable of another architecture.
    #[error("kernel: ELF file of another machine (e_machine {found}, not {expected})")]
    Machine {
        /// `e_machine` of the file.
        found: u16,
        /// What this host runs.
        expected: u16,
    },
    /// A segment lies outside of memory.
    #[error("kernel: an ELF segment's {0}")]
    Segment(#[from] OutOfMemoryRange),
    /// Nothing to load.
    #[error("kernel: the ELF file has no loadable segment")]
    Empty,
}

/// What has been loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Address of the first instruction.
    pub entry: GuestAddress,
    /// Lowest address of a segment.
    pub start: GuestAddress,
    /// First address after the highest segment.
    pub end: GuestAddress,
}

/// Whether `file` starts as an ELF file does.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// Loads the segments at their physical addresses. Memory is
/// expected to be zero, as that after a segment's file contents has to be.
///
/// # Errors
/// [`ElfError`]; some segments may have been written then.
pub fn load(file: &[u8], machine: u16, memory: &dyn GuestMemory) -> Result<Loaded, ElfError> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ElfError::Malformed)?;
    if elf.ehdr.e_machine != machine {
        return Err(ElfError::Machine { found: elf.ehdr.e_machine, expected: machine });
    }
    let segments = elf.segments().ok_or(ElfError::Empty)?;
    let (mut start, mut end) = (u64::MAX, 0);
    let mut entry = elf.ehdr.e_entry;
    for segment in segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_memsz > 0) {
        let address = GuestAddress(segment.p_paddr);
        let contents = elf.segment_data(&segment).map_err(|_| ElfError::Malformed)?;
        if segment.p_memsz > 0 && (contents.len() as u64) > segment.p_memsz {
            return Err(ElfError::Malformed);
        }
        // The last byte has to be memory, too.
        let last = segment
            .p_memsz
            .checked_sub(1)
            .and_then(|offset| address.checked_add(offset))
            .ok_or(ElfError::Malformed)?;
        memory.read(last, &mut [0])?;
        memory.write(address, contents)?;
        // The entry point is a virtual address; the CPU starts with the MMU off.
        if let Some(offset) = elf.ehdr.e_entry.checked_sub(segment.p_vaddr)
            && offset < segment.p_memsz
        {
            entry = segment.p_paddr.wrapping_add(offset);
        }
        start = start.min(address.0);
        end = end.max(last.0.saturating_add(1));
    }
    if end == 0 {
        return Err(ElfError::Empty);
    }
    Ok(Loaded { entry: GuestAddress(entry), start: GuestAddress(start), end: GuestAddress(end) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    /// Memory from 0x1000.
    struct Flat(RefCell<Vec<u8>>);

    impl Flat {
        fn range(&self, address: GuestAddress, size: usize) -> Option<core::ops::Range<usize>> {
            let start = usize::try_from(address.0.checked_sub(0x1000)?).ok()?;
            let end = start.checked_add(size)?;
            (end <= self.0.borrow().len()).then_some(start..end)
        }
    }

    impl GuestMemory for Flat {
        fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
            let size = bytes.len() as u64;
            let range =
                self.range(address, bytes.len()).ok_or(OutOfMemoryRange { address, size })?;
            bytes.copy_from_slice(&self.0.borrow()[range]);
            Ok(())
        }
        fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
            let size = bytes.len() as u64;
            let range =
                self.range(address, bytes.len()).ok_or(OutOfMemoryRange { address, size })?;
            self.0.borrow_mut()[range].copy_from_slice(bytes);
            Ok(())
        }
    }

    /// One segment of `contents` at virtual 0x8000, physical `paddr`.
    fn file(machine: u16, paddr: u64, memsz: u64, contents: &[u8]) -> Vec<u8> {
        let mut f = vec![0u8; 64];
        f[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        f[16..18].copy_from_slice(&2u16.to_le_bytes());
        f[18..20].copy_from_slice(&machine.to_le_bytes());
        f[20..24].copy_from_slice(&1u32.to_le_bytes());
        f[24..32].copy_from_slice(&0x8004u64.to_le_bytes());
        f[32..40].copy_from_slice(&64u64.to_le_bytes());
        f[52..54].copy_from_slice(&64u16.to_le_bytes());
        f[54..56].copy_from_slice(&56u16.to_le_bytes());
        f[56..58].copy_from_slice(&1u16.to_le_bytes());
        for word in [1u64 | 5 << 32, 120, 0x8000, paddr, contents.len() as u64, memsz, 4] {
            f.extend_from_slice(&word.to_le_bytes());
        }
        f.extend_from_slice(contents);
        f
    }

    fn memory() -> Flat {
        Flat(RefCell::new(vec![0; 0x1000]))
    }

    #[test]
    fn segments_go_to_their_physical_addresses() {
        let memory = memory();
        let loaded = load(&file(183, 0x1100, 0x20, b"kernel"), 183, &memory).unwrap();
        assert_eq!(loaded.entry, GuestAddress(0x1104));
        assert_eq!((loaded.start, loaded.end), (GuestAddress(0x1100), GuestAddress(0x1120)));
        assert_eq!(&memory.0.borrow()[0x100..0x107], b"kernel\0");
    }

    #[test]
    fn what_cannot_run_is_refused() {
        for (name, file, expected) in [
            ("machine", file(62, 0x1000, 8, b"x"), ElfError::Machine { found: 62, expected: 183 }),
            ("too long", file(183, 0x1000, 2, b"abc"), ElfError::Malformed),
            (
                "outside",
                file(183, 0x1fff, 2, b"a"),
                ElfError::Segment(OutOfMemoryRange { address: GuestAddress(0x2000), size: 1 }),
            ),
            ("wraps", file(183, u64::MAX, 2, b"a"), ElfError::Malformed),
            ("nothing", file(183, 0x1000, 0, b""), ElfError::Empty),
        ] {
            assert_eq!(load(&file, 183, &memory()), Err(expected), "{name}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_no_panic() {
        let whole = file(183, 0x1000, 0x20, b"kernel");
        for length in 0..whole.len() {
            let _ = load(&whole[..length], 183, &memory());
        }
    }
}
