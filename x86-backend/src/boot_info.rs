//! What the boot loader tells: memory map, modules, command line and ACPI
//! root pointer, by the PVH or the Multiboot2 protocol.
//!
//! Pure: physical memory comes in as a function that gives slices of it, so a
//! loader that lies costs an error and nothing else.

use alloc::string::String;
use alloc::vec::Vec;

/// Value of EAX when a Multiboot2 loader enters (Multiboot2 3.3).
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;
/// First word of the PVH start information (Xen `start_info.h`).
const PVH_MAGIC: u32 = 0x336e_c578;
/// Type of usable memory in both protocols.
const MEMORY_USABLE: u32 = 1;
/// Most bytes of a command line that are read.
const COMMAND_LINE_LIMIT: u64 = 4096;
/// Most entries of a table that are read.
const ENTRY_LIMIT: u32 = 512;

/// A range of physical memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length.
    pub size: u64,
}

impl Range {
    /// First address behind the range.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

/// An entry of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where.
    pub range: Range,
    /// Whether it is memory for our use.
    pub usable: bool,
}

/// What a boot loader said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootInfo {
    /// The memory map.
    pub memory: Vec<Region>,
    /// Modules in the loader's order.
    pub modules: Vec<Range>,
    /// The command line; empty if there is none.
    pub command_line: String,
    /// Address of the ACPI root pointer structure, or of a copy of it.
    pub rsdp: Option<u64>,
    /// Memory of the loader's structures themselves, to be kept until read.
    pub tables: Vec<Range>,
}

/// Why the boot information cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// Entered by neither protocol.
    #[error(
        "neither PVH start information nor Multiboot2 (EAX {0:#x}); start with `-kernel` or `multiboot2`"
    )]
    UnknownLoader(u32),
    /// A structure leaves readable memory or is cut short.
    #[error("the boot loader's table at {0:#x} is not readable")]
    Unreadable(u64),
    /// No memory map.
    #[error("the boot loader gave no memory map; use one that does")]
    NoMemoryMap,
}

/// Physical memory: a slice of `size` bytes at an address, `None` where that
/// cannot be read.
pub trait Physical<'a> {
    /// The bytes.
    fn bytes(&self, address: u64, size: u64) -> Option<&'a [u8]>;
}

impl<'a, F: Fn(u64, u64) -> Option<&'a [u8]>> Physical<'a> for F {
    fn bytes(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self(address, size)
    }
}

/// Reads what the loader left at `address`, having entered with `magic` in EAX.
///
/// # Errors
/// [`BootError`].
pub fn read<'a>(
    memory: &impl Physical<'a>,
    magic: u32,
    address: u64,
) -> Result<BootInfo, BootError> {
    let info = if magic == MULTIBOOT2_MAGIC {
        read_multiboot2(memory, address)?
    } else {
        read_pvh(memory, magic, address)?
    };
    if info.memory.is_empty() { Err(BootError::NoMemoryMap) } else { Ok(info) }
}

/// Little-endian fields of a structure.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn word(&self, offset: usize) -> Option<u32> {
        let bytes = self.0.get(offset..offset.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    fn double(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn read_pvh<'a>(
    memory: &impl Physical<'a>,
    magic: u32,
    address: u64,
) -> Result<BootInfo, BootError> {
    /// Bytes of version 1 of the structure.
    const START_INFO_SIZE: u64 = 56;
    const MODULE_SIZE: u64 = 32;
    const MEMORY_SIZE: u64 = 24;

    let unknown = BootError::UnknownLoader(magic);
    let start = Fields(memory.bytes(address, START_INFO_SIZE).ok_or(unknown)?);
    if start.word(0) != Some(PVH_MAGIC) {
        return Err(unknown);
    }
    let unreadable = BootError::Unreadable(address);
    let mut info = BootInfo::default();
    info.tables.push(Range { start: address, size: START_INFO_SIZE });

    let modules = start.word(12).ok_or(unreadable)?.min(ENTRY_LIMIT);
    let list = start.double(16).ok_or(unreadable)?;
    for index in 0..u64::from(modules) {
        let place = list.saturating_add(index.saturating_mul(MODULE_SIZE));
        let bytes = memory.bytes(place, MODULE_SIZE).ok_or(BootError::Unreadable(place))?;
        let entry = Fields(bytes);
        if let (Some(start), Some(size)) = (entry.double(0), entry.double(8)) {
            info.modules.push(Range { start, size });
        }
    }
    let line = start.double(24).ok_or(unreadable)?;
    if line != 0 {
        info.command_line = memory.bytes(line, COMMAND_LINE_LIMIT).map(text).unwrap_or_default();
    }
    info.rsdp = start.double(32).filter(|rsdp| *rsdp != 0);
    // The memory map came with version 1.
    if start.word(4) >= Some(1) {
        let map = start.double(40).ok_or(unreadable)?;
        let entries = start.word(48).ok_or(unreadable)?.min(ENTRY_LIMIT);
        for index in 0..u64::from(entries) {
            let place = map.saturating_add(index.saturating_mul(MEMORY_SIZE));
            let bytes = memory.bytes(place, MEMORY_SIZE).ok_or(BootError::Unreadable(place))?;
            push_region(&mut info, &Fields(bytes));
        }
    }
    Ok(info)
}

/// Base, size and type lie at the same offsets in both protocols.
fn push_region(info: &mut BootInfo, entry: &Fields<'_>) {
    if let (Some(start), Some(size), Some(kind)) =
        (entry.double(0), entry.double(8), entry.word(16))
        && size != 0
    {
        let range = Range { start, size };
        info.memory.push(Region { range, usable: kind == MEMORY_USABLE });
    }
}

fn read_multiboot2<'a>(memory: &impl Physical<'a>, address: u64) -> Result<BootInfo, BootError> {
    const TAG_END: u32 = 0;
    const TAG_COMMAND_LINE: u32 = 1;
    const TAG_MODULE: u32 = 3;
    const TAG_MEMORY_MAP: u32 = 6;
    const TAG_ACPI_OLD: u32 = 14;
    const TAG_ACPI_NEW: u32 = 15;
    /// Type and size of a tag.
    const TAG_HEADER: usize = 8;
    const SIZE_LIMIT: u32 = 1 << 20;

    let unreadable = BootError::Unreadable(address);
    let head = Fields(memory.bytes(address, 8).ok_or(unreadable)?);
    let size = head.word(0).filter(|size| *size <= SIZE_LIMIT).ok_or(unreadable)?;
    let all = memory.bytes(address, u64::from(size)).ok_or(unreadable)?;
    let mut info = BootInfo::default();
    info.tables.push(Range { start: address, size: u64::from(size) });

    let mut offset = 8usize;
    while let Some(rest) = all.get(offset..).filter(|rest| rest.len() >= TAG_HEADER) {
        let header = Fields(rest);
        let (Some(kind), Some(size)) = (header.word(0), header.word(4)) else { break };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let tag = rest.get(..size).filter(|tag| tag.len() >= TAG_HEADER).ok_or(unreadable)?;
        let body = tag.get(TAG_HEADER..).unwrap_or_default();
        let fields = Fields(body);
        match kind {
            TAG_END => break,
            TAG_COMMAND_LINE => info.command_line = text(body),
            TAG_MODULE => {
                if let (Some(start), Some(end)) = (fields.word(0), fields.word(4)) {
                    let size = u64::from(end.saturating_sub(start));
                    info.modules.push(Range { start: u64::from(start), size });
                }
            }
            TAG_MEMORY_MAP => {
                let entry = fields.word(0).and_then(|e| usize::try_from(e).ok()).unwrap_or(0);
                let entries = body.get(8..).unwrap_or_default();
                if entry >= 20 {
                    for bytes in entries.chunks_exact(entry) {
                        push_region(&mut info, &Fields(bytes));
                    }
                }
            }
            // The tag holds a copy of the structure; the newer one wins.
            TAG_ACPI_NEW => info.rsdp = Some(body_address(address, offset)),
            TAG_ACPI_OLD if info.rsdp.is_none() => {
                info.rsdp = Some(body_address(address, offset));
            }
            _ => {}
        }
        offset = offset.saturating_add(size).saturating_add(7) & !7;
    }
    Ok(info)
}

fn body_address(base: u64, offset: usize) -> u64 {
    base.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)).saturating_add(8)
}

/// What is left of the usable ranges of `memory` without `taken`, each part
/// cut to multiples of `align` (a power of two), largest last.
pub fn free_ranges(memory: &[Region], taken: &[Range], align: u64) -> Vec<Range> {
    let mut free: Vec<Range> = memory.iter().filter(|r| r.usable).map(|r| r.range).collect();
    let reserved = memory.iter().filter(|r| !r.usable).map(|r| r.range);
    for hole in taken.iter().copied().chain(reserved) {
        free = free
            .into_iter()
            .flat_map(|range| {
                let before = hole.start.min(range.end()).saturating_sub(range.start);
                let after_start = hole.end().max(range.start);
                let after = range.end().saturating_sub(after_start);
                [
                    Range { start: range.start, size: before },
                    Range { start: after_start, size: after },
                ]
            })
            .filter(|range| range.size != 0)
            .collect();
    }
    let mask = align.saturating_sub(1);
    let mut cut: Vec<Range> = free
        .into_iter()
        .filter_map(|range| {
            let start = range.start.checked_add(mask)? & !mask;
            let end = range.end() & !mask;
            let size = end.checked_sub(start).filter(|size| *size != 0)?;
            Some(Range { start, size })
        })
        .collect();
    cut.sort_by_key(|range| range.size);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn put(memory: &mut [u8], offset: usize, bytes: &[u8]) {
        memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn reader<'a>(memory: &'a [u8]) -> impl Fn(u64, u64) -> Option<&'a [u8]> {
        move |address, size| {
            let start = usize::try_from(address).ok()?;
            memory.get(start..start.checked_add(usize::try_from(size).ok()?)?)
        }
    }

    fn pvh() -> Vec<u8> {
        let mut m = vec![0u8; 0x4000];
        put(&mut m, 0x100, &PVH_MAGIC.to_le_bytes());
        put(&mut m, 0x104, &1u32.to_le_bytes());
        put(&mut m, 0x10c, &1u32.to_le_bytes());
        put(&mut m, 0x110, &0x200u64.to_le_bytes());
        put(&mut m, 0x118, &0x300u64.to_le_bytes());
        put(&mut m, 0x120, &0xf0000u64.to_le_bytes());
        put(&mut m, 0x128, &0x400u64.to_le_bytes());
        put(&mut m, 0x130, &2u32.to_le_bytes());
        put(&mut m, 0x200, &0x10_0000u64.to_le_bytes());
        put(&mut m, 0x208, &0x123u64.to_le_bytes());
        put(&mut m, 0x300, b"vm=1\0junk");
        put(&mut m, 0x408, &0x9f000u64.to_le_bytes());
        put(&mut m, 0x410, &1u32.to_le_bytes());
        put(&mut m, 0x418, &0x9f000u64.to_le_bytes());
        put(&mut m, 0x420, &0x1000u64.to_le_bytes());
        put(&mut m, 0x428, &2u32.to_le_bytes());
        m
    }

    fn multiboot2() -> Vec<u8> {
        let mut m = vec![0u8; 0x400];
        let mut at = 0x108;
        let mut tag = |kind: u32, body: &[u8]| {
            put(&mut m, at, &kind.to_le_bytes());
            put(&mut m, at + 4, &(body.len() as u32 + 8).to_le_bytes());
            put(&mut m, at + 8, body);
            at = (at + 8 + body.len() + 7) & !7;
        };
        tag(1, b"quiet\0");
        tag(3, &[0, 0, 0x10, 0, 0x23, 1, 0x10, 0, b'b', 0]);
        let mut map = vec![24, 0, 0, 0, 0, 0, 0, 0];
        map.extend(0u64.to_le_bytes());
        map.extend(0x9f000u64.to_le_bytes());
        map.extend(1u64.to_le_bytes());
        tag(6, &map);
        tag(14, &[0; 20]);
        tag(0, &[]);
        put(&mut m, 0x100, &0x200u32.to_le_bytes());
        m
    }

    #[test]
    fn both_protocols_tell_the_same_things() {
        let memory = pvh();
        let info = read(&reader(&memory), 0, 0x100).unwrap();
        assert_eq!(info.modules, [Range { start: 0x10_0000, size: 0x123 }]);
        assert_eq!(info.command_line, "vm=1");
        assert_eq!(info.rsdp, Some(0xf0000));
        assert_eq!(info.memory.len(), 2);
        assert!(info.memory[0].usable && !info.memory[1].usable);

        let memory = multiboot2();
        let info = read(&reader(&memory), MULTIBOOT2_MAGIC, 0x100).unwrap();
        assert_eq!(info.modules, [Range { start: 0x10_0000, size: 0x123 }]);
        assert_eq!(info.command_line, "quiet");
        assert!(info.rsdp.is_some());
        assert_eq!(
            info.memory,
            [Region { range: Range { start: 0, size: 0x9f000 }, usable: true }]
        );
    }

    #[test]
    fn a_stranger_and_an_empty_map_are_refused() {
        let memory = vec![0u8; 0x4000];
        assert_eq!(read(&reader(&memory), 7, 0x100), Err(BootError::UnknownLoader(7)));
        let mut memory = pvh();
        put(&mut memory, 0x130, &0u32.to_le_bytes());
        assert_eq!(read(&reader(&memory), 7, 0x100), Err(BootError::NoMemoryMap));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_reader_panic(
            edits in proptest::collection::vec((0usize..0x400, any::<u8>()), 0..40),
            multiboot in any::<bool>(),
        ) {
            let mut memory = if multiboot { multiboot2() } else { pvh() };
            for (place, byte) in edits {
                memory[place] = byte;
            }
            let magic = if multiboot { MULTIBOOT2_MAGIC } else { 0 };
            let _ = read(&reader(&memory), magic, 0x100);
        }

        #[test]
        fn free_memory_is_usable_and_not_taken(
            usable in proptest::collection::vec((0u64..64, 1u64..16, any::<bool>()), 1..6),
            taken in proptest::collection::vec((0u64..64, 1u64..8), 0..6),
        ) {
            let memory: Vec<Region> = usable.iter().map(|(start, size, usable)| Region {
                range: Range { start: *start, size: *size }, usable: *usable,
            }).collect();
            let taken: Vec<Range> =
                taken.iter().map(|(start, size)| Range { start: *start, size: *size }).collect();
            let inside = |list: &[Range], at: u64| {
                list.iter().any(|r| at >= r.start && at < r.end())
            };
            let good: Vec<Range> = memory.iter().filter(|r| r.usable).map(|r| r.range).collect();
            let bad: Vec<Range> = memory.iter().filter(|r| !r.usable).map(|r| r.range).collect();
            let free = free_ranges(&memory, &taken, 1);
            for at in 0..100 {
                let expected = inside(&good, at) && !inside(&bad, at) && !inside(&taken, at);
                prop_assert_eq!(inside(&free, at), expected, "{}", at);
            }
        }
    }
}
