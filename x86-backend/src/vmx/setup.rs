//! What is written to a control structure once: what is the same for all
//! guests, and the host's state (SDM 25.5, 25.6).

use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Efer};
use x86_64::registers::model_specific::{GsBase, Msr};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment as _};
use x86_backend::event;

use super::control::CR0_GUEST;
use super::processor::secondary;
use super::vmcs::VmcsField as F;
use super::{EPT_POINTER, Vmx, msrs, switch};
use crate::host::PerCpu;

/// IA32_PAT.
const PAT: u32 = 0x277;
/// Exceptions in whose delivery a guest can keep the processor for ever
/// (CVE-2015-5307, CVE-2015-8104), and the host's own.
pub(super) const EXCEPTIONS: u64 =
    1 << event::DEBUG | 1 << event::ALIGNMENT_CHECK | 1 << event::MACHINE_CHECK;

impl Vmx {
    /// Everything that is the same for all guests on all processors.
    pub(super) fn initialise(&mut self) {
        let controls = self.controls;
        self.set(F::PinControls, u64::from(self.pin));
        self.set(F::ProcessorControls, u64::from(self.primary));
        self.set(F::SecondaryControls, u64::from(self.secondary));
        self.set(F::ExitControls, u64::from(controls.exit));
        self.set(F::EntryControls, u64::from(controls.entry));
        self.set(F::ExceptionBitmap, EXCEPTIONS);
        for field in [
            F::PageFaultMask,
            F::PageFaultMatch,
            F::Cr3TargetCount,
            F::ExitMsrStoreCount,
            F::ExitMsrLoadCount,
            F::EntryMsrLoadCount,
            F::EntryInterruption,
            F::EntryErrorCode,
            F::EntryInstructionLength,
        ] {
            self.set(field, 0);
        }
        self.set(F::MsrBitmap, msrs::bitmap());
        self.set(F::EptPointer, self.tables | EPT_POINTER);
        self.set(F::LinkPointer, u64::MAX);
        self.set(F::Cr0Mask, !CR0_GUEST);
        self.set(F::Cr4Mask, self.cr4_mask());
        if controls.has(secondary::VPID) {
            self.set(F::Vpid, u64::from(self.vpid));
        }
    }

    /// The state of the processor that runs this, to which exits return.
    pub(super) fn write_host(&mut self) {
        // SAFETY: the register exists.
        let pat = unsafe { Msr::new(PAT).read() };
        let (gdt, idt) = (sgdt(), sidt());
        let (root, flags) = Cr3::read_raw();
        for (field, value) in [
            (F::HostCr0, Cr0::read_raw()),
            (F::HostCr3, root.start_address().as_u64() | u64::from(flags)),
            (F::HostCr4, Cr4::read_raw()),
            (F::HostCs, u64::from(CS::get_reg().0)),
            (F::HostSs, u64::from(SS::get_reg().0)),
            (F::HostDs, u64::from(DS::get_reg().0)),
            (F::HostEs, u64::from(ES::get_reg().0)),
            (F::HostFs, 0),
            (F::HostGs, 0),
            (F::HostTr, u64::from(PerCpu::current().task.get().0)),
            (F::HostFsBase, 0),
            (F::HostGsBase, GsBase::read().as_u64()),
            (F::HostTrBase, PerCpu::current().task.get().1),
            (F::HostGdtrBase, gdt.base.as_u64()),
            (F::HostIdtrBase, idt.base.as_u64()),
            (F::HostSysenterCs, 0),
            (F::HostSysenterEsp, 0),
            (F::HostSysenterEip, 0),
            (F::HostPat, pat),
            (F::HostEfer, Efer::read_raw()),
            (F::HostRip, switch::exit_address()),
        ] {
            self.set(field, value);
        }
    }
}
