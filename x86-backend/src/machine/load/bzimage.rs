//! Linux bzImage by the 64-bit boot protocol (Linux,
//! Documentation/arch/x86/boot.rst and zero-page.rst).

use super::area::{Area, COMMAND_LINE, GDT, PAGE_TABLES, PARAMETERS, STACK, Structure};
use super::{BootPlan, Content, Facts, LoadError, Protocol, Start, layout};
use alloc::vec::Vec;
use bunshin::address::GuestAddress;

/// Offsets in the file and, alike, in the boot parameters.
mod offset {
    pub(super) const ACPI_RSDP: usize = 0x070;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const JUMP_LENGTH: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER_TYPE: usize = 0x210;
    pub(super) const LOAD_FLAGS: usize = 0x211;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const INITRD_MAXIMUM: usize = 0x22c;
    pub(super) const ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const XLOAD_FLAGS: usize = 0x236;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const PREFERRED_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    pub(super) const E820_TABLE: usize = 0x2d0;
}

const MAGIC: &[u8; 4] = b"HdrS";
/// 2.12 introduced `xloadflags`.
const OLDEST_VERSION: u16 = 0x20c;
/// There is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// The payload is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// A loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes of a sector.
const SECTOR: usize = 512;
/// What 0 sectors of set-up code mean.
const DEFAULT_SETUP_SECTORS: usize = 4;
/// Distance of the 64-bit entry from the start of the payload.
const ENTRY_64: u64 = 0x200;
/// Bytes of the boot parameters.
const PARAMETERS_SIZE: usize = 4096;
/// Bytes of an E820 entry.
const E820_ENTRY: usize = 20;

/// Flat 64-bit code at 0x10 and data at 0x18, the selectors of the protocol.
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Limit of that table.
const GDT_LIMIT: u16 = size_of::<[u64; GDT_ENTRIES.len()]>() as u16 - 1;

/// Page-table entry: present and writable.
const ENTRY_TABLE: u64 = 0b11;
/// Page-directory entry: present, writable, 2 MiB.
const ENTRY_LARGE: u64 = 0b11 | 1 << 7;
/// Bytes that a page directory maps.
const DIRECTORIES: u64 = 4;
const LARGE_PAGE_SHIFT: u32 = 21;
const TABLE_SHIFT: u32 = 12;

/// The fields of the set-up header that matter.
struct Header {
    setup_bytes: usize,
    initrd_maximum: u64,
    alignment: u64,
    relocatable: bool,
    command_line_size: u64,
    preferred_address: u64,
    init_size: u64,
    /// The header as the boot parameters want it.
    bytes: Vec<u8>,
}

pub(super) fn is_bzimage(kernel: &[u8]) -> bool {
    field::<4>(kernel, offset::MAGIC).is_ok_and(|magic| magic == *MAGIC)
}

fn field<const N: usize>(kernel: &[u8], offset: usize) -> Result<[u8; N], LoadError> {
    kernel
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(LoadError::Truncated("set-up header"))
}

impl Header {
    fn parse(kernel: &[u8]) -> Result<Self, LoadError> {
        let u16_at = |offset| field(kernel, offset).map(u16::from_le_bytes);
        let u32_at = |offset| field(kernel, offset).map(u32::from_le_bytes).map(u64::from);
        let version = u16_at(offset::VERSION)?;
        if version < OLDEST_VERSION {
            return Err(LoadError::OldProtocol(version));
        }
        let flags = u16_at(offset::XLOAD_FLAGS)?;
        if flags & XLF_KERNEL_64 == 0 {
            return Err(LoadError::Not64Bit(flags));
        }
        let [sectors] = field(kernel, offset::SETUP_SECTORS)?;
        let sectors = match usize::from(sectors) {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let [jump] = field(kernel, offset::JUMP_LENGTH)?;
        let end = offset::MAGIC.saturating_add(jump.into());
        let bytes =
            kernel.get(offset::SETUP_SECTORS..end).ok_or(LoadError::Truncated("set-up header"))?;
        let [relocatable] = field(kernel, offset::RELOCATABLE)?;
        Ok(Header {
            setup_bytes: sectors.saturating_add(1).saturating_mul(SECTOR),
            initrd_maximum: u32_at(offset::INITRD_MAXIMUM)?,
            alignment: u32_at(offset::ALIGNMENT)?,
            relocatable: relocatable != 0,
            command_line_size: u32_at(offset::COMMAND_LINE_SIZE)?,
            preferred_address: field(kernel, offset::PREFERRED_ADDRESS).map(u64::from_le_bytes)?,
            init_size: u32_at(offset::INIT_SIZE)?,
            bytes: bytes.to_vec(),
        })
    }

    /// Where the payload goes: the preferred address, or, for a kernel that
    /// runs anywhere, the lowest one if memory ends too early for that.
    fn address(&self, size: u64, low_end: u64) -> u64 {
        let fits = self.preferred_address.checked_add(size).is_some_and(|end| end <= low_end);
        if fits || !self.relocatable {
            return self.preferred_address;
        }
        layout::HIGH_MEMORY
            .checked_next_multiple_of(self.alignment.max(1))
            .unwrap_or(self.preferred_address)
    }
}

pub(super) fn plan(kernel: &[u8], facts: &Facts<'_>) -> Result<BootPlan, LoadError> {
    let header = Header::parse(kernel)?;
    let payload = header.setup_bytes..kernel.len();
    if payload.is_empty() {
        return Err(LoadError::Truncated("payload"));
    }
    let mut area = Area::new(facts);
    // The kernel unpacks itself in place and needs this much then.
    let size = header.init_size.max(payload.len() as u64);
    let address = header.address(size, area.low_end());
    area.take("kernel", address, size)?;
    area.write(address, Content::Kernel(payload));
    area.command_line(facts.command_line, header.command_line_size)?;
    let initrd = match facts.initrd {
        Some(size) => {
            let limit = header.initrd_maximum.saturating_add(1);
            Some((area.place_high(size, limit)?, size))
        }
        None => None,
    };
    area.write(PARAMETERS, Content::Bytes(parameters(&header, facts, initrd)));
    area.write(GDT, Content::Bytes(GDT_ENTRIES.map(u64::to_le_bytes).as_flattened().to_vec()));
    area.write(PAGE_TABLES, Content::Bytes(identity_map()));
    let start = Start::Long {
        entry: address.saturating_add(ENTRY_64),
        stack: STACK,
        page_tables: GuestAddress(PAGE_TABLES),
        gdt: (GuestAddress(GDT), GDT_LIMIT),
        parameters: GuestAddress(PARAMETERS),
    };
    Ok(BootPlan { protocol: Protocol::BzImage, writes: area.finish(), start })
}

/// The "zero page".
fn parameters(header: &Header, facts: &Facts<'_>, initrd: Option<(u64, u64)>) -> Vec<u8> {
    let mut page = Structure::new(PARAMETERS_SIZE);
    page.put(offset::SETUP_SECTORS, &header.bytes);
    let load_flags = page.0.get(offset::LOAD_FLAGS).copied().unwrap_or(0);
    page.put(offset::LOADER_TYPE, &[LOADER_UNDEFINED, load_flags | LOADED_HIGH]);
    page.put_u64(offset::ACPI_RSDP, facts.rsdp.0);
    page.put_u32(offset::COMMAND_LINE, COMMAND_LINE);
    let (address, size) = initrd.unwrap_or((0, 0));
    page.put_u32(offset::RAMDISK_IMAGE, address);
    page.put_u32(offset::RAMDISK_SIZE, size);
    let mut entries = 0u8;
    for (range, kind) in layout::memory_map(facts.memory) {
        let at = offset::E820_TABLE.saturating_add(usize::from(entries).saturating_mul(E820_ENTRY));
        page.put_u64(at, range.start);
        page.put_u64(at.saturating_add(8), range.size);
        page.put_u32(at.saturating_add(16), kind as u64);
        entries = entries.saturating_add(1);
    }
    page.put(offset::E820_ENTRIES, &[entries]);
    page.0
}

/// A PML4, a PDPT and four page directories that map 4 GiB to themselves.
fn identity_map() -> Vec<u8> {
    let table = |number: u64| PAGE_TABLES.wrapping_add(number << TABLE_SHIFT);
    let mut tables = Structure::new(0);
    let mut page = |entries: &mut dyn Iterator<Item = u64>| {
        let bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        let end = tables.0.len().saturating_add(1 << TABLE_SHIFT);
        tables.0.extend(bytes);
        tables.0.resize(end, 0);
    };
    page(&mut core::iter::once(table(1) | ENTRY_TABLE));
    page(&mut (0..DIRECTORIES).map(|n| table(n.wrapping_add(2)) | ENTRY_TABLE));
    for directory in 0..DIRECTORIES {
        page(&mut (0..512).map(|n| (directory << 9 | n) << LARGE_PAGE_SHIFT | ENTRY_LARGE));
    }
    tables.0
}
