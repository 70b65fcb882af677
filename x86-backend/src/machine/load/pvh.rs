//! PVH: direct boot of ELF kernels in 32-bit mode (Xen, docs/misc/pvh.pandoc;
//! `xen/include/public/arch-x86/hvm/start_info.h`).

use super::area::{
    Area, COMMAND_LINE, COMMAND_LINE_SIZE, INFORMATION, MODULES, PARAMETERS, Structure,
};
use super::elf::Image;
use super::{BootPlan, Content, Facts, LoadError, Protocol, Start, layout};
use bunshin::address::GuestAddress;

/// `hvm_start_info`.
mod start_info {
    pub(super) const MAGIC: u64 = 0x336e_c578;
    /// The version with a memory map.
    pub(super) const VERSION: u64 = 1;
    pub(super) const SIZE: usize = 56;

    pub(super) const OFFSET_MAGIC: usize = 0;
    pub(super) const OFFSET_VERSION: usize = 4;
    pub(super) const OFFSET_MODULES: usize = 12;
    pub(super) const OFFSET_MODULE_LIST: usize = 16;
    pub(super) const OFFSET_COMMAND_LINE: usize = 24;
    pub(super) const OFFSET_RSDP: usize = 32;
    pub(super) const OFFSET_MEMORY_MAP: usize = 40;
    pub(super) const OFFSET_MEMORY_MAP_ENTRIES: usize = 48;
}

/// Bytes of `hvm_modlist_entry`: address, size, command line, reserved.
const MODULE_SIZE: usize = 32;
/// Bytes of `hvm_memmap_table_entry`: address, size, type, reserved.
const MEMORY_MAP_ENTRY: usize = 24;

pub(super) fn plan(
    image: &Image<'_>,
    entry: u64,
    facts: &Facts<'_>,
) -> Result<BootPlan, LoadError> {
    let entry = u32::try_from(entry).map_err(|_| LoadError::Entry(entry))?;
    let mut area = Area::new(facts);
    image.load(&mut area)?;
    area.command_line(facts.command_line, COMMAND_LINE_SIZE)?;

    let mut info = Structure::new(start_info::SIZE);
    info.put_u32(start_info::OFFSET_MAGIC, start_info::MAGIC);
    info.put_u32(start_info::OFFSET_VERSION, start_info::VERSION);
    if let Some(size) = facts.initrd {
        let address = area.place_high(size, u64::from(u32::MAX))?;
        let mut module = Structure::new(MODULE_SIZE);
        module.put_u64(0, address);
        module.put_u64(8, size);
        area.write(MODULES, Content::Bytes(module.0));
        info.put_u32(start_info::OFFSET_MODULES, 1);
        info.put_u64(start_info::OFFSET_MODULE_LIST, MODULES);
    }
    info.put_u64(start_info::OFFSET_COMMAND_LINE, COMMAND_LINE);
    info.put_u64(start_info::OFFSET_RSDP, facts.rsdp.0);

    let ranges = layout::memory_map(facts.memory);
    let mut map = Structure::new(0);
    let mut entries = 0u64;
    for (range, kind) in ranges {
        let mut entry = Structure::new(MEMORY_MAP_ENTRY);
        entry.put_u64(0, range.start);
        entry.put_u64(8, range.size);
        entry.put_u32(16, kind as u64);
        map.0.extend(entry.0);
        entries = entries.saturating_add(1);
    }
    info.put_u64(start_info::OFFSET_MEMORY_MAP, PARAMETERS);
    info.put_u32(start_info::OFFSET_MEMORY_MAP_ENTRIES, entries);
    area.write(PARAMETERS, Content::Bytes(map.0));
    area.write(INFORMATION, Content::Bytes(info.0));

    // EBX points to the information; the protocol has no magic in EAX.
    let start = Start::Protected { entry, magic: 0, information: GuestAddress(INFORMATION) };
    Ok(BootPlan { protocol: Protocol::Pvh, writes: area.finish(), start })
}
