//! What one host CPU knows of itself, found through `TPIDR_EL2`.

use core::cell::Cell;

use bunshin::address::CpuId;
use gic::IntId;
use gic::host::{CpuInterface, SgiTarget, WAKE};

use crate::el2::host::Host;
use crate::el2::registers::{read_register, write_register};

/// Size of the stack for reports of EL2's own faults.
const FAULT_STACK: usize = 16 << 10;

/// A CPU's data. `TPIDR_EL2` points to `data`; the fault stack grows down
/// from there, where `switch.S` finds it.
#[repr(C, align(16))]
pub(crate) struct PerCpu {
    fault_stack: [u8; FAULT_STACK],
    data: Data,
}

/// The fields that the CPU itself uses.
#[repr(align(16))]
pub(crate) struct Data {
    /// Logical number.
    pub(crate) cpu: usize,
    /// This machine, without a look whether it is known yet.
    pub(crate) host: &'static Host,
    /// A virtual CPU's state is in this CPU's registers.
    pub(crate) loaded: Cell<bool>,
    /// What is to be done before a guest goes on.
    asks: Cell<Asks>,
    interface: CpuInterface,
}

impl Data {
    /// This CPU's interface to the interrupt controller, with its list
    /// registers.
    #[inline]
    pub(crate) fn interface(&self) -> &CpuInterface {
        &self.interface
    }

    /// Makes CPU `cpu` bring the list registers of a virtual CPU up to date, whose wake flag is set.
    #[inline(always)]
    pub(crate) fn wake(&self, cpu: CpuId, target: SgiTarget) {
        self.send(WAKE, cpu, target);
    }

    /// Sends an SGI of ours to CPU `cpu`, to which `target` leads. This CPU itself looks around by itself.
    #[inline(always)]
    pub(crate) fn send(&self, sgi: IntId, cpu: CpuId, target: SgiTarget) {
        if cpu.0 == self.cpu {
            self.ask(Asks::RECONSIDER);
        } else {
            self.interface.send_sgi(sgi, target);
        }
    }

    /// Has this CPU do something before a guest goes on.
    #[inline]
    pub(crate) fn ask(&self, what: Asks) {
        self.asks.set(self.asks.get() | what);
    }

    /// Whether there is something to be done.
    #[inline(always)]
    pub(crate) fn is_asked(&self) -> bool {
        !self.asks.get().is_empty()
    }

    /// What there is to be done; it counts as done.
    pub(crate) fn take_asks(&self) -> Asks {
        self.asks.replace(Asks::empty())
    }
}

bitflags::bitflags! {
    /// What a CPU has to do before the guest that is loaded goes on.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Asks: u8 {
        /// Something changed for another virtual CPU of this CPU: the core has to look around.
        const RECONSIDER = 1 << 0;
        /// An instruction of several accesses is being emulated.
        const CONTINUE = 1 << 1;
    }
}

impl PerCpu {
    /// The data of logical CPU `cpu` of `host`.
    pub(crate) fn new(cpu: usize, host: &'static Host, interface: CpuInterface) -> Self {
        PerCpu {
            fault_stack: [0; FAULT_STACK],
            data: Data {
                cpu,
                host,
                loaded: Cell::new(false),
                asks: Cell::new(Asks::empty()),
                interface,
            },
        }
    }

    /// Makes this the data of the CPU that runs this.
    pub(crate) fn install(&'static self) {
        debug_assert!(!self.fault_stack.is_empty());
        write_register!("tpidr_el2", &raw const self.data as u64);
    }
}

/// The data of this CPU. Only after [`PerCpu::install`].
#[inline]
pub(crate) fn this() -> &'static Data {
    let address = read_register!("tpidr_el2");
    // SAFETY: `install` stored the address of data that lives for ever and
    // that only this CPU uses.
    unsafe { &*(address as *const Data) }
}
