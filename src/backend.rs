//! What the core asks of an architecture. A backend implements these traits;
//! the core knows nothing else of it.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use crate::address::{CpuId, GuestAddress, Instant};
use crate::exit::{Completion, Exit, PowerAnswer, RawExit};
use crate::vcpu::VcpuHandle;

pub use stage2::Provided;

/// One architecture.
pub trait Backend: Sized + Send + Sync + 'static {
    /// A virtual CPU's registers and how to run them.
    type Vcpu: Vcpu;
    /// What belongs to one virtual machine as a whole.
    type Machine: Machine;

    /// Time on this host.
    fn now(&self) -> Instant;

    /// Time of the exit that is being handled, or a little later. Unlike [`Backend::now`] it does not wait for
    /// anything that the caller has done since.
    #[inline(always)]
    fn exit_time(&self) -> Instant {
        self.now()
    }

    /// Ticks of [`Backend::now`] per second.
    fn frequency(&self) -> u64;

    /// Makes `cpu` leave guest mode or idling soon, and have its loop look
    /// around. Cheap, may be called by any CPU, on itself as well: a guest's
    /// interrupt for a neighbour on the same CPU announces itself so.
    fn kick(&self, cpu: CpuId);

    /// Has this CPU leave guest mode at `deadline`; `None` disarms.
    fn set_timer(&self, deadline: Option<Instant>);

    /// Waits on this CPU until an interrupt arrives (the timer's and a kick
    /// included) and serves the host's own interrupts. May return early.
    fn idle(&self);

    /// Memory for guests that is free, in bytes.
    fn free_memory(&self) -> u64;

    /// Turns the host off. Called when the last virtual machine has stopped.
    fn power_off(&self) -> !;
}

/// A virtual machine's part that only its architecture knows: second-stage
/// translation, interrupt controller, memory.
pub trait Machine: Send + Sync {
    /// A part of the way back to the state after power-on: memory scrubbed and
    /// its images loaded anew, interrupt controller reset. `position` is 0 at
    /// first and then what [`Reset::More`] said. A part takes a millisecond or
    /// so, since others wait for this host CPU. No virtual CPU runs.
    ///
    /// # Errors
    /// Why the images cannot be loaded.
    fn reset(&self, position: u64) -> Result<Reset, LoadError>;

    /// The guest touched `address` and the hardware found no memory there.
    /// Gives it memory that it gave up, if it did.
    fn provide(&self, address: GuestAddress) -> Provided;

    /// Bytes of memory that the guest gave up and has not got back.
    fn absent_memory(&self) -> u64;

    /// The machine stood still for `ticks` of [`Backend::now`]: its clocks and
    /// timers go on where they stopped, as far as the hardware allows. No
    /// virtual CPU runs.
    fn stood_still(&self, ticks: u64);
}

/// How far a reset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The next part is this one.
    More(u64),
    /// The virtual machine can start.
    Ready(BootState),
}

/// Where the first virtual CPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootState {
    /// Address of the first instruction.
    pub entry: GuestAddress,
    /// Value for the first argument register.
    pub context: u64,
}

/// Why a virtual machine's images cannot be loaded; a sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// One virtual CPU. Owned by one host CPU, which alone calls it.
pub trait Vcpu: Send {
    /// Puts the state that stays in hardware across exits there. With
    /// `trap_idle`, idle instructions exit.
    fn load(&mut self, trap_idle: bool);

    /// Takes that state back.
    fn save(&mut self);

    /// Runs guest code until the core is needed. Only while loaded. Takes the
    /// flag of [`VcpuHandle::wake`] before each entry into the guest, and then
    /// looks at what is pending; otherwise nobody would kick a second time.
    fn run(&mut self) -> Exit;

    /// Finishes the instruction of the last exit, with the value of a read.
    fn complete(&mut self, completion: Completion, value: u64);

    /// Has the instruction of the last exit fault as on hardware without a
    /// device there.
    fn fault(&mut self, completion: Completion);

    /// Leaves the instruction of the last exit undone: the guest executes it
    /// again.
    fn repeat(&mut self, completion: Completion);

    /// Answers the access of [`Exit::UndecodedIo`] or [`Exit::MemoryFault`]
    /// by the fault that hardware would raise.
    fn fault_access(&mut self);

    /// Returns "not supported" from [`Exit::Hypercall`].
    fn refuse_call(&mut self);

    /// Returns from [`Exit::Power`].
    fn answer(&mut self, answer: PowerAnswer);

    /// Resets all registers and starts at `entry` with `context` in the
    /// first argument register.
    fn start(&mut self, entry: GuestAddress, context: u64);

    /// Whether an interrupt would be taken, or end an idle instruction. While
    /// loaded, it may serve the interrupts of this host CPU, kicks included.
    fn interrupt_pending(&mut self) -> bool;

    /// When this virtual CPU's own timers next raise an interrupt. Only
    /// asked while it is not loaded.
    fn wake_deadline(&self) -> Option<Instant>;

    /// What the hardware said of the last exit.
    fn raw_exit(&self) -> RawExit;

    /// Writes the registers for the report of a guest that died.
    ///
    /// # Errors
    /// Those of `out`.
    fn report(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    /// The part that others may see.
    fn handle(&self) -> &Arc<VcpuHandle>;
}
