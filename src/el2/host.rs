//! This machine: what all CPUs share. Filled in by the boot CPU, constant
//! from then on.

use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;

use bunshin::address::CpuId;
use bunshin::config::Payload;
use bunshin::hypervisor::Hypervisor;
use gic::host::{Controller, CpuInterfaceState, KICK, SgiTarget};
use platform::tree::Tree;
use spin::Once;
use spin::mutex::TicketMutex;
use stage2::{Geometry, Vmid, VmidAllocator};

use crate::el2::backend::El2;
use crate::el2::fault;
use crate::el2::features::Features;
use crate::el2::interrupts::Interrupts;
use crate::el2::memory::Translation;
use crate::el2::percpu;
use crate::el2::registers::{synchronize, write_register};
use crate::el2::reset::Watchdog;
use crate::el2::smp::Conduit;
use crate::el2::stage2_hardware;

/// Most host CPUs.
pub(crate) const MAX_CPUS: usize = 64;

/// The bundle as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob {
    /// Address of the first byte.
    pub(crate) base: u64,
    /// Length in bytes.
    pub(crate) size: usize,
}

impl Blob {
    /// The bytes.
    pub(crate) fn bytes(self) -> &'static [u8] {
        // SAFETY: made only of ranges that are mapped, kept out of the frame
        // allocator, and never written.
        unsafe { core::slice::from_raw_parts(self.base as *const u8, self.size) }
    }
}

/// This machine.
pub(crate) struct Host {
    /// What its CPUs can do.
    pub(crate) features: Features,
    /// Shape of stage 2.
    pub(crate) geometry: Geometry,
    /// Its device tree.
    pub(crate) tree: &'static Tree,
    /// Its interrupt controller.
    pub(crate) controller: Controller,
    /// Which interrupt is whose.
    pub(crate) interrupts: Interrupts,
    /// How to call PSCI, where it exists.
    pub(crate) conduit: Option<Conduit>,
    /// What turns the machine off where firmware does not.
    pub(crate) watchdog: Option<Watchdog>,
    /// The bundle, or the embedded guest.
    pub(crate) bundle: Blob,
    /// Priority bits of the list registers.
    pub(crate) priority_bits: u8,
    /// How to reach each CPU.
    pub(crate) sgi_targets: Vec<Once<SgiTarget>>,
    /// The VMIDs of all virtual machines.
    pub(crate) vmids: TicketMutex<VmidAllocator>,
}

/// Which CPUs have arrived in `secondary_main`.
pub(crate) static ARRIVED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

static HOST: Once<Host> = Once::new();
static HYPERVISOR: Once<Hypervisor<El2>> = Once::new();

/// This machine. Only after [`set_host`].
#[inline]
pub(crate) fn host() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        None => fault::halt(),
    }
}

/// Sets what [`host`] gives.
pub(crate) fn set_host(host: Host) -> &'static Host {
    HOST.call_once(|| host)
}

/// The hypervisor. Only after [`set_hypervisor`].
pub(crate) fn hypervisor() -> Option<&'static Hypervisor<El2>> {
    HYPERVISOR.get()
}

/// Sets what [`hypervisor`] gives.
pub(crate) fn set_hypervisor(hypervisor: Hypervisor<El2>) -> &'static Hypervisor<El2> {
    HYPERVISOR.call_once(|| hypervisor)
}

impl Host {
    /// A place for each of `cpus` CPUs to say how it is reached.
    pub(crate) fn sgi_targets(cpus: usize) -> Vec<Once<SgiTarget>> {
        (0..cpus).map(|_| Once::new()).collect()
    }

    /// Guests have a GICv3: the virtual CPU interface is that of one.
    pub(crate) fn is_gicv3(&self) -> bool {
        !matches!(self.controller, Controller::V2(_))
    }

    /// Says how to reach this CPU.
    pub(crate) fn set_sgi_target(&self, cpu: usize, target: SgiTarget) {
        if let Some(entry) = self.sgi_targets.get(cpu) {
            entry.call_once(|| target);
        }
    }

    /// How to reach a CPU; `None` if it has not arrived.
    pub(crate) fn sgi_target(&self, cpu: CpuId) -> Option<SgiTarget> {
        self.sgi_targets.get(cpu.0)?.get().copied()
    }

    /// Makes a CPU leave its guest or its idling.
    pub(crate) fn kick(&self, cpu: CpuId) {
        if let Some(target) = self.sgi_target(cpu) {
            percpu::this().send(KICK, cpu, target);
        }
    }

    /// The bytes of a payload of the bundle.
    pub(crate) fn payload(&self, payload: Payload) -> &'static [u8] {
        payload
            .offset
            .checked_add(payload.size)
            .and_then(|end| self.bundle.bytes().get(payload.offset..end))
            .unwrap_or_default()
    }

    /// The priority mask in the saved state of a virtual CPU interface.
    pub(crate) fn saved_priority_mask(&self, state: &CpuInterfaceState) -> u8 {
        /// `ICH_VMCR_EL2.VPMR`.
        const ICH_VPMR_SHIFT: u32 = 24;
        /// `GICH_VMCR.VMPriMask`, five bits.
        const GICH_MASK_SHIFT: u32 = 27;
        if self.is_gicv3() {
            (state.vmcr >> ICH_VPMR_SHIFT) as u8
        } else {
            ((state.vmcr >> GICH_MASK_SHIFT) << 3) as u8
        }
    }

    /// Makes a virtual machine's translation the current one of this CPU.
    pub(crate) fn load_stage2(&self, cpu: usize, translation: &mut Translation) {
        let mut vmids = self.vmids.lock();
        let vmid = vmids
            .activate(cpu, &mut translation.tag, stage2_hardware::invalidate_all_guests)
            // Only a CPU that the allocator does not know is refused.
            .unwrap_or_else(|_| fault::halt());
        let vttbr = self.vttbr(vmid, translation);
        write_register!("vtcr_el2", self.geometry.vtcr());
        write_register!("vttbr_el2", vttbr);
        synchronize();
    }

    fn vttbr(&self, vmid: Vmid, translation: &Translation) -> u64 {
        self.geometry.vttbr(vmid, translation.map.table().root())
    }

    /// This CPU runs no guest for now; its VMID may be given away.
    pub(crate) fn leave_stage2(&self) {
        // An error would name a CPU that the allocator does not know.
        let _ = self.vmids.lock().deactivate(percpu::this().cpu);
    }
}
