//! Boot protocols: what has to be in guest memory, and in which registers, so
//! that a kernel starts.
//!
//! [`plan`] only plans. The caller carries out the writes, from the kernel's and
//! the initial RAM disk's own bytes, into memory that is zero.

mod area;
mod bzimage;
mod elf;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;

use super::layout;
use alloc::vec::Vec;
use bunshin::address::GuestAddress;
use core::ops::Range;

/// What a kernel is started with.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Memory of the virtual machine in bytes.
    pub memory: u64,
    /// Kernel command line, without a terminating zero.
    pub command_line: &'a str,
    /// Length of the initial RAM disk in bytes, if there is one.
    pub initrd: Option<u64>,
    /// Address of the ACPI root pointer.
    pub rsdp: GuestAddress,
}

/// Bytes to be put into guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These.
    Bytes(Vec<u8>),
    /// This part of the kernel file.
    Kernel(Range<usize>),
    /// All of the initial RAM disk.
    Initrd,
}

/// One write to guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// First guest-physical address.
    pub address: GuestAddress,
    /// What goes there.
    pub content: Content,
}

/// How the first virtual CPU starts. Interrupts are off, RFLAGS has only its
/// fixed bit, general registers that are not named are zero. Segments are flat:
/// code selector 0x10, data selector 0x18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// 64-bit mode with paging.
    Long {
        /// RIP.
        entry: u64,
        /// RSP.
        stack: u64,
        /// CR3: tables that map the first 4 GiB to themselves.
        page_tables: GuestAddress,
        /// GDTR: base, and limit in bytes.
        gdt: (GuestAddress, u16),
        /// RSI: the boot parameters.
        parameters: GuestAddress,
    },
    /// 32-bit protected mode without paging.
    Protected {
        /// EIP.
        entry: u32,
        /// EAX: a magic number of the protocol.
        magic: u32,
        /// EBX: the boot information.
        information: GuestAddress,
    },
}

/// The protocol that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Linux bzImage, 64-bit entry.
    BzImage,
    /// PVH: ELF with a Xen note.
    Pvh,
    /// Multiboot version 1.
    Multiboot,
}

/// Everything that starts a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// By which protocol.
    pub protocol: Protocol,
    /// What goes into memory; no two writes overlap.
    pub writes: Vec<Write>,
    /// How the first virtual CPU starts.
    pub start: Start,
}

/// A kernel cannot be started. The text completes "kernel ...: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No known format.
    #[error(
        "neither a bzImage, nor an ELF with a PVH note, nor a Multiboot kernel (starts with {0:#010x}); give one of these"
    )]
    UnknownFormat(u32),
    /// An ELF that says nothing about how to start it.
    #[error(
        "an ELF without PVH note and Multiboot header; give a bzImage, or build the kernel with CONFIG_PVH"
    )]
    NoProtocol,
    /// The file ends early.
    #[error("the file ends inside its {0}; it is truncated, copy it again")]
    Truncated(&'static str),
    /// A bzImage of an old kernel.
    #[error("boot protocol {}.{:02} is older than 2.12; give Linux 3.8 or later", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// A 32-bit bzImage.
    #[error("a 32-bit Linux without 64-bit entry (xloadflags {0:#x}); give an x86_64 kernel")]
    Not64Bit(u16),
    /// Malformed ELF.
    #[error("malformed ELF: {0}; build the kernel again")]
    BadElf(&'static str),
    /// Not for this machine.
    #[error("an ELF for machine {0}; give one for x86")]
    WrongMachine(u16),
    /// The command line is too long.
    #[error("its command line has {length} bytes and may have {limit}; shorten it")]
    CommandLine {
        /// Length in bytes.
        length: usize,
        /// Longest that the kernel accepts.
        limit: usize,
    },
    /// The command line holds a zero byte.
    #[error("its command line holds a zero byte; remove it")]
    CommandLineZero,
    /// Something does not fit into memory.
    #[error(
        "its {what} at {start:#x}..{end:#x} lies outside the {memory} MiB of memory; give more memory"
    )]
    NoMemory {
        /// What.
        what: &'static str,
        /// First address.
        start: u64,
        /// First address after.
        end: u64,
        /// Memory of the virtual machine in MiB.
        memory: u64,
    },
    /// Two things would be at the same place.
    #[error(
        "its {0} and {1} would overlap in memory; give more memory, or link the kernel elsewhere"
    )]
    Overlap(&'static str, &'static str),
    /// An entry point that 32-bit code cannot have.
    #[error("its entry point {0:#x} is not below 4 GiB; link the kernel lower")]
    Entry(u64),
    /// A Multiboot feature that this machine lacks.
    #[error("its Multiboot header requires features {0:#x}, which do not exist here")]
    Features(u32),
}

/// Plans how to start `kernel`.
///
/// # Errors
/// [`LoadError`], which says what is wrong with the kernel or the machine.
pub fn plan(kernel: &[u8], facts: &Facts<'_>) -> Result<BootPlan, LoadError> {
    if facts.command_line.contains('\0') {
        return Err(LoadError::CommandLineZero);
    }
    if bzimage::is_bzimage(kernel) {
        return bzimage::plan(kernel, facts);
    }
    let is_elf = elf::is_elf(kernel);
    if is_elf {
        let image = elf::Image::parse(kernel)?;
        if let Some(entry) = image.pvh_entry() {
            return pvh::plan(&image, entry, facts);
        }
    }
    match multiboot::Header::find(kernel) {
        Some(header) => multiboot::plan(kernel, &header, facts),
        None if is_elf => Err(LoadError::NoProtocol),
        None => Err(LoadError::UnknownFormat(
            kernel.first_chunk().map_or(0, |magic| u32::from_le_bytes(*magic)),
        )),
    }
}
