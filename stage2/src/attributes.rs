//! What a guest may do with a piece of memory, and how the CPU caches it.

/// The type of memory behind a mapping, in Arm's terms (Arm ARM B2.10).
///
/// The guest's own first stage can make an access stricter than this, never laxer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// Ordinary cacheable memory, write-back, inner shareable.
    Normal,
    /// Ordinary memory that no cache holds.
    NormalNonCacheable,
    /// A device: no gathering, no reordering, no early acknowledgement of writes.
    DeviceNGnRnE,
    /// A device: no gathering, no reordering; writes may be acknowledged early.
    DeviceNGnRE,
}

/// Permissions and memory type of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// The guest may read.
    pub read: bool,
    /// The guest may write. Copy-on-write and the dirty log may hold writes back without changing
    /// this: it is what the guest is entitled to.
    pub write: bool,
    /// The guest may fetch instructions.
    pub execute: bool,
    /// Type of the memory.
    pub memory: MemoryType,
}

impl Attributes {
    /// Guest RAM: everything allowed, cacheable.
    pub const RAM: Self =
        Self { read: true, write: true, execute: true, memory: MemoryType::Normal };
    /// Guest ROM: no writes, cacheable.
    pub const ROM: Self =
        Self { read: true, write: false, execute: true, memory: MemoryType::Normal };
    /// A device's registers: read and write, strictly ordered, early acknowledgement of writes.
    pub const DEVICE: Self =
        Self { read: true, write: true, execute: false, memory: MemoryType::DeviceNGnRE };
}
