//! Second-stage translation tables as pure logic.
//!
//! A hypervisor gives each virtual machine its memory through a radix tree that the CPU walks: from
//! an [`IntermediateAddress`] (what the guest believes to be a physical address) to a
//! [`PhysicalAddress`]. [`PageTable`] builds and edits such a tree. It is generic over the
//! [`Format`] of an entry, so that one walker serves [`Vmsa`] (Arm ARM D8, stage 2, 4 KiB and
//! 16 KiB granules) as well as EPT and nested paging on x86.
//!
//! Hardware is reached only through two traits of the caller: [`TableMemory`] holds the tables and
//! [`TlbMaintenance`] makes the CPUs forget what they cached. All rules about the order of stores
//! and invalidations (break-before-make, Arm ARM D8.16) live in one routine of the crate, and the
//! tests run every operation against a model of a TLB that complains when they are broken.
//!
//! # Concurrency
//! A [`PageTable`] is edited by one caller at a time (keep it behind a lock); CPUs may walk it
//! meanwhile. While an entry is being replaced, a guest can fault on an address that is mapped
//! before and after: look the address up with [`PageTable::translate`] under the lock, and if the
//! mapping permits the access, run the guest again.
//!
//! # Around the table
//! [`GuestMap`] is a table with the memory behind it: what a guest gives up goes back to the host page
//! by page, and what it touches again comes back. [`Geometry::choose`] reads the ID registers and gives the format, `VTCR_EL2` and `VTTBR_EL2`;
//! [`VmidAllocator`] gives each VM the tag of its TLB entries.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

mod address;
mod attributes;
mod copy_on_write;
mod dirty_log;
mod editor;
mod error;
mod format;
mod geometry;
mod hardware;
mod layout;
mod memory;
mod page_table;
mod pieces;
mod vmid;
mod vmsa;
mod walk;

#[cfg(test)]
mod tests;

pub use address::{IntermediateAddress, PhysicalAddress};
pub use attributes::{Attributes, MemoryType};
pub use copy_on_write::WriteFault;
pub use error::Error;
pub use format::{Entry, Format, Leaf, Software};
pub use geometry::{Geometry, GeometryError, IdRegisters};
pub use hardware::{TableMemory, TlbMaintenance};
pub use memory::{BLOCK, FrameSource, GuestMap, PAGE, Provided};
pub use page_table::{Mapping, PageTable};
pub use pieces::{Piece, allocate_pieces, for_each_part};
pub use vmid::{Vmid, VmidAllocator, VmidBits, VmidError, VmidTag};
pub use vmsa::{Granule, Vmsa};
