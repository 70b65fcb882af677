//! Turning AMD-V on, processor by processor (APM 15.4, 15.30).

use core::arch::x86_64::__cpuid;
use core::cell::Cell;

use alloc::boxed::Box;
use alloc::vec::Vec;
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::switch;
use crate::host::PerCpu;
use x86_backend::asid::{Asid, AsidPool};
use x86_backend::availability::{Access, Obstacle, Svm};

/// CPUID leaf with AMD-V itself.
const LEAF_EXTENDED: u32 = 0x8000_0001;
/// CPUID leaf with its features.
const LEAF_SVM: u32 = 0x8000_000a;
/// EDX: the control block has the address of the next instruction.
const NEXT_RIP: u32 = 1 << 3;
/// EDX: flush by ASID.
const FLUSH_BY_ASID: u32 = 1 << 6;
/// EDX: PAUSE intercept filter.
const PAUSE_FILTER: u32 = 1 << 10;
/// VM_CR.
const VM_CR: u32 = 0xc001_0114;
/// VM_HSAVE_PA.
const HOST_SAVE_AREA: u32 = 0xc001_0117;

/// Whether the processor has AMD-V and lets us use it.
///
/// # Errors
/// What is missing, by name; `None` when it has no AMD-V at all.
pub(crate) fn probe() -> Result<(), Option<&'static str>> {
    let told = told();
    told.present().ok_or(None)?.map_err(Some)?;
    access(told).map(|_| ()).map_err(Some)
}

/// What CPUID tells of AMD-V.
fn told() -> Svm {
    let last = __cpuid(0x8000_0000).eax;
    let leaf = |leaf| (last >= leaf).then(|| __cpuid(leaf));
    Svm {
        extended_ecx: leaf(LEAF_EXTENDED).map_or(0, |leaf| leaf.ecx),
        features_edx: leaf(LEAF_SVM).map_or(0, |leaf| leaf.edx),
    }
}

/// What the firmware allows; on a processor that has AMD-V.
fn access(told: Svm) -> Result<Access, Obstacle> {
    // SAFETY: processors with AMD-V have the register.
    told.access(unsafe { Msr::new(VM_CR).read() })
}

/// What there is of that which may be absent, for the log.
pub(super) fn options() -> Vec<&'static str> {
    let features = __cpuid(LEAF_SVM).edx;
    [(FLUSH_BY_ASID, "flush by ASID"), (NEXT_RIP, "next RIP"), (PAUSE_FILTER, "PAUSE filter")]
        .into_iter()
        .filter_map(|(bit, name)| (features & bit != 0).then_some(name))
        .collect()
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
    let access = access(told());
    // SAFETY: the processor has AMD-V, and `probe` found that its firmware allows it; the save area
    // is a page of its own for ever.
    unsafe {
        if let Ok(Access::Write(control)) = access {
            Msr::new(VM_CR).write(control);
        }
        Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        Msr::new(HOST_SAVE_AREA).write(page());
    }
    processor.host.set(page());
    switch::save_host(processor.host.get());
}
