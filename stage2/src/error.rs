//! Why an operation on a page table was refused.

use crate::{IntermediateAddress, PhysicalAddress};

/// Why an operation on a page table was refused. The mappings are as they were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`TableMemory::allocate`](crate::TableMemory::allocate) gave nothing.
    #[error("no memory left for translation tables; give the hypervisor more or map larger blocks")]
    OutOfTableMemory,
    /// An address or a length is not a multiple of the smallest page.
    #[error("{value:#x} is not a multiple of the {granule} byte page; align addresses and lengths")]
    Misaligned {
        /// The offending address or length.
        value: u64,
        /// Size of the smallest page in bytes.
        granule: u64,
    },
    /// The range leaves the guest's address space.
    #[error("{bytes:#x} bytes from {start} do not fit a guest address space of {bits} bits")]
    OutOfInputRange {
        /// First address of the range.
        start: IntermediateAddress,
        /// Length of the range in bytes.
        bytes: u64,
        /// Width of the guest's address space.
        bits: u32,
    },
    /// The target leaves what an entry of the table can hold.
    #[error("{bytes:#x} bytes from {start} do not fit physical addresses of {bits} bits")]
    OutOfOutputRange {
        /// First physical address of the range.
        start: PhysicalAddress,
        /// Length of the range in bytes.
        bytes: u64,
        /// Width of a physical address.
        bits: u32,
    },
    /// Part of the range is mapped already.
    #[error("{at} is mapped already; unmap it first")]
    Overlap {
        /// First guest address that is mapped.
        at: IntermediateAddress,
    },
    /// Nothing is mapped there.
    #[error("{at} is not mapped")]
    NotMapped {
        /// The guest address.
        at: IntermediateAddress,
    },
    /// The page is not shared copy-on-write.
    #[error("{at} is not shared copy-on-write, so there is nothing to resolve")]
    NotShared {
        /// The guest address.
        at: IntermediateAddress,
    },
    /// The format of the table has no encoding for these attributes.
    #[error("this table format cannot express the attributes; ask for read access as well")]
    UnsupportedAttributes,
    /// The [`Format`](crate::Format) contradicts itself.
    #[error("the table format's levels, granule and address width contradict each other")]
    InvalidFormat,
}
