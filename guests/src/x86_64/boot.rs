//! What the loader says: Multiboot information or the PVH start structure.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

/// EAX of Multiboot 1.
const MULTIBOOT_MAGIC: u32 = 0x2bad_b002;
/// First word of the PVH start structure.
const PVH_MAGIC: u32 = 0x336e_c578;

static PROTOCOL: AtomicU64 = AtomicU64::new(0);
static INFORMATION: AtomicU64 = AtomicU64::new(0);

/// By which protocol this guest was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Multiboot 1.
    Multiboot,
    /// PVH.
    Pvh,
}

/// A range of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Whether it is memory for use.
    pub usable: bool,
}

pub(super) fn note(magic: u32, information: u32) {
    INFORMATION.store(information.into(), Ordering::Relaxed);
    PROTOCOL.store((magic == MULTIBOOT_MAGIC).into(), Ordering::Relaxed);
    if protocol() == Protocol::Pvh {
        assert_eq!(word(0), PVH_MAGIC, "neither a Multiboot nor a PVH loader");
    }
}

/// The protocol.
pub fn protocol() -> Protocol {
    match PROTOCOL.load(Ordering::Relaxed) {
        0 => Protocol::Pvh,
        _ => Protocol::Multiboot,
    }
}

/// A 32-bit word of the loader's structure.
fn word(offset: u64) -> u32 {
    read(INFORMATION.load(Ordering::Relaxed) + offset) as u32
}

/// Eight bytes of physical memory.
pub(super) fn read(address: u64) -> u64 {
    // SAFETY: all of the first 4 GiB is mapped, and nothing of Rust's is changed by a read.
    unsafe { (address as *const u64).read_unaligned() }
}

/// The memory map.
pub fn memory_map() -> impl Iterator<Item = Range> {
    let (mut at, mut left, multiboot) = match protocol() {
        // Bytes of the map; an entry says its own length.
        Protocol::Multiboot => (u64::from(word(48)), u64::from(word(44)), true),
        Protocol::Pvh => {
            (u64::from(word(40)) | u64::from(word(44)) << 32, u64::from(word(48)), false)
        }
    };
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let entry = if multiboot { at + 4 } else { at };
        let size = if multiboot { (read(at) & 0xffff_ffff) + 4 } else { 24 };
        left = left.saturating_sub(if multiboot { size } else { 1 });
        at += size;
        let usable = read(entry + 16) as u32 == 1;
        Some(Range { start: read(entry), size: read(entry + 8), usable })
    })
}

/// Bytes of usable memory.
pub fn memory_size() -> u64 {
    memory_map().filter(|range| range.usable).map(|range| range.size).sum()
}

/// Address of the ACPI root pointer, where the protocol gives it.
pub fn rsdp() -> Option<u64> {
    let address = match protocol() {
        Protocol::Pvh => u64::from(word(32)) | u64::from(word(36)) << 32,
        Protocol::Multiboot => 0,
    };
    (address != 0).then_some(address)
}

/// Kernel command line.
pub fn command_line() -> &'static str {
    let address = match protocol() {
        Protocol::Pvh => word(24),
        Protocol::Multiboot => word(16),
    };
    if address == 0 {
        return "";
    }
    // SAFETY: the loader puts a text with a zero at its end there, which nobody changes.
    let text = unsafe { CStr::from_ptr(address as usize as *const _) };
    text.to_str().unwrap_or("")
}

/// The value of `name=value` in the command line.
pub fn option(name: &str) -> Option<&'static str> {
    let mut words = command_line().split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Memory above 1 MiB and below 4 GiB that the guest did not come in.
pub fn free_memory() -> core::ops::Range<u64> {
    unsafe extern "C" {
        static bss_end: u8;
    }
    let image_end = &raw const bss_end as u64;
    let range = memory_map().find(|range| {
        range.usable && range.start <= image_end && range.start + range.size > image_end
    });
    let end = range.map_or(image_end, |range| (range.start + range.size).min(1 << 32));
    // The loader's structures may lie right behind the image.
    (image_end + (1 << 20)).min(end)..end
}
