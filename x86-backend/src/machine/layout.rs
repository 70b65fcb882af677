//! The guest-physical address space of the machine.

use bunshin::address::GuestAddress;

/// End of the memory that firmware of PCs reports below 640 KiB.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// First byte after the area for video memory and firmware.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// First address that is never memory: memory above 3 GiB starts at 4 GiB.
pub const DEVICES: u64 = 0xc000_0000;
/// Where memory goes on.
pub const MEMORY_ABOVE_4G: u64 = 0x1_0000_0000;

/// Firmware tables; reserved in the memory map.
pub const FIRMWARE_TABLES: GuestAddress = GuestAddress(0xe_0000);
/// Room for the firmware tables in bytes.
pub const FIRMWARE_TABLES_SIZE: u64 = 0x2_0000;

/// First virtio-mmio window.
pub const VIRTIO: u64 = 0xc000_1000;
/// Bytes of a virtio-mmio window.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// Interrupt of the first virtio-mmio window; the others count up.
pub const VIRTIO_FIRST_IRQ: u8 = 5;
/// Number of virtio-mmio windows: one a pin of the IOAPIC from
/// [`VIRTIO_FIRST_IRQ`] on.
pub const VIRTIO_SLOTS: u8 = super::ioapic::PINS - VIRTIO_FIRST_IRQ;

/// A page directory that some processors need for guests without paging
/// ([`crate::restricted`]), where PCs have firmware: nothing says that anything is here, and it is read-only.
pub const PAGE_DIRECTORY: u64 = 0xfffb_c000;

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The ranges of a machine with `bytes` of memory: below 3 GiB, and above
/// 4 GiB, which may be empty.
pub fn memory(bytes: u64) -> [Memory; 2] {
    let low = bytes.min(DEVICES);
    [
        Memory { start: 0, size: low },
        Memory { start: MEMORY_ABOVE_4G, size: bytes.saturating_sub(low) },
    ]
}

/// Width of addresses that the second translation stage translates.
const TRANSLATED_BITS: u32 = 48;

/// Width of guest-physical addresses on a processor whose physical addresses have `physical_bits`
/// bits (CPUID 8000_0008h EAX bits 7:0).
pub const fn address_bits(physical_bits: u32) -> u32 {
    if physical_bits < TRANSLATED_BITS { physical_bits } else { TRANSLATED_BITS }
}

/// Most memory in bytes that a machine has room for whose addresses have `bits` bits.
pub const fn most_memory(bits: u32) -> u64 {
    let end = match 1u64.checked_shl(bits) {
        Some(end) => end,
        None => u64::MAX,
    };
    match end.checked_sub(MEMORY_ABOVE_4G) {
        Some(above) => above.saturating_add(DEVICES),
        None => DEVICES,
    }
}

/// What an address range is, with the numbers of the E820 interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Usable memory.
    Memory = 1,
    /// Not for use.
    Reserved = 2,
}

/// The memory map for a guest with `bytes` of memory, in order of addresses.
pub fn memory_map(bytes: u64) -> impl Iterator<Item = (Memory, Kind)> {
    let [low, high] = memory(bytes);
    let conventional = low.size.min(LOW_MEMORY_END);
    let firmware_end = low.size.min(HIGH_MEMORY);
    [
        (Memory { start: 0, size: conventional }, Kind::Memory),
        (
            Memory { start: conventional, size: firmware_end.saturating_sub(conventional) },
            Kind::Reserved,
        ),
        (Memory { start: HIGH_MEMORY, size: low.size.saturating_sub(HIGH_MEMORY) }, Kind::Memory),
        (high, Kind::Memory),
    ]
    .into_iter()
    .filter(|(range, _)| range.size != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_above_3_gib_moves_beyond_the_devices() {
        const GIB: u64 = 1 << 30;
        for (bytes, low, high) in
            [(GIB, GIB, 0), (3 * GIB, 3 * GIB, 0), (5 * GIB, 3 * GIB, 2 * GIB)]
        {
            let [below, above] = memory(bytes);
            assert_eq!((below.size, above.size), (low, high));
        }
    }

    #[test]
    fn memory_ends_where_addresses_do() {
        const GIB: u64 = 1 << 30;
        for (physical, bits, most) in [
            (32, 32, 3 * GIB),
            (36, 36, 63 * GIB),
            (40, 40, 1023 * GIB),
            (48, 48, (256 << 40) - GIB),
            (52, 48, (256 << 40) - GIB),
        ] {
            assert_eq!(address_bits(physical), bits);
            assert_eq!(most_memory(bits), most);
            let [_, high] = memory(most);
            assert!(high.size == 0 || high.start + high.size == 1 << bits);
        }
        assert_eq!(most_memory(64), u64::MAX - GIB);
    }

    #[test]
    fn the_map_has_no_gaps_below_3_gib_and_reserves_the_tables() {
        let map: Vec<_> = memory_map(5 << 30).collect();
        assert_eq!(map.len(), 4);
        assert!(map[..3].windows(2).all(|w| w[0].0.start + w[0].0.size == w[1].0.start));
        let (reserved, kind) = map[1];
        assert_eq!(kind, Kind::Reserved);
        assert!(reserved.start <= FIRMWARE_TABLES.0);
        assert!(reserved.start + reserved.size >= FIRMWARE_TABLES.0 + FIRMWARE_TABLES_SIZE);
        assert_eq!(memory_map(0x8_0000).count(), 1);
    }
}
