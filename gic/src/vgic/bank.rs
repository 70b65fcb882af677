//! The state of 32 interrupts, a bit or a lane each.

use crate::bits::bit;

/// One value for each of 32 interrupts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes<T>([T; 32]);

impl<T: Copy + Default> Lanes<T> {
    pub(super) const fn new(value: T) -> Self {
        Self([value; 32])
    }

    #[inline(always)]
    pub(super) fn get(&self, lane: usize) -> T {
        self.0.get(lane & 31).copied().unwrap_or_default()
    }

    #[inline(always)]
    pub(super) fn set(&mut self, lane: usize, value: T) {
        if let Some(slot) = self.0.get_mut(lane & 31) {
            *slot = value;
        }
    }
}

/// The priority at which an interrupt is active that the guest has made so through the distributor: it has preempted
/// nothing.
pub(super) const NOT_ACKNOWLEDGED: u8 = 0xff;

/// Which groups the distributor forwards, as masks to select interrupts by their group bit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Groups {
    group0: u32,
    group1: u32,
}

impl Groups {
    pub(super) fn new(group0: bool, group1: bool) -> Self {
        Self { group0: 0u32.wrapping_sub(group0.into()), group1: 0u32.wrapping_sub(group1.into()) }
    }

    pub(super) fn group0(self) -> bool {
        self.group0 != 0
    }

    pub(super) fn group1(self) -> bool {
        self.group1 != 0
    }
}

/// The registers that don't reset to zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub(super) enabled: u32,
    pub(super) group1: u32,
    pub(super) edge: u32,
}

/// 32 interrupts: the SGIs and PPIs of one vCPU, or 32 SPIs.
///
/// An interrupt is *resident* while a list register holds it. Its pending latch and its active state then live there;
/// `listed_latch` and `listed_active` remember what was put there, and the `drop_*` and `raise_*` bits what the guest
/// has asked for since. They come back when the list register is folded.
#[derive(Clone, Debug)]
// In this order: what is looked at together can be loaded in pairs.
#[repr(C)]
pub(super) struct Bank {
    /// `GICD_ISENABLERn`.
    pub(super) enabled: u32,
    /// `GICD_IGROUPRn`.
    pub(super) group1: u32,
    /// Pending by an edge, by software, or by a linked physical interrupt; cleared by acknowledging.
    pub(super) latched: u32,
    /// The input is asserted.
    pub(super) level: u32,
    /// Edge-triggered (`GICD_ICFGRn`).
    pub(super) edge: u32,
    /// Active, and not in a list register.
    pub(super) active: u32,
    /// In a list register of some vCPU.
    pub(super) resident: u32,
    /// Resident, and something has changed: the list register must be written anew.
    pub(super) touched: u32,
    /// Resident; the guest has cleared its pending latch.
    pub(super) drop_pending: u32,
    /// Resident; the guest has deactivated it through the distributor.
    pub(super) drop_active: u32,
    /// Resident; the guest has activated it through the distributor.
    pub(super) raise_active: u32,
    /// The physical interrupt is to be deactivated by whoever fills next.
    pub(super) release: u32,
    /// The physical interrupt is active on behalf of the guest.
    pub(super) busy: u32,
    /// Resident, and the physical interrupt has come again: the guest must have deactivated it before.
    pub(super) recurred: u32,
    /// Resident with the pending latch.
    pub(super) listed_latch: u32,
    /// Resident as active.
    pub(super) listed_active: u32,
    /// Has a physical interrupt behind it.
    pub(super) linked: u32,
    /// Which list register holds it, for resident interrupts.
    pub(super) slot: Lanes<u8>,
    /// `GICD_IPRIORITYRn`.
    pub(super) priority: Lanes<u8>,
    /// The priority at which the guest has acknowledged it, for active interrupts that are not resident and whose
    /// senders don't count.
    pub(super) acknowledged: Lanes<u8>,
    /// The physical interrupt of a linked one.
    pub(super) physical: Lanes<u32>,
}

impl Bank {
    pub(super) const fn new(reset: Reset) -> Self {
        Self {
            enabled: reset.enabled,
            group1: reset.group1,
            edge: reset.edge,
            level: 0,
            latched: 0,
            active: 0,
            resident: 0,
            touched: 0,
            listed_latch: 0,
            listed_active: 0,
            drop_pending: 0,
            drop_active: 0,
            raise_active: 0,
            linked: 0,
            busy: 0,
            recurred: 0,
            release: 0,
            priority: Lanes::new(0),
            acknowledged: Lanes::new(0),
            slot: Lanes::new(0),
            physical: Lanes::new(0),
        }
    }

    /// Back to the state after reset. Inputs keep their levels and links: they come from outside.
    pub(super) fn reset(&mut self, reset: Reset) {
        let fresh = Self::new(reset);
        *self = Self { level: self.level, linked: self.linked, physical: self.physical, ..fresh };
    }

    /// Inputs that are asserted and level-sensitive.
    #[inline(always)]
    pub(super) const fn line(&self) -> u32 {
        self.level & !self.edge
    }

    /// Pending, apart from what list registers hold.
    #[inline(always)]
    pub(super) const fn pending(&self) -> u32 {
        self.latched | self.line()
    }

    /// Enabled and of a group that is forwarded.
    #[inline(always)]
    pub(super) const fn forwarded(&self, groups: Groups) -> u32 {
        self.enabled & ((self.group1 & groups.group1) | (!self.group1 & groups.group0))
    }

    /// Interrupts that should go into a list register because they are pending.
    #[inline(always)]
    pub(super) const fn deliverable(&self, groups: Groups) -> u32 {
        self.pending() & self.forwarded(groups) & !(self.active | self.resident)
    }

    /// What `GICD_ISPENDRn` reads as, exact as of the last fold of the list registers.
    pub(super) const fn pending_register(&self) -> u32 {
        self.pending() | (self.listed_latch & !self.drop_pending)
    }

    /// What `GICD_ISACTIVERn` reads as, exact as of the last fold of the list registers.
    pub(super) const fn active_register(&self) -> u32 {
        self.active | (self.listed_active & !self.drop_active) | self.raise_active
    }

    /// Forgets all that goes with being in a list register.
    #[inline(always)]
    pub(super) fn unlist(&mut self, mask: u32) {
        let keep = !mask;
        self.resident &= keep;
        self.touched &= keep;
        self.listed_latch &= keep;
        self.listed_active &= keep;
        self.drop_pending &= keep;
        self.drop_active &= keep;
        self.raise_active &= keep;
        self.recurred &= keep;
    }

    /// Lets go of the physical interrupts among `mask` that no virtual state stands for any more, and notes that they have
    /// to be deactivated. Returns which.
    pub(super) fn let_go(&mut self, mask: u32) -> u32 {
        let gone = mask & self.busy & !(self.pending() | self.active | self.resident);
        self.busy &= !gone;
        self.release |= gone;
        gone
    }

    /// The physical interrupts behind `mask` have come.
    #[inline(always)]
    pub(super) fn inject(&mut self, mask: u32) {
        self.latched |= mask;
        self.recurred |= mask & self.linked & self.busy & self.resident;
        self.busy |= mask & self.linked;
        self.release &= !mask;
    }

    #[inline(always)]
    pub(super) fn set_link(&mut self, lane: usize, physical: u32) {
        self.linked |= bit(lane);
        self.physical.set(lane, physical);
    }
}
