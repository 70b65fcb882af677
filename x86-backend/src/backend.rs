//! x86 as the core sees it.

use core::marker::PhantomData;

use bunshin::address::{CpuId, Instant};
use bunshin::backend::Backend;

use crate::engine::Engine;
use crate::host::{self, PerCpu, timer};
use crate::vcpu::X86Vcpu;
use crate::vm::Pc;

/// The host with the engine that its processors have.
pub(crate) struct X86<E>(PhantomData<fn() -> E>);

impl<E> X86<E> {
    pub(crate) const fn new() -> Self {
        X86(PhantomData)
    }
}

impl<E: Engine> Backend for X86<E> {
    type Vcpu = X86Vcpu<E>;
    type Machine = Pc;

    #[inline]
    fn now(&self) -> Instant {
        timer::now()
    }

    fn frequency(&self) -> u64 {
        timer::frequency()
    }

    fn kick(&self, cpu: CpuId) {
        host::kick(cpu);
    }

    fn set_timer(&self, deadline: Option<Instant>) {
        PerCpu::current().timer.set_core(deadline);
    }

    fn idle(&self) {
        host::idle();
    }

    fn free_memory(&self) -> u64 {
        host::memory::available()
    }

    fn power_off(&self) -> ! {
        host::power_off()
    }
}
