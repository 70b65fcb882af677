//! A processor's registers as both vendors' hardware holds them.

/// The general registers in the order of their encodings in instructions, so
/// that an encoding is an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Registers(pub [u64; 16]);

/// Encoding of RAX.
pub const RAX: u8 = 0;
/// Encoding of RCX.
pub const RCX: u8 = 1;
/// Encoding of RDX.
pub const RDX: u8 = 2;
/// Encoding of RBX.
pub const RBX: u8 = 3;
/// Encoding of RSP.
pub const RSP: u8 = 4;
/// Encoding of RBP.
pub const RBP: u8 = 5;
/// Encoding of RSI.
pub const RSI: u8 = 6;
/// Encoding of RDI.
pub const RDI: u8 = 7;

impl Registers {
    /// The register with encoding `number`, of which the low four bits count.
    #[inline]
    pub fn get(&self, number: u8) -> u64 {
        self.0.get(usize::from(number & 0xf)).copied().unwrap_or(0)
    }

    /// Sets all of a register.
    #[inline]
    pub fn set(&mut self, number: u8, value: u64) {
        if let Some(register) = self.0.get_mut(usize::from(number & 0xf)) {
            *register = value;
        }
    }

    /// Sets the low half of a register and clears the high half, as 32-bit
    /// instructions do.
    #[inline]
    pub fn set_low(&mut self, number: u8, value: u32) {
        self.set(number, u64::from(value));
    }

    /// The low half of a register.
    #[inline]
    pub fn low(&self, number: u8) -> u32 {
        self.get(number) as u32
    }
}

/// Names of the segment registers, numbered as in instruction encodings and in
/// exit information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentName {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

impl SegmentName {
    /// All names.
    pub const ALL: [SegmentName; 8] = [
        SegmentName::Es,
        SegmentName::Cs,
        SegmentName::Ss,
        SegmentName::Ds,
        SegmentName::Fs,
        SegmentName::Gs,
        SegmentName::Ldtr,
        SegmentName::Tr,
    ];

    /// The segment register with encoding `number`; DS for those that name none.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => SegmentName::Es,
            1 => SegmentName::Cs,
            2 => SegmentName::Ss,
            4 => SegmentName::Fs,
            5 => SegmentName::Gs,
            _ => SegmentName::Ds,
        }
    }
}

/// CR0: protection enable.
pub const CR0_PE: u64 = 1 << 0;
/// CR0: extension type, fixed to one.
pub const CR0_ET: u64 = 1 << 4;
/// CR0: numeric error.
pub const CR0_NE: u64 = 1 << 5;
/// CR0: not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// CR0: cache disable.
pub const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4: physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: virtual-machine extensions enable.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4: OS uses XSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// EFER: system-call extensions.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER: long mode enable.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: no-execute enable.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER: secure virtual machine enable.
pub const EFER_SVME: u64 = 1 << 12;
/// RFLAGS: bit that is always one.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// RFLAGS: trap flag.
pub const RFLAGS_TF: u64 = 1 << 8;
/// DR6: a single step raised the debug exception.
pub const DR6_BS: u64 = 1 << 14;
/// RFLAGS: interrupts enabled.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS: direction of string instructions.
pub const RFLAGS_DF: u64 = 1 << 10;
