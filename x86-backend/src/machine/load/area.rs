//! Guest memory while a plan fills it: what lies where, without overlaps.

use super::{Content, Facts, LoadError, Write, layout};
use alloc::vec::Vec;
use bunshin::address::GuestAddress;

/// Bytes of a page.
pub(super) const PAGE: u64 = 0x1000;

/// Boot structures of the 64-bit Linux protocol.
pub(super) const GDT: u64 = 0x500;
/// `hvm_start_info`, Multiboot information.
pub(super) const INFORMATION: u64 = 0x6000;
/// List of modules.
pub(super) const MODULES: u64 = 0x6040;
/// Memory map, or Linux boot parameters.
pub(super) const PARAMETERS: u64 = 0x7000;
/// Initial stack pointer.
pub(super) const STACK: u64 = 0x8ff0;
/// PML4, PDPT and four page directories.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// Command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line with its zero.
pub(super) const COMMAND_LINE_SIZE: u64 = 0x1_0000;

/// A part of guest memory that is taken.
struct Taken {
    what: &'static str,
    start: u64,
    end: u64,
}

/// The writes of a plan.
pub(super) struct Area {
    memory: u64,
    taken: Vec<Taken>,
    writes: Vec<Write>,
}

impl Area {
    /// Memory of the machine, where the boot structures and the firmware
    /// tables have their places already.
    pub(super) fn new(facts: &Facts<'_>) -> Self {
        let reserved =
            |what, start, size: u64| Taken { what, start, end: size.wrapping_add(start) };
        let tables = layout::FIRMWARE_TABLES.0;
        let taken = alloc::vec![
            reserved("boot information", 0, COMMAND_LINE + COMMAND_LINE_SIZE),
            reserved("firmware tables", tables, layout::FIRMWARE_TABLES_SIZE),
        ];
        Area { memory: facts.memory, taken, writes: Vec::new() }
    }

    /// First address after memory below 4 GiB.
    pub(super) fn low_end(&self) -> u64 {
        let [low, _] = layout::memory(self.memory);
        low.size
    }

    fn no_memory(&self, what: &'static str, start: u64, end: u64) -> LoadError {
        LoadError::NoMemory { what, start, end, memory: self.memory >> 20 }
    }

    /// Takes `size` bytes at `start` for `what`.
    pub(super) fn take(
        &mut self,
        what: &'static str,
        start: u64,
        size: u64,
    ) -> Result<(), LoadError> {
        let end = start.saturating_add(size);
        let inside = layout::memory(self.memory)
            .iter()
            .any(|range| start >= range.start && end <= range.start.saturating_add(range.size));
        if !inside {
            return Err(self.no_memory(what, start, end));
        }
        if size == 0 {
            return Ok(());
        }
        if let Some(other) = self.taken.iter().find(|t| start < t.end && t.start < end) {
            return Err(LoadError::Overlap(what, other.what));
        }
        self.taken.push(Taken { what, start, end });
        Ok(())
    }

    /// Writes to a place that was taken.
    pub(super) fn write(&mut self, address: u64, content: Content) {
        self.writes.push(Write { address: GuestAddress(address), content });
    }

    /// The page-aligned place for the initial RAM disk of `size` bytes that
    /// ends highest and not above `limit`; it must not meet the kernel.
    pub(super) fn place_high(&mut self, size: u64, limit: u64) -> Result<u64, LoadError> {
        const WHAT: &str = "initial RAM disk";
        let end = self.low_end().min(limit);
        let Some(start) = end.checked_sub(size).map(|start| start & !PAGE.wrapping_sub(1)) else {
            return Err(self.no_memory(WHAT, 0, size));
        };
        self.take(WHAT, start, size)?;
        self.write(start, Content::Initrd);
        Ok(start)
    }

    /// The first free place for the initial RAM disk after everything else.
    pub(super) fn place_after(&mut self, size: u64) -> Result<u64, LoadError> {
        let end = self.taken.iter().map(|taken| taken.end).fold(layout::HIGH_MEMORY, u64::max);
        let start = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        self.take("initial RAM disk", start, size)?;
        self.write(start, Content::Initrd);
        Ok(start)
    }

    /// Writes the command line with its zero, if it has at most `limit` bytes.
    pub(super) fn command_line(&mut self, line: &str, limit: u64) -> Result<(), LoadError> {
        let limit = limit.min(COMMAND_LINE_SIZE - 1);
        if line.len() as u64 > limit {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return Err(LoadError::CommandLine { length: line.len(), limit });
        }
        let mut bytes = Vec::from(line.as_bytes());
        bytes.push(0);
        self.write(COMMAND_LINE, Content::Bytes(bytes));
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<Write> {
        self.writes
    }
}

/// Little-endian fields at offsets of a structure. Those that do not fit are
/// dropped; the offsets are constants and the tests see them.
pub(super) struct Structure(pub(super) Vec<u8>);

impl Structure {
    pub(super) fn new(size: usize) -> Self {
        Structure(alloc::vec![0; size])
    }

    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len());
        if let Some(place) = self.0.get_mut(offset..end) {
            place.copy_from_slice(bytes);
        }
    }

    pub(super) fn put_u32(&mut self, offset: usize, value: u64) {
        self.put(offset, &((value & 0xffff_ffff) as u32).to_le_bytes());
    }

    pub(super) fn put_u64(&mut self, offset: usize, value: u64) {
        self.put(offset, &value.to_le_bytes());
    }
}
