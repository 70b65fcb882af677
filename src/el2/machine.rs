//! A virtual machine's AArch64 part: memory behind stage 2, the virtual
//! interrupt controller, and what all of its virtual CPUs share.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use bunshin::address::GuestAddress;
use bunshin::backend::{self, BootState, LoadError, Provided, Reset};
use bunshin::bus::InterruptLine;
use bunshin::config::VmConfig;
use bunshin::vcpu::VcpuHandle;
use gic::host::SgiTarget;
use gic::{Effects, IntId, Line, VcpuIndex, VcpuSet, Vgic};
use spin::Once;
use spin::mutex::SpinMutex;
use stage2::BLOCK;
use traps::identification::IdRegisters;

use crate::el2::loader;
use crate::el2::memory::Ram;
use crate::el2::mmu;
use crate::el2::passthrough::Passed;
use crate::el2::percpu;
use crate::el2::registers::read_register;
use crate::el2::stolen_time::StolenTimePage;

/// What the virtual CPUs of one virtual machine share. `vgic` stands alone in the order of locks.
pub(crate) struct Machine {
    pub(crate) config: VmConfig,
    pub(crate) ram: Arc<Ram>,
    /// How many virtio devices it has, once they are made.
    pub(crate) virtio_devices: Once<u8>,
    // Not a ticket lock: where host CPUs are threads of an emulator, all would wait for the one
    // whose turn it is while it is not running.
    pub(crate) vgic: SpinMutex<Vgic>,
    /// What the guest reads of the CPU.
    pub(crate) id: IdRegisters,
    /// Affinity of each virtual CPU.
    pub(crate) mpidrs: Vec<u64>,
    /// `CNTVOFF_EL2`: the virtual counter starts at zero with the machine.
    pub(crate) counter_offset: AtomicU64,
    /// Stolen-time records of all virtual CPUs.
    pub(crate) stolen_time: StolenTimePage,
    /// The host's devices that it has.
    pub(crate) passed: Passed,
    /// How the guest starts, once its images are loaded.
    pub(crate) boot: SpinMutex<Option<BootState>>,
    /// Its virtual CPUs as others see them.
    pub(crate) vcpus: Vec<Seat>,
}

/// A virtual CPU as others see it, and how they reach it.
pub(crate) struct Seat {
    pub(crate) handle: Arc<VcpuHandle>,
    /// Its host CPU.
    pub(crate) target: SgiTarget,
}

impl Machine {
    /// Kicks the virtual CPUs of `set` so that they look at their interrupts.
    #[inline(always)]
    pub(crate) fn kick(&self, set: VcpuSet) {
        if !set.is_empty() {
            self.kick_all(set);
        }
    }

    fn kick_all(&self, set: VcpuSet) {
        for vcpu in set {
            if let Some(seat) = self.vcpus.get(vcpu.get())
                && seat.handle.wake()
            {
                percpu::this().wake(seat.handle.home(), seat.target);
            }
        }
    }

    /// Runs `change` on the interrupt controller and kicks whom it concerns.
    pub(crate) fn change_interrupts(&self, change: impl FnOnce(&mut Vgic) -> Effects) {
        let effects = change(&mut self.vgic.lock());
        self.kick(effects.kick);
    }

    /// The virtual CPU with this affinity.
    pub(crate) fn vcpu_by_mpidr(&self, affinity: u64) -> Option<usize> {
        self.mpidrs.iter().position(|mpidr| *mpidr == affinity)
    }

    /// Whether guest code may start at `address`.
    pub(crate) fn is_memory(&self, address: u64) -> bool {
        self.ram.contains(address, 4)
    }

    /// Writes a part of the guest's memory back and empties the caches of it: what a guest means by
    /// cache maintenance by set and way. Begins at offset `from` and gives the next part's, if
    /// there is one.
    pub(crate) fn flush_memory(&self, from: u64) -> Option<u64> {
        let end = from.saturating_add(PART).min(self.ram.size());
        for offset in (from..end).step_by(BLOCK as usize) {
            self.ram.clean(offset);
        }
        (end < self.ram.size()).then_some(end)
    }
}

/// Bytes of memory that are cleared or flushed with interrupts masked.
const PART: u64 = 2 * BLOCK;

impl backend::Machine for Machine {
    /// Clears all memory, loads the images, and flushes all memory, part by part: positions below the
    /// size of memory are of the first, those above of the last.
    fn reset(&self, position: u64) -> Result<Reset, LoadError> {
        let size = self.ram.size();
        if position == 0 {
            self.vgic.lock().reset(|physical| {
                percpu::this().interface().clear_active(IntId::new(physical));
            });
        }
        if position < size {
            let end = position.saturating_add(PART).min(size);
            for offset in (position..end).step_by(BLOCK as usize) {
                self.ram.scrub(offset);
            }
            return Ok(Reset::More(end));
        }
        if position == size {
            *self.boot.lock() = Some(loader::load(self)?);
        }
        // The guest starts with its caches off.
        if let Some(offset) = self.flush_memory(position - size) {
            return Ok(Reset::More(size + offset));
        }
        mmu::invalidate_instructions();
        self.stolen_time.reset();
        self.counter_offset.store(read_register!("cntpct_el0"), Ordering::Relaxed);
        let boot = self.boot.lock().take();
        boot.map(Reset::Ready).ok_or_else(|| LoadError("nothing was loaded".into()))
    }

    fn provide(&self, address: GuestAddress) -> Provided {
        self.ram.provide(address.0, true)
    }

    fn absent_memory(&self) -> u64 {
        self.ram.absent()
    }

    /// The virtual counter and its timers stand still. The physical counter cannot be moved
    /// without FEAT_ECV, and goes on.
    fn stood_still(&self, ticks: u64) {
        self.counter_offset.fetch_add(ticks, Ordering::Relaxed);
    }
}

/// A device's wire to the virtual interrupt controller.
pub(crate) struct Wire {
    machine: Once<Weak<Machine>>,
    line: Line,
}

impl Wire {
    /// A wire to shared peripheral interrupt `spi`; connected later, since
    /// machine and devices know each other.
    pub(crate) fn to_spi(spi: u32) -> Arc<Self> {
        let line = Line::Spi(IntId::new(platform::guest::layout::FIRST_SPI + spi));
        Arc::new(Wire { machine: Once::new(), line })
    }

    /// Connects the other end.
    pub(crate) fn connect(&self, machine: &Arc<Machine>) {
        self.machine.call_once(|| Arc::downgrade(machine));
    }
}

impl InterruptLine for Wire {
    fn set(&self, asserted: bool) {
        if let Some(machine) = self.machine.get().and_then(Weak::upgrade) {
            machine.change_interrupts(|vgic| vgic.set_level(self.line, asserted));
        }
    }
}

/// The virtual CPU with this number, for the interrupt controller.
pub(crate) fn index(vcpu: usize) -> VcpuIndex {
    VcpuIndex::new(vcpu)
}
