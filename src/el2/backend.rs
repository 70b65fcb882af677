//! The core's view of this architecture.

use bunshin::address::{CpuId, Instant};
use bunshin::backend::Backend;

use crate::el2::frames;
use crate::el2::host::host;
use crate::el2::interrupts::{self, Interrupts, Outcome};
use crate::el2::machine::Machine;
use crate::el2::percpu;
use crate::el2::registers::read_register;
use crate::el2::vcpu::El2Vcpu;

/// AArch64 at EL2.
#[derive(Debug)]
pub(crate) struct El2;

impl Backend for El2 {
    type Vcpu = El2Vcpu;
    type Machine = Machine;

    fn now(&self) -> Instant {
        Instant(interrupts::counter())
    }

    #[inline(always)]
    fn exit_time(&self) -> Instant {
        // No barrier: the exit itself is one, ahead of which the counter is not read.
        Instant(read_register!("cntpct_el0"))
    }

    fn frequency(&self) -> u64 {
        read_register!("cntfrq_el0")
    }

    fn kick(&self, cpu: CpuId) {
        host().kick(cpu);
    }

    fn set_timer(&self, deadline: Option<Instant>) {
        match deadline {
            Some(Instant(ticks)) => interrupts::arm(ticks),
            None => interrupts::disarm(),
        }
    }

    fn idle(&self) {
        interrupts::wait();
        // While a virtual CPU is loaded, what came may be its own: it asks itself.
        if !percpu::this().loaded.get() {
            while Interrupts::acknowledge() != Outcome::Nothing {}
        }
    }

    fn free_memory(&self) -> u64 {
        frames::available()
    }

    fn power_off(&self) -> ! {
        host().power_off()
    }
}
