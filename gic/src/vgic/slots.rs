//! What one vCPU keeps beside its interrupts' state: which list registers it uses, and for what.

use crate::VcpuSet;

/// The largest number of list registers in any GIC.
pub(super) const SLOTS: usize = 16;

/// One part of an interrupt bank as seen from one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// Interrupts that are routed to this vCPU.
    pub(super) target: u32,
    /// Interrupts that this vCPU has acknowledged and that are not in a list register.
    pub(super) active: u32,
    /// Interrupts in a list register of this vCPU.
    pub(super) resident: u32,
}

/// The contents of a list register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) bank: u8,
    pub(super) lane: u8,
    pub(super) source: u8,
}

/// [`Slots::ready`] when only the bank of private interrupts is.
pub(super) const PRIVATE: u32 = 1 << 0;

/// The list registers of one vCPU.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Slots {
    /// Banks that may hold something to put into, or to change in, a list register.
    pub(super) ready: u32,
    /// List registers in use.
    pub(super) used: u32,
    /// More interrupts than list registers: whenever some are filled, all are to be chosen anew.
    pub(super) overflow: bool,
    /// Among those that did not fit are active ones, which the guest may end.
    pub(super) evicted: bool,
    /// vCPUs that wait for the exact state of the list registers.
    pub(super) askers: VcpuSet,
    slots: [Slot; SLOTS],
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self {
            ready: 0,
            used: 0,
            overflow: false,
            evicted: false,
            askers: VcpuSet::EMPTY,
            slots: [Slot { bank: 0, lane: 0, source: 0 }; SLOTS],
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, n: usize) -> Slot {
        self.slots.get(n).copied().unwrap_or_default()
    }

    /// Takes a free list register among the first `count`.
    #[inline(always)]
    pub(super) fn take(&mut self, count: usize, slot: Slot) -> Option<usize> {
        let n = (!self.used).trailing_zeros() as usize;
        if n >= count {
            return None;
        }
        *self.slots.get_mut(n)? = slot;
        self.used |= crate::bits::bit(n);
        Some(n)
    }
}

/// GICv2: the vCPUs that sent each SGI, a bit each. IHI 0048 4.1.4: an SGI is pending once for each sender. `listed` is the
/// one whose SGI is in a list register.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub(super) pending: Senders,
    pub(super) active: Senders,
    pub(super) listed: Senders,
    pub(super) drop_pending: Senders,
    /// The priorities at which the active ones were acknowledged.
    pub(super) acknowledged: SenderPriorities,
}

/// A priority for each SGI and sender.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SenderPriorities([[u8; 8]; 16]);

impl SenderPriorities {
    pub(super) fn get(&self, sgi: usize, source: u8) -> u8 {
        let senders = self.0.get(sgi & 15).copied().unwrap_or_default();
        senders.get(usize::from(source & 7)).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, sgi: usize, source: u8, priority: u8) {
        if let Some(entry) =
            self.0.get_mut(sgi & 15).and_then(|senders| senders.get_mut(usize::from(source & 7)))
        {
            *entry = priority;
        }
    }
}

/// A set of senders for each SGI.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Senders([u8; 16]);

impl Senders {
    #[inline(always)]
    pub(super) fn get(&self, sgi: usize) -> u8 {
        self.0.get(sgi & 15).copied().unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn set(&mut self, sgi: usize, senders: u8) {
        if let Some(entry) = self.0.get_mut(sgi & 15) {
            *entry = senders;
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, sgi: usize, senders: u8) {
        self.set(sgi, self.get(sgi) | senders);
    }

    #[inline(always)]
    pub(super) fn remove(&mut self, sgi: usize, senders: u8) {
        self.set(sgi, self.get(sgi) & !senders);
    }
}

/// The mask of sender `n`, 0 to 7.
#[inline(always)]
pub(super) const fn sender(n: u8) -> u8 {
    1u8.wrapping_shl((n & 7) as u32)
}
