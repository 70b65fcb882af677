//! A device joined to its guest, and how it gets its turns.

use alloc::sync::Arc;

use spin::mutex::{TicketMutex, TicketMutexGuard};

use crate::bus::{InterruptLine, Progress};
use crate::memory::GuestMemory;
use crate::virtio::device::{Broken, Io, Job, Step, VirtioDevice};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::state::State;

/// Steps of a device in one access of the guest.
const STEPS: usize = 64;
/// Once a device has moved this many bytes in one access of the guest, it stops.
const BYTES: usize = 256 << 10;

/// A device with its registers on the bus (virtio 4.2).
pub struct Transport<D: VirtioDevice> {
    memory: Arc<dyn GuestMemory + Send + Sync>,
    pub(super) interrupt: Interrupt,
    state: TicketMutex<State<D>>,
}

impl<D: VirtioDevice> Transport<D> {
    /// Length of the register window in bytes.
    pub const WINDOW: u64 = 0x200;

    /// `device` after power-on. It uses buffers in `memory` and interrupts
    /// through `line`.
    pub fn new(
        device: D,
        memory: Arc<dyn GuestMemory + Send + Sync>,
        line: Arc<dyn InterruptLine>,
    ) -> Self {
        Transport {
            memory,
            interrupt: Interrupt::new(line),
            state: TicketMutex::new(State::new(device)),
        }
    }

    /// Runs `act` on the state, and tells the driver what came of it.
    pub(super) fn change<R>(&self, act: impl FnOnce(&mut State<D>) -> R) -> R {
        let mut state = self.state.lock();
        let answer = act(&mut state);
        self.release(state);
        answer
    }

    /// Runs `look` on the state.
    pub(super) fn inspect<R>(&self, look: impl FnOnce(&State<D>) -> R) -> R {
        look(&self.state.lock())
    }

    /// Lets the outer world act on the device. `None` when that showed that
    /// the driver broke the rules.
    pub(super) fn with<R>(
        &self,
        act: impl FnOnce(&mut D, &mut Io<'_>) -> Result<R, Broken>,
    ) -> Option<R> {
        self.change(|state| {
            let answer = state.with_io(&*self.memory, act);
            answer.map_err(|broken| state.fail(broken)).ok()
        })
    }

    /// Gives the device turns until queue `index` has nothing for it, or until
    /// it has had enough for one access.
    pub(super) fn serve(&self, index: usize) -> Progress {
        let mut state = self.state.lock();
        if !state.claim(index) {
            return Progress::Done;
        }
        let (mut steps, mut bytes) = (0usize, 0usize);
        let progress = loop {
            match state.step(index, &*self.memory) {
                Ok(Step::Done(moved)) => bytes = bytes.saturating_add(moved),
                Ok(Step::Job(mut job)) => {
                    let epoch = state.epoch();
                    drop(state);
                    job.perform();
                    bytes = bytes.saturating_add(job.bytes());
                    state = self.state.lock();
                    state.finish(job, epoch, &*self.memory);
                }
                Ok(Step::Starved(_) | Step::Idle) => break Progress::Done,
                Err(broken) => {
                    state.fail(broken);
                    break Progress::Done;
                }
            }
            steps = steps.saturating_add(1);
            if steps >= STEPS || bytes >= BYTES {
                break Progress::Again;
            }
        };
        state.unclaim(index);
        self.release(state);
        progress
    }

    /// Unlocks the state and then drives the interrupt.
    fn release(&self, mut state: TicketMutexGuard<'_, State<D>>) {
        let raised = state.take_raised(&*self.memory);
        let epoch = state.epoch();
        let aftermath = state.take_aftermath();
        drop(state);
        self.interrupt.update(epoch, raised);
        if let Some(mut job) = aftermath {
            job.perform();
            self.state.lock().device.abandon(job);
        }
    }
}
