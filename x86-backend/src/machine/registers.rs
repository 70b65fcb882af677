//! The registers with which a virtual CPU starts.

use super::msr::Efer;

bitflags::bitflags! {
    /// CR0, as far as starting needs it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protection.
        const PE = 1 << 0;
        /// Extension type; always set.
        const ET = 1 << 4;
        /// Not write-through.
        const NW = 1 << 29;
        /// Caches disabled.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4, as far as starting needs it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// 64-bit page-table entries.
        const PAE = 1 << 5;
    }

    /// Attributes of a segment, as bits 40 to 47 and 52 to 55 of a descriptor,
    /// packed; this is the format of a VMCB.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Attributes: u16 {
        /// Has been accessed.
        const ACCESSED = 1 << 0;
        /// Readable code, or writable data.
        const READ_WRITE = 1 << 1;
        /// Code.
        const CODE = 1 << 3;
        /// Code or data, as opposed to a system segment.
        const NON_SYSTEM = 1 << 4;
        /// Present.
        const PRESENT = 1 << 7;
        /// 64-bit code.
        const LONG = 1 << 9;
        /// 32-bit code or stack.
        const BIG = 1 << 10;
        /// The limit counts pages.
        const GRANULAR = 1 << 11;
    }
}

/// Low byte of VMX access rights: type to present.
const ACCESS_LOW: u16 = 0xff;
/// VMX access rights: the segment is unusable.
const ACCESS_UNUSABLE: u32 = 1 << 16;

impl Attributes {
    /// The descriptor type of a local descriptor table.
    pub const LDT: Self = Self::READ_WRITE.union(Self::PRESENT);
    /// The descriptor type of a busy 32-bit task-state segment.
    pub const BUSY_TSS: Self =
        Self::ACCESSED.union(Self::READ_WRITE).union(Self::CODE).union(Self::PRESENT);

    /// Readable code.
    pub const CODE_SEGMENT: Self = Self::ACCESSED
        .union(Self::READ_WRITE)
        .union(Self::CODE)
        .union(Self::NON_SYSTEM)
        .union(Self::PRESENT);
    /// Writable data.
    pub const DATA_SEGMENT: Self =
        Self::ACCESSED.union(Self::READ_WRITE).union(Self::NON_SYSTEM).union(Self::PRESENT);

    /// The access rights of a VMCS, where the high bits start at bit 12.
    pub const fn access_rights(self) -> u32 {
        let bits = self.bits();
        let unusable = if self.contains(Attributes::PRESENT) { 0 } else { ACCESS_UNUSABLE };
        (bits & ACCESS_LOW) as u32 | ((bits & !ACCESS_LOW) as u32) << 4 | unusable
    }
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Attributes.
    pub attributes: Attributes,
}

/// A descriptor-table register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// The registers of a virtual CPU at a start; those not listed are zero, debug
/// registers and the page-attribute table have their reset values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialState {
    /// RIP.
    pub rip: u64,
    /// RSP.
    pub rsp: u64,
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RFLAGS; bit 1 is always set.
    pub rflags: u64,
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// CS.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS.
    pub data: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: Table,
    /// IDTR.
    pub idtr: Table,
}

/// The bit of RFLAGS that is always set.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// Limit of real-mode segments and of tables after reset.
const REAL_MODE_LIMIT: u16 = 0xffff;
/// Smallest limit of a 32-bit task-state segment.
const TSS_LIMIT: u32 = 0x67;
/// Base of CS after power-on.
const RESET_CODE_BASE: u64 = 0xffff_0000;
/// CS after power-on.
const RESET_CODE_SELECTOR: u16 = 0xf000;
/// IP after power-on.
const RESET_IP: u64 = 0xfff0;

/// Selector of 32-bit and 64-bit boot code, as boot protocols want it.
pub const BOOT_CODE: u16 = 0x10;
/// Selector of boot data.
pub const BOOT_DATA: u16 = 0x18;

impl InitialState {
    /// After power-on or INIT: real mode at 0xffff_fff0. `signature` is
    /// CPUID.1:EAX, which starts in EDX.
    pub const fn reset(signature: u32) -> Self {
        let limit = REAL_MODE_LIMIT as u32;
        let table = Table { base: 0, limit: REAL_MODE_LIMIT };
        InitialState {
            rip: RESET_IP,
            rsp: 0,
            rax: 0,
            rbx: 0,
            rdx: signature as u64,
            rsi: 0,
            rflags: RFLAGS_FIXED,
            cr0: Cr0::ET.union(Cr0::NW).union(Cr0::CD),
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            cs: Segment {
                selector: RESET_CODE_SELECTOR,
                base: RESET_CODE_BASE,
                limit,
                attributes: Attributes::CODE_SEGMENT,
            },
            data: Segment { selector: 0, base: 0, limit, attributes: Attributes::DATA_SEGMENT },
            ldtr: Segment { selector: 0, base: 0, limit, attributes: Attributes::LDT },
            tr: Segment { selector: 0, base: 0, limit, attributes: Attributes::BUSY_TSS },
            gdtr: table,
            idtr: table,
        }
    }

    /// After a start-up message: real mode at `address`, which lies below
    /// 1 MiB at a multiple of 4096.
    pub const fn start_up(signature: u32, address: u64) -> Self {
        let state = InitialState::reset(signature);
        let selector = (address >> 4) as u16;
        InitialState { rip: 0, cs: Segment { selector, base: address, ..state.cs }, ..state }
    }

    /// Flat 32-bit protected mode without paging, at `entry`.
    pub const fn protected(entry: u32) -> Self {
        let state = InitialState::reset(0);
        let flat = Attributes::BIG.union(Attributes::GRANULAR);
        InitialState {
            rip: entry as u64,
            rdx: 0,
            cr0: Cr0::PE.union(Cr0::ET),
            cs: Segment {
                selector: BOOT_CODE,
                base: 0,
                limit: u32::MAX,
                attributes: Attributes::CODE_SEGMENT.union(flat),
            },
            data: Segment {
                selector: BOOT_DATA,
                base: 0,
                limit: u32::MAX,
                attributes: Attributes::DATA_SEGMENT.union(flat),
            },
            tr: Segment { limit: TSS_LIMIT, ..state.tr },
            ..state
        }
    }

    /// 64-bit mode at `entry` with the page tables at `cr3`.
    pub const fn long(entry: u64, cr3: u64) -> Self {
        let state = InitialState::protected(0);
        let code = Attributes::CODE_SEGMENT.union(Attributes::LONG).union(Attributes::GRANULAR);
        InitialState {
            rip: entry,
            cr0: state.cr0.union(Cr0::PG),
            cr3,
            cr4: Cr4::PAE,
            efer: Efer::LME.union(Efer::LMA),
            cs: Segment { attributes: code, ..state.cs },
            ..state
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_up_message_starts_in_real_mode_at_its_page() {
        let state = InitialState::start_up(0x663, 0x9_a000);
        assert_eq!((state.cs.selector, state.cs.base, state.rip), (0x9a00, 0x9_a000, 0));
        assert_eq!((state.rdx, state.rflags), (0x663, 2));
        assert_eq!(state.cr0.bits(), 0x6000_0010);
    }

    #[test]
    fn long_mode_has_the_control_registers_of_the_boot_protocol() {
        let state = InitialState::long(0x100_0200, 0x9000);
        assert_eq!(state.cr0.bits(), 0x8000_0011);
        assert_eq!((state.cr4.bits(), state.efer.bits()), (0x20, 0x500));
        assert_eq!(state.cs.attributes.bits(), 0xa9b);
        assert_eq!(state.data.attributes.bits(), 0xc93);
    }

    #[test]
    fn access_rights_move_the_high_bits_and_mark_what_is_absent() {
        for (attributes, rights) in [
            (Attributes::from_bits_retain(0xa9b), 0xa09b),
            (Attributes::from_bits_retain(0xc93), 0xc093),
            (Attributes::BUSY_TSS, 0x8b),
            (Attributes::LDT, 0x82),
            (Attributes::empty(), 0x1_0000),
        ] {
            assert_eq!(attributes.access_rights(), rights);
        }
    }
}
