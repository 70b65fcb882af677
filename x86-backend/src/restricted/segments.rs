//! Segment registers on the way into and out of virtual-8086 mode, in the forms that VM entries
//! accept (SDM 27.3.1.2).

use crate::machine::registers::{Attributes, Segment};
use crate::state::SegmentName;

/// Selectors of real mode count units of this many bits of an address.
const PARAGRAPH_SHIFT: u32 = 4;
/// Limit of real-mode segments.
const LIMIT: u32 = 0xffff;
/// Where the privilege level is in attributes.
const LEVEL_SHIFT: u32 = 5;
/// The privilege level of a selector.
const REQUESTED: u16 = 3;
/// Segments in virtual-8086 mode: accessed writable data of privilege level 3.
const VIRTUAL_8086: Attributes =
    Attributes::from_bits_retain(Attributes::DATA_SEGMENT.bits() | REQUESTED << LEVEL_SHIFT);

/// The task register in virtual-8086 mode: a task-state segment without I/O permissions, so that
/// every access to a port faults.
pub const TASK: Segment =
    Segment { selector: 0, base: 0, limit: 0, attributes: Attributes::BUSY_TSS };

/// Code and data segments.
pub const ORDINARY: [SegmentName; 6] = [
    SegmentName::Es,
    SegmentName::Cs,
    SegmentName::Ss,
    SegmentName::Ds,
    SegmentName::Fs,
    SegmentName::Gs,
];

/// A segment of real mode for virtual-8086 mode. Where the selector is not the base's, as after
/// protected mode, it changes. A base that no selector has stays as it is, and the processor refuses to enter the
/// guest.
pub const fn virtual_8086(real: &Segment) -> Segment {
    let paragraph = real.base >> PARAGRAPH_SHIFT;
    let representable = paragraph << PARAGRAPH_SHIFT == real.base && paragraph <= u16::MAX as u64;
    let selector = if representable { paragraph as u16 } else { real.selector };
    Segment { selector, base: real.base, limit: LIMIT, attributes: VIRTUAL_8086 }
}

/// The segment that a load of `selector` gives in real mode, for virtual-8086 mode.
pub const fn loaded(selector: u16) -> Segment {
    let base = (selector as u64) << PARAGRAPH_SHIFT;
    Segment { selector, base, limit: LIMIT, attributes: VIRTUAL_8086 }
}

/// A segment of virtual-8086 mode as real mode has it.
pub const fn real(virtual_8086: &Segment) -> Segment {
    Segment { attributes: Attributes::DATA_SEGMENT, ..*virtual_8086 }
}

/// What segment register `name` of virtual-8086 mode becomes when the guest turns protection on: it
/// keeps its base. Privilege levels are such that the processor accepts them: 0 for code and stack,
/// the selector's for data.
pub const fn protected(name: SegmentName, virtual_8086: &Segment) -> Segment {
    let level = virtual_8086.selector & REQUESTED;
    let (selector, attributes) = match name {
        SegmentName::Cs => (virtual_8086.selector & !REQUESTED, Attributes::CODE_SEGMENT),
        SegmentName::Ss => (virtual_8086.selector & !REQUESTED, Attributes::DATA_SEGMENT),
        _ => {
            let attributes = Attributes::DATA_SEGMENT.bits() | level << LEVEL_SHIFT;
            (virtual_8086.selector, Attributes::from_bits_retain(attributes))
        }
    };
    Segment { selector, attributes, ..*virtual_8086 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether the processor enters a guest in virtual-8086 mode with this segment.
    fn enters_virtual_8086(segment: &Segment) -> bool {
        segment.base == u64::from(segment.selector) << 4
            && segment.limit == 0xffff
            && segment.attributes.access_rights() == 0xf3
    }

    /// The same in protected mode, of segments that are code or data, given the stack's selector and level.
    fn enters_protected(name: SegmentName, segment: &Segment, stack: &Segment) -> bool {
        let rights = segment.attributes.access_rights();
        let (kind, level) = (rights & 0xf, rights >> 5 & 3);
        let requested = u32::from(segment.selector & 3);
        let stack_level = stack.attributes.access_rights() >> 5 & 3;
        let usable = rights & 0x10 != 0 && rights & 0x80 != 0 && rights & 0x1_0f00 == 0;
        // Byte-granular, as any limit up to 64 KiB can be.
        let limit = rights & 0x8000 == 0 && segment.limit <= 0xf_ffff;
        usable
            && limit
            && segment.base >> 32 == 0
            && match name {
                SegmentName::Cs => {
                    matches!(kind, 9 | 11)
                        && level == stack_level
                        && requested == u32::from(stack.selector & 3)
                }
                SegmentName::Ss => matches!(kind, 3 | 7) && level == requested,
                _ => matches!(kind, 1 | 3) && level >= requested,
            }
    }

    fn code() -> Segment {
        Segment { selector: 0x10, base: 0, limit: 0xffff, attributes: Attributes::CODE_SEGMENT }
    }

    #[test]
    fn a_selector_that_is_not_the_bases_changes() {
        for (selector, base, expected) in [
            (0x9a00, 0x9_a000, Some(0x9a00)),
            (0x10, 0x9_a000, Some(0x9a00)),
            (0x18, 0, Some(0)),
            (0x8, 0xf_fff0, Some(0xffff)),
            (0x8, 0x10_0000, None),
            (0x8, 0x1008, None),
            (0xf000, 0xffff_0000, None),
        ] {
            let segment = virtual_8086(&Segment { selector, base, ..code() });
            assert_eq!(enters_virtual_8086(&segment), expected.is_some(), "{segment:x?}");
            assert_eq!(segment.base, base);
            if let Some(selector) = expected {
                assert_eq!(segment.selector, selector);
            }
        }
    }

    #[test]
    fn the_task_register_has_no_io_permissions() {
        assert_eq!(TASK.attributes.access_rights(), 0x8b);
        // Its word that names the permissions would be at offset 66h.
        const { assert!(TASK.limit < 0x67) }
    }

    proptest! {
        #[test]
        fn what_is_loaded_in_real_mode_is_entered_before_and_after_protection_is_turned_on(
            selectors in any::<[u16; 6]>(),
        ) {
            let segments = selectors.map(loaded);
            let stack = protected(SegmentName::Ss, &segments[2]);
            for (name, segment) in ORDINARY.into_iter().zip(&segments) {
                prop_assert!(enters_virtual_8086(segment));
                prop_assert_eq!(virtual_8086(&real(segment)), *segment);
                let after = protected(name, segment);
                prop_assert!(enters_protected(name, &after, &stack), "{:?} {:x?}", name, after);
                prop_assert_eq!(after.base, segment.base);
                prop_assert_eq!(after.selector | 3, segment.selector | 3);
            }
        }

        #[test]
        fn no_segment_of_protected_mode_makes_the_way_to_real_mode_panic(
            selector in any::<u16>(), base in any::<u64>(), limit in any::<u32>(), bits in any::<u16>(),
        ) {
            let attributes = Attributes::from_bits_retain(bits);
            let _ = virtual_8086(&Segment { selector, base, limit, attributes });
        }
    }
}
