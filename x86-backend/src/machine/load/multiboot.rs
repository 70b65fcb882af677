//! Multiboot, version 1 (Multiboot Specification 0.6.96): ELF kernels, and flat
//! ones that give their addresses in the header.

use super::area::{Area, COMMAND_LINE, COMMAND_LINE_SIZE, INFORMATION, PARAMETERS, Structure};
use super::elf::{Image, is_elf};
use super::{BootPlan, Content, Facts, LoadError, Protocol, Start, layout};
use bunshin::address::GuestAddress;

/// The header lies in the first bytes of the file, at a multiple of 4.
const SEARCH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at the entry.
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// Header: modules on page boundaries; a memory map; a video mode, which there
/// is none of, and kernels go on without.
const KNOWN_REQUIREMENTS: u32 = 0b111;
/// Header: requirements, as opposed to wishes.
const REQUIREMENTS: u32 = 0xffff;
/// Header: the address fields are valid.
const HAS_ADDRESSES: u32 = 1 << 16;

/// The Multiboot information.
mod information {
    pub(super) const SIZE: usize = 116;

    pub(super) const FLAG_MEMORY: u64 = 1 << 0;
    pub(super) const FLAG_COMMAND_LINE: u64 = 1 << 2;
    pub(super) const FLAG_MODULES: u64 = 1 << 3;
    pub(super) const FLAG_MEMORY_MAP: u64 = 1 << 6;
    pub(super) const FLAG_LOADER_NAME: u64 = 1 << 9;

    pub(super) const OFFSET_FLAGS: usize = 0;
    pub(super) const OFFSET_MEMORY_LOWER: usize = 4;
    pub(super) const OFFSET_MEMORY_UPPER: usize = 8;
    pub(super) const OFFSET_COMMAND_LINE: usize = 16;
    pub(super) const OFFSET_MODULES: usize = 20;
    pub(super) const OFFSET_MODULE_LIST: usize = 24;
    pub(super) const OFFSET_MEMORY_MAP_LENGTH: usize = 44;
    pub(super) const OFFSET_MEMORY_MAP: usize = 48;
    pub(super) const OFFSET_LOADER_NAME: usize = 64;
}

/// Bytes of a module's entry: start, end, string, reserved.
const MODULE_SIZE: usize = 16;
/// Bytes of a memory-map entry, its size field included.
const MEMORY_MAP_ENTRY: usize = 24;
/// What that size field says: the bytes after itself.
const MEMORY_MAP_ENTRY_REST: u64 = 20;
const LOADER_NAME: &[u8] = b"Bunshin\0";

/// Where the module list and the loader's name go, in the page of the information.
const MODULE_LIST: u64 = INFORMATION + 0x100;
const NAME: u64 = INFORMATION + 0x200;

/// A header that was found.
pub(super) struct Header {
    flags: u32,
    /// Offset in the file.
    offset: usize,
    /// Address of the header, start and end of what is loaded, end of what is
    /// zeroed, entry.
    addresses: [u32; 5],
}

impl Header {
    pub(super) fn find(kernel: &[u8]) -> Option<Self> {
        let head = kernel.get(..SEARCH).unwrap_or(kernel);
        let word = |offset: usize| {
            kernel.get(offset..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
        };
        (0..head.len()).step_by(4).find_map(|offset| {
            let at = |field: usize| word(offset.saturating_add(field));
            let (magic, flags, checksum) = (at(0)?, at(4)?, at(8)?);
            let sum = magic.wrapping_add(flags).wrapping_add(checksum);
            if magic != HEADER_MAGIC || sum != 0 {
                return None;
            }
            let addresses = if flags & HAS_ADDRESSES != 0 {
                [at(12)?, at(16)?, at(20)?, at(24)?, at(28)?]
            } else {
                [0; 5]
            };
            Some(Header { flags, offset, addresses })
        })
    }

    /// Loads a kernel by the addresses of its header; gives its entry.
    fn load_flat(&self, kernel: &[u8], area: &mut Area) -> Result<u64, LoadError> {
        let [header, load, load_end, bss_end, entry] = self.addresses;
        let into_load = header
            .checked_sub(load)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or(LoadError::BadElf("its Multiboot header lies before its load address"))?;
        let start = self
            .offset
            .checked_sub(into_load)
            .ok_or(LoadError::BadElf("its Multiboot addresses do not match the file"))?;
        let end = match load_end.checked_sub(load) {
            // 0 means all of the file.
            _ if load_end == 0 => kernel.len(),
            Some(length) => usize::try_from(length)
                .ok()
                .and_then(|length| start.checked_add(length))
                .ok_or(LoadError::Truncated("Multiboot image"))?,
            None => return Err(LoadError::BadElf("its Multiboot load addresses are reversed")),
        };
        let loaded = kernel.get(start..end).ok_or(LoadError::Truncated("Multiboot image"))?;
        let in_memory = u64::from(bss_end.saturating_sub(load)).max(loaded.len() as u64);
        area.take("kernel", load.into(), in_memory)?;
        area.write(load.into(), Content::Kernel(start..end));
        Ok(entry.into())
    }
}

pub(super) fn plan(
    kernel: &[u8],
    header: &Header,
    facts: &Facts<'_>,
) -> Result<BootPlan, LoadError> {
    let unknown = header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS;
    if unknown != 0 {
        return Err(LoadError::Features(unknown));
    }
    let mut area = Area::new(facts);
    let entry = if header.flags & HAS_ADDRESSES != 0 {
        header.load_flat(kernel, &mut area)?
    } else if is_elf(kernel) {
        let image = Image::parse(kernel)?;
        image.load(&mut area)?;
        image.entry()
    } else {
        return Err(LoadError::BadElf("a Multiboot header without addresses needs an ELF"));
    };
    let entry = u32::try_from(entry).map_err(|_| LoadError::Entry(entry))?;
    area.command_line(facts.command_line, COMMAND_LINE_SIZE)?;

    let mut info = Structure::new(information::SIZE);
    let mut flags = information::FLAG_MEMORY
        | information::FLAG_COMMAND_LINE
        | information::FLAG_MEMORY_MAP
        | information::FLAG_LOADER_NAME;
    let upper = area.low_end().saturating_sub(layout::HIGH_MEMORY);
    info.put_u32(information::OFFSET_MEMORY_LOWER, layout::LOW_MEMORY_END >> 10);
    info.put_u32(information::OFFSET_MEMORY_UPPER, upper >> 10);
    info.put_u32(information::OFFSET_COMMAND_LINE, COMMAND_LINE);
    if let Some(size) = facts.initrd {
        // Small kernels reach only what lies close to them.
        let address = area.place_after(size)?;
        let mut module = Structure::new(MODULE_SIZE);
        module.put_u32(0, address);
        module.put_u32(4, address.saturating_add(size));
        area.write(MODULE_LIST, Content::Bytes(module.0));
        flags |= information::FLAG_MODULES;
        info.put_u32(information::OFFSET_MODULES, 1);
        info.put_u32(information::OFFSET_MODULE_LIST, MODULE_LIST);
    }
    let mut map = Structure::new(0);
    for (range, kind) in layout::memory_map(facts.memory) {
        let mut entry = Structure::new(MEMORY_MAP_ENTRY);
        entry.put_u32(0, MEMORY_MAP_ENTRY_REST);
        entry.put_u64(4, range.start);
        entry.put_u64(12, range.size);
        entry.put_u32(20, kind as u64);
        map.0.extend(entry.0);
    }
    info.put_u32(information::OFFSET_MEMORY_MAP_LENGTH, map.0.len() as u64);
    info.put_u32(information::OFFSET_MEMORY_MAP, PARAMETERS);
    info.put_u32(information::OFFSET_LOADER_NAME, NAME);
    info.put_u32(information::OFFSET_FLAGS, flags);
    area.write(PARAMETERS, Content::Bytes(map.0));
    area.write(NAME, Content::Bytes(LOADER_NAME.to_vec()));
    area.write(INFORMATION, Content::Bytes(info.0));

    let information = GuestAddress(INFORMATION);
    let start = Start::Protected { entry, magic: LOADER_MAGIC, information };
    Ok(BootPlan { protocol: Protocol::Multiboot, writes: area.finish(), start })
}
