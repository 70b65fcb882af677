//! Disks and network devices of the host that speak virtio, as QEMU's machines have them, through the crate
//! `virtio-drivers`.
//!
//! The crate owns transports and rings. What is added here is what a hypervisor needs on top: a disk whose requests end,
//! by a time-out if the device does not answer, and a network device that never waits.
//!
//! The image provides [`Hal`] and the transports. A device of the host is trusted not to write to memory that it was not
//! given: there is no IOMMU.
#![no_std]

extern crate alloc;

pub mod disk;
mod memory;
pub mod nic;

pub use disk::{Disk, DiskError};
pub use nic::Nic;
pub use virtio_drivers::transport::{DeviceType, Transport, mmio, pci};
pub use virtio_drivers::{BufferDirection, Hal, PhysAddr};
