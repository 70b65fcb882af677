//! What belongs to one host processor. GS holds its address.

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::Cell;

use bunshin::address::CpuId;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

use super::timer::Timer;
use crate::{svm, vmx};

/// State of the processor that runs; interrupt handlers of the same processor
/// use it too, so everything changeable is a [`Cell`] that is read or written
/// in one access.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Address of this very structure, for [`PerCpu::current`].
    this: *const PerCpu,
    /// Logical number.
    pub(crate) id: CpuId,
    /// Its timer.
    pub(crate) timer: Timer,
    /// What AMD-V keeps on it.
    pub(crate) svm: svm::Processor,
    /// What VT-x keeps on it.
    pub(crate) vmx: vmx::Processor,
    /// Selector and base of its task state.
    pub(crate) task: Cell<(u16, u64)>,
    /// Non-maskable interrupts that came.
    pub(crate) nmis: Cell<u64>,
    /// Interrupts that came on vectors nobody uses.
    pub(crate) spurious: Cell<u64>,
}

impl PerCpu {
    /// Makes the state of the processor that runs this and installs it.
    pub(super) fn install(id: CpuId) {
        let state = Box::leak(Box::new(PerCpu {
            this: core::ptr::null(),
            id,
            timer: Timer::new(),
            svm: svm::Processor::new(),
            vmx: vmx::Processor::new(),
            task: Cell::new((0, 0)),
            nmis: Cell::new(0),
            spurious: Cell::new(0),
        }));
        state.this = state;
        GsBase::write(VirtAddr::from_ptr(state.this));
    }

    /// The state of the processor that runs this. Not to be kept across
    /// anything that moves to another processor, which nothing here does.
    #[inline]
    pub(crate) fn current() -> &'static PerCpu {
        let this: *const PerCpu;
        // SAFETY: GS was set by `install` before anything asks; the first word of the structure is
        // its own address, which stays valid for ever.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly));
            &*this
        }
    }
}
