//! The virtual-machine control structure: fields by their encodings (SDM
//! appendix B), and the instructions that reach them.

use core::arch::asm;

use x86_backend::state::SegmentName;

/// A field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum VmcsField {
    Vpid = 0x0000,
    GuestEs = 0x0800,
    GuestCs = 0x0802,
    GuestSs = 0x0804,
    GuestDs = 0x0806,
    GuestFs = 0x0808,
    GuestGs = 0x080a,
    GuestLdtr = 0x080c,
    GuestTr = 0x080e,
    HostEs = 0x0c00,
    HostCs = 0x0c02,
    HostSs = 0x0c04,
    HostDs = 0x0c06,
    HostFs = 0x0c08,
    HostGs = 0x0c0a,
    HostTr = 0x0c0c,
    MsrBitmap = 0x2004,
    TscOffset = 0x2010,
    EptPointer = 0x201a,
    GuestPhysicalAddress = 0x2400,
    LinkPointer = 0x2800,
    GuestDebugControl = 0x2802,
    GuestPat = 0x2804,
    GuestEfer = 0x2806,
    GuestPdpte0 = 0x280a,
    GuestPdpte1 = 0x280c,
    GuestPdpte2 = 0x280e,
    GuestPdpte3 = 0x2810,
    HostPat = 0x2c00,
    HostEfer = 0x2c02,
    PinControls = 0x4000,
    ProcessorControls = 0x4002,
    ExceptionBitmap = 0x4004,
    PageFaultMask = 0x4006,
    PageFaultMatch = 0x4008,
    Cr3TargetCount = 0x400a,
    ExitControls = 0x400c,
    ExitMsrStoreCount = 0x400e,
    ExitMsrLoadCount = 0x4010,
    EntryControls = 0x4012,
    EntryMsrLoadCount = 0x4014,
    EntryInterruption = 0x4016,
    EntryErrorCode = 0x4018,
    EntryInstructionLength = 0x401a,
    SecondaryControls = 0x401e,
    PauseGap = 0x4020,
    PauseWindow = 0x4022,
    InstructionError = 0x4400,
    ExitReason = 0x4402,
    ExitInterruption = 0x4404,
    ExitErrorCode = 0x4406,
    VectoringInformation = 0x4408,
    VectoringErrorCode = 0x440a,
    ExitInstructionLength = 0x440c,
    InstructionInformation = 0x440e,
    GuestEsLimit = 0x4800,
    GuestCsLimit = 0x4802,
    GuestSsLimit = 0x4804,
    GuestDsLimit = 0x4806,
    GuestFsLimit = 0x4808,
    GuestGsLimit = 0x480a,
    GuestLdtrLimit = 0x480c,
    GuestTrLimit = 0x480e,
    GuestGdtrLimit = 0x4810,
    GuestIdtrLimit = 0x4812,
    GuestEsRights = 0x4814,
    GuestCsRights = 0x4816,
    GuestSsRights = 0x4818,
    GuestDsRights = 0x481a,
    GuestFsRights = 0x481c,
    GuestGsRights = 0x481e,
    GuestLdtrRights = 0x4820,
    GuestTrRights = 0x4822,
    Interruptibility = 0x4824,
    ActivityState = 0x4826,
    GuestSysenterCs = 0x482a,
    PreemptionTimer = 0x482e,
    HostSysenterCs = 0x4c00,
    Cr0Mask = 0x6000,
    Cr4Mask = 0x6002,
    Cr0Shadow = 0x6004,
    Cr4Shadow = 0x6006,
    Qualification = 0x6400,
    GuestCr0 = 0x6800,
    GuestCr3 = 0x6802,
    GuestCr4 = 0x6804,
    GuestEsBase = 0x6806,
    GuestCsBase = 0x6808,
    GuestSsBase = 0x680a,
    GuestDsBase = 0x680c,
    GuestFsBase = 0x680e,
    GuestGsBase = 0x6810,
    GuestLdtrBase = 0x6812,
    GuestTrBase = 0x6814,
    GuestGdtrBase = 0x6816,
    GuestIdtrBase = 0x6818,
    GuestDr7 = 0x681a,
    GuestRsp = 0x681c,
    GuestRip = 0x681e,
    GuestRflags = 0x6820,
    PendingDebug = 0x6822,
    GuestSysenterEsp = 0x6824,
    GuestSysenterEip = 0x6826,
    HostCr0 = 0x6c00,
    HostCr3 = 0x6c02,
    HostCr4 = 0x6c04,
    HostFsBase = 0x6c06,
    HostGsBase = 0x6c08,
    HostTrBase = 0x6c0a,
    HostGdtrBase = 0x6c0c,
    HostIdtrBase = 0x6c0e,
    HostSysenterEsp = 0x6c10,
    HostSysenterEip = 0x6c12,
    HostRip = 0x6c16,
}

/// The fields of one segment register.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentFields {
    pub(super) selector: VmcsField,
    pub(super) base: VmcsField,
    pub(super) limit: VmcsField,
    pub(super) rights: VmcsField,
}

macro_rules! segments {
    ($($name:ident: $selector:ident $base:ident $limit:ident $rights:ident;)*) => {
        /// The fields of the segment register `name`.
        pub(super) const fn segment(name: SegmentName) -> SegmentFields {
            match name {
                $(SegmentName::$name => SegmentFields {
                    selector: VmcsField::$selector,
                    base: VmcsField::$base,
                    limit: VmcsField::$limit,
                    rights: VmcsField::$rights,
                },)*
            }
        }
    };
}

segments! {
    Es: GuestEs GuestEsBase GuestEsLimit GuestEsRights;
    Cs: GuestCs GuestCsBase GuestCsLimit GuestCsRights;
    Ss: GuestSs GuestSsBase GuestSsLimit GuestSsRights;
    Ds: GuestDs GuestDsBase GuestDsLimit GuestDsRights;
    Fs: GuestFs GuestFsBase GuestFsLimit GuestFsRights;
    Gs: GuestGs GuestGsBase GuestGsLimit GuestGsRights;
    Ldtr: GuestLdtr GuestLdtrBase GuestLdtrLimit GuestLdtrRights;
    Tr: GuestTr GuestTrBase GuestTrLimit GuestTrRights;
}

/// Reads a field of the current structure; 0 if there is none.
#[inline]
pub(super) fn read(field: VmcsField) -> u64 {
    let value: u64;
    // SAFETY: VMX operation is on; the instruction reads processor state, and clears the value first
    // so that a failure reads as 0.
    unsafe {
        asm!("xor {value:e}, {value:e}", "vmread {value}, {field}",
            value = out(reg) value, field = in(reg) field as u64, options(nostack));
    }
    value
}

/// Writes a field of the current structure.
#[inline]
pub(super) fn write(field: VmcsField, value: u64) {
    // SAFETY: VMX operation is on; guest fields reach the guest only, host fields and controls are
    // written with what the processor runs with and with checked capabilities.
    unsafe {
        asm!("vmwrite {field}, {value}",
            field = in(reg) field as u64, value = in(reg) value, options(nostack));
    }
}

/// Makes the structure at `address` the current one.
pub(super) fn make_current(address: u64) {
    // SAFETY: `address` is a structure of this processor, initialised and cleared.
    unsafe { asm!("vmptrld [{}]", in(reg) &address, options(nostack)) }
}

/// Writes back the structure at `address` and leaves it inactive.
pub(super) fn clear(address: u64) {
    // SAFETY: `address` is a structure of this processor.
    unsafe { asm!("vmclear [{}]", in(reg) &address, options(nostack)) }
}
