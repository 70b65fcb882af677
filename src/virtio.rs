//! Virtio 1.2 devices over MMIO: transport, split rings and device models.
//!
//! A [`Transport`] joins a device model to a guest: registers (virtio 4.2.2),
//! rings (2.7) in guest memory, and one interrupt. What a guest writes into
//! its rings is never trusted. A ring that breaks the rules puts its device
//! into `DEVICE_NEEDS_RESET`, and nothing else happens.
//!
//! No access works for long: a device takes steps, and after a budget of steps
//! the guest repeats its notification ([`crate::bus::Progress::Again`]).
//!
//! Lock order: a transport's state, and after it nothing. What leads to other
//! devices or to slow things is a [`device::Job`], done with no lock held. The
//! interrupt has a lock of its own, taken after the state was released; under
//! it the line is driven.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
mod descriptor;
pub mod device;
mod interrupt;
mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
mod state;
#[cfg(test)]
mod testing;
pub mod transport;

pub use device::{Features, VirtioDevice};
pub use transport::Transport;
