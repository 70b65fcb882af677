//! The interrupt of a transport: its status register and its line.

use alloc::sync::Arc;

use spin::mutex::TicketMutex;

use crate::bus::InterruptLine;

/// `InterruptStatus`: a used buffer was returned (virtio 4.2.2).
pub(super) const USED_BUFFER: u32 = 1 << 0;
/// `InterruptStatus`: the configuration changed.
pub(super) const CONFIGURATION_CHANGE: u32 = 1 << 1;

struct State {
    status: u32,
    /// Number of the device reset that `status` belongs to.
    epoch: u64,
}

/// Status and line change together, under a lock that covers nothing else, so
/// that the line's last level is that of the status, and an edge is never lost.
pub(super) struct Interrupt {
    line: Arc<dyn InterruptLine>,
    state: TicketMutex<State>,
}

impl Interrupt {
    pub(super) fn new(line: Arc<dyn InterruptLine>) -> Self {
        Interrupt { line, state: TicketMutex::new(State { status: 0, epoch: 0 }) }
    }

    pub(super) fn status(&self) -> u32 {
        self.state.lock().status
    }

    /// Raises `bits`, which may be none, for what happened in `epoch`. What
    /// happened before a reset is void.
    pub(super) fn update(&self, epoch: u64, bits: u32) {
        let mut state = self.state.lock();
        if epoch > state.epoch {
            state.epoch = epoch;
            self.clear(&mut state, u32::MAX);
        }
        if bits != 0 && epoch == state.epoch {
            if state.status == 0 {
                self.line.set(true);
            }
            state.status |= bits;
        }
    }

    /// `InterruptACK`.
    pub(super) fn acknowledge(&self, bits: u32) {
        let mut state = self.state.lock();
        self.clear(&mut state, bits);
    }

    fn clear(&self, state: &mut State, bits: u32) {
        if state.status != 0 && state.status & !bits == 0 {
            self.line.set(false);
        }
        state.status &= !bits;
    }
}
