//! Where kernel, initial RAM disk and device tree stand in a guest's memory: where QEMU puts them.

use super::image::KernelImage;
use super::{GuestAddress, GuestRange};

/// Kernels stand at a multiple of this plus their offset.
const KERNEL_ALIGNMENT: u64 = 2 << 20;
/// QEMU keeps this much below the kernel for its boot loader, by moving a kernel that leaves less.
const BOOTLOADER_BYTES: u64 = 4 << 10;
/// The initial RAM disk leaves this much, or half of the memory, for the kernel to unpack itself.
const INITRD_OFFSET: u64 = 128 << 20;
const PAGE: u64 = 4 << 10;
/// The device tree may not cross a boundary of this, which is also its largest size (booting.rst, section 2).
const TREE_ALIGNMENT: u64 = 2 << 20;
const MIB: u64 = 1 << 20;

/// Why the parts of a guest don't fit. The caller puts the name of the VM in front: `vm "web": ` and this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// The memory ends before a part does.
    #[error(
        "memory {} MiB is too small: {part} needs {} KiB at {start}, up to {} MiB; give at least {} MiB",
        memory_size / MIB,
        part_size.div_ceil(1024),
        needed.div_ceil(MIB),
        needed.div_ceil(MIB)
    )]
    TooSmall {
        /// What doesn't fit.
        part: &'static str,
        /// Where it should stand.
        start: GuestAddress,
        /// Its size in bytes.
        part_size: u64,
        /// The memory that there is, in bytes.
        memory_size: u64,
        /// The memory that there would have to be for this part at this place, in bytes.
        needed: u64,
    },
    /// A size is so large that addresses wrap.
    #[error("{part} is larger than any memory")]
    Absurd {
        /// What is too large.
        part: &'static str,
    },
    /// A device tree above the limit of the boot protocol.
    #[error("the device tree takes {bytes} bytes; kernels accept 2 MiB")]
    TreeTooLarge {
        /// Its size.
        bytes: u64,
    },
}

/// The places of a Linux kernel and what it is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinuxPlacement {
    /// The kernel with all the memory that it claims. Its first byte is the entry point.
    pub kernel: GuestRange,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<GuestRange>,
    /// The device tree, whose address goes to `x0`.
    pub tree: GuestRange,
}

/// Places a Linux kernel, an initial RAM disk of `initrd_size` bytes and a device tree of `tree_size` bytes in `memory`,
/// whose base is a multiple of 2 MiB.
///
/// # Errors
/// A [`PlacementError`] that names the part that doesn't fit.
pub fn linux(
    memory: GuestRange,
    kernel: &KernelImage,
    initrd_size: Option<u64>,
    tree_size: u64,
) -> Result<LinuxPlacement, PlacementError> {
    if tree_size > TREE_ALIGNMENT {
        return Err(PlacementError::TreeTooLarge { bytes: tree_size });
    }
    let memory = Memory(memory);
    let offset = match kernel.text_offset {
        offset if offset < BOOTLOADER_BYTES => offset.saturating_add(KERNEL_ALIGNMENT),
        offset => offset,
    };
    let kernel = memory.place("kernel", offset, kernel.image_size)?;
    let after_kernel = memory.offset_of_end(kernel);
    let free = (memory.0.size() / 2).min(INITRD_OFFSET).max(after_kernel);
    let (initrd, free) = match initrd_size {
        Some(size) => {
            let start = align("initrd", free, PAGE)?;
            let initrd = memory.place("initrd", start, size)?;
            (Some(initrd), memory.offset_of_end(initrd))
        }
        None => (None, free),
    };
    let tree =
        memory.place("device tree", align("device tree", free, TREE_ALIGNMENT)?, tree_size)?;
    Ok(LinuxPlacement { kernel, initrd, tree })
}

/// Places a device tree of `tree_size` bytes for raw firmware: at the base of memory, where such firmware looks for it.
///
/// # Errors
/// A [`PlacementError`] if it doesn't fit.
pub fn firmware_tree(memory: GuestRange, tree_size: u64) -> Result<GuestRange, PlacementError> {
    if tree_size > TREE_ALIGNMENT {
        return Err(PlacementError::TreeTooLarge { bytes: tree_size });
    }
    Memory(memory).place("device tree", 0, tree_size)
}

fn align(part: &'static str, offset: u64, alignment: u64) -> Result<u64, PlacementError> {
    offset.checked_next_multiple_of(alignment).ok_or(PlacementError::Absurd { part })
}

/// The guest's memory.
#[derive(Clone, Copy)]
struct Memory(GuestRange);

impl Memory {
    /// The range of `size` bytes at `offset` from the base of memory, which must not end after it.
    fn place(
        &self,
        part: &'static str,
        offset: u64,
        size: u64,
    ) -> Result<GuestRange, PlacementError> {
        let absurd = PlacementError::Absurd { part };
        let end = offset.checked_add(size).ok_or(absurd)?;
        let start = self.0.base().get().checked_add(offset).map(GuestAddress::new).ok_or(absurd)?;
        if end > self.0.size() {
            return Err(PlacementError::TooSmall {
                part,
                start,
                part_size: size,
                memory_size: self.0.size(),
                needed: end,
            });
        }
        GuestRange::new(start, size).ok_or(absurd)
    }

    fn offset_of_end(&self, range: GuestRange) -> u64 {
        range.end().get().saturating_sub(self.0.base().get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::layout;
    use proptest::prelude::*;

    fn kernel(text_offset: u64, image_size: u64) -> KernelImage {
        KernelImage { text_offset, image_size, big_endian: false, anywhere: true }
    }

    fn memory(size: u64) -> GuestRange {
        range(layout::RAM_BASE.get(), size)
    }

    fn range(base: u64, size: u64) -> GuestRange {
        GuestRange::new(GuestAddress::new(base), size).unwrap()
    }

    #[test]
    fn parts_stand_where_qemu_puts_them() {
        // Seen in QEMU 10.0 with -m 1G: PC 0x4020_0000, initrd at 0x4800_0000, tree after it at 2 MiB.
        let placement =
            linux(memory(1 << 30), &kernel(0, 0x260_0000), Some(0x12_3456), 0x2000).unwrap();
        assert_eq!(placement.kernel, range(0x4020_0000, 0x260_0000));
        assert_eq!(placement.initrd, Some(range(0x4800_0000, 0x12_3456)));
        assert_eq!(placement.tree, range(0x4820_0000, 0x2000));
    }

    #[test]
    fn without_initrd_the_tree_takes_its_place() {
        // Seen in QEMU 10.0 with -m 128M: tree at 0x4400_0000.
        let placement = linux(memory(128 << 20), &kernel(0, 0x10_0000), None, 0x2000).unwrap();
        assert_eq!((placement.initrd, placement.tree), (None, range(0x4400_0000, 0x2000)));
    }

    #[test]
    fn a_kernel_with_a_real_offset_keeps_it() {
        assert_eq!(
            linux(memory(1 << 30), &kernel(0x8_0000, 0x1000), None, 0x1000).unwrap().kernel,
            range(0x4008_0000, 0x1000)
        );
        assert_eq!(
            linux(memory(1 << 30), &kernel(0xfff, 0x1000), None, 0x1000).unwrap().kernel,
            range(0x4020_0fff, 0x1000)
        );
    }

    #[test]
    fn a_kernel_larger_than_half_of_memory_moves_the_rest_up() {
        let placement =
            linux(memory(64 << 20), &kernel(0, 40 << 20), Some(0x1000), 0x1000).unwrap();
        assert_eq!(placement.initrd, Some(range(0x42a0_0000, 0x1000)));
        assert_eq!(placement.tree, range(0x42c0_0000, 0x1000));
    }

    #[test]
    fn in_memory_elsewhere_all_parts_move_along() {
        let memory = range(0x8_4000_0000, 1 << 30);
        let placement = linux(memory, &kernel(0, 0x260_0000), Some(0x12_3456), 0x2000).unwrap();
        assert_eq!(placement.kernel, range(0x8_4020_0000, 0x260_0000));
        assert_eq!(placement.initrd, Some(range(0x8_4800_0000, 0x12_3456)));
        assert_eq!(placement.tree, range(0x8_4820_0000, 0x2000));
        let error = linux(memory, &kernel(0, 2 << 30), None, 0x1000).unwrap_err();
        assert!(error.to_string().contains("at 0x840200000, up to 2050 MiB"), "{error}");
    }

    #[test]
    fn firmware_finds_its_tree_at_the_base_of_memory() {
        assert_eq!(firmware_tree(memory(64 << 20), 0x3000).unwrap(), range(0x4000_0000, 0x3000));
        assert_eq!(
            firmware_tree(memory(0), 1).unwrap_err().to_string(),
            "memory 0 MiB is too small: device tree needs 1 KiB at 0x40000000, up to 1 MiB; give at least 1 MiB"
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = linux(memory(32 << 20), &kernel(0, 48 << 20), None, 0x1000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory 32 MiB is too small: kernel needs 49152 KiB at 0x40200000, up to 50 MiB; give at least 50 MiB"
        );
        let error =
            linux(memory(64 << 20), &kernel(0, 1 << 20), Some(60 << 20), 0x1000).unwrap_err();
        assert!(matches!(error, PlacementError::TooSmall { part: "initrd", .. }), "{error}");
        let error = linux(memory(64 << 20), &kernel(0, 1 << 20), None, 3 << 20).unwrap_err();
        assert_eq!(error, PlacementError::TreeTooLarge { bytes: 3 << 20 });
    }

    proptest! {
        #[test]
        fn placed_parts_are_inside_of_memory_and_apart(
            memory_size in 0..1_u64 << 34,
            text_offset in prop_oneof![Just(0), 0..1_u64 << 22, any::<u64>()],
            image_size in prop_oneof![0..1_u64 << 27, any::<u64>()],
            initrd_size in prop::option::of(prop_oneof![0..1_u64 << 28, any::<u64>()]),
            tree_size in 0..3_u64 << 20,
        ) {
            if let Ok(placement) = linux(memory(memory_size), &kernel(text_offset, image_size), initrd_size, tree_size) {
                let end = layout::RAM_BASE.get() + memory_size;
                let mut previous = layout::RAM_BASE;
                for part in [Some(placement.kernel), placement.initrd, Some(placement.tree)].into_iter().flatten() {
                    prop_assert!(part.base() >= previous);
                    prop_assert!(part.end().get() <= end);
                    previous = part.end();
                }
                prop_assert!(placement.tree.base().get().is_multiple_of(2 << 20));
            }
        }
    }
}
