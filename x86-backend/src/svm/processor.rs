//! Turning AMD-V on, processor by processor (APM 15.4, 15.30).

use core::arch::x86_64::__cpuid;
use core::cell::Cell;

use alloc::boxed::Box;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::switch;
use crate::host::PerCpu;
use x86_backend::asid::{Asid, AsidPool};

/// CPUID leaf with AMD-V itself.
const LEAF_EXTENDED: u32 = 0x8000_0001;
/// ... in ECX.
const SVM: u32 = 1 << 2;
/// CPUID leaf with its features.
const LEAF_SVM: u32 = 0x8000_000a;
/// EDX: nested paging.
const NESTED_PAGING: u32 = 1 << 0;
/// EDX: flush by ASID.
const FLUSH_BY_ASID: u32 = 1 << 6;
/// EDX: PAUSE intercept filter.
const PAUSE_FILTER: u32 = 1 << 10;
/// VM_CR.
const VM_CR: u32 = 0xc001_0114;
/// ... SVMDIS.
const VM_CR_DISABLED: u64 = 1 << 4;
/// VM_HSAVE_PA.
const HOST_SAVE_AREA: u32 = 0xc001_0117;

/// Whether the processor has AMD-V and lets us use it.
///
/// # Errors
/// What is missing, by name; `None` when it has no AMD-V at all.
pub(crate) fn probe() -> Result<(), Option<&'static str>> {
    if __cpuid(0x8000_0000).eax < LEAF_SVM || __cpuid(LEAF_EXTENDED).ecx & SVM == 0 {
        return Err(None);
    }
    if __cpuid(LEAF_SVM).edx & NESTED_PAGING == 0 {
        return Err(Some("AMD-V without nested paging (CPUID 8000_000Ah EDX bit 0 is 0)"));
    }
    // SAFETY: processors with AMD-V have the register.
    if unsafe { Msr::new(VM_CR).read() } & VM_CR_DISABLED != 0 {
        return Err(Some(
            "AMD-V is disabled by the firmware (VM_CR, MSR C001_0114h, bit 4 is 1); enable SVM in its set-up",
        ));
    }
    Ok(())
}

/// A page that only the hardware looks into.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

fn page() -> u64 {
    // SAFETY: bytes may be zero.
    let page: Box<Page> = unsafe { Box::new_zeroed().assume_init() };
    core::ptr::from_ref(Box::leak(page)) as u64
}

/// The processor's part of AMD-V.
pub(crate) struct Processor {
    /// Control block with the host's state that VMRUN leaves alone.
    host: Cell<u64>,
    asids: Cell<AsidPool>,
    features: Cell<u32>,
}

impl Processor {
    /// Before [`enable`].
    pub(crate) const fn new() -> Self {
        Processor { host: Cell::new(0), asids: Cell::new(AsidPool::new(2)), features: Cell::new(0) }
    }

    pub(super) fn host(&self) -> u64 {
        self.host.get()
    }

    pub(super) fn assign(&self, held: Option<Asid>) -> (Asid, bool) {
        let mut asids = self.asids.get();
        let assigned = asids.assign(held);
        self.asids.set(asids);
        assigned
    }

    pub(super) fn flushes_by_asid(&self) -> bool {
        self.features.get() & FLUSH_BY_ASID != 0
    }

    pub(super) fn counts_pauses(&self) -> bool {
        self.features.get() & PAUSE_FILTER != 0
    }
}

/// Turns AMD-V on on the processor that runs this, on which [`probe`] found it.
pub(crate) fn enable() {
    let processor = &PerCpu::current().svm;
    let leaf = __cpuid(LEAF_SVM);
    processor.asids.set(AsidPool::new(leaf.ebx));
    processor.features.set(leaf.edx);
    // SAFETY: the processor has AMD-V; the save area is a page of its own for ever.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        Msr::new(HOST_SAVE_AREA).write(page());
    }
    processor.host.set(page());
    switch::save_host(processor.host.get());
}
