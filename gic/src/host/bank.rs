//! The registers with a bit or a byte for each interrupt, which GICv2's distributor, GICv3's distributor and its
//! redistributors have at the same offsets (IHI 0048 4.3, IHI 0069 12.8 and 12.11).

use super::mmio::Registers;
use super::{Trigger, wait};
use crate::IntId;

const IGROUPR: usize = 0x080;
const ISENABLER: usize = 0x100;
const ICENABLER: usize = 0x180;
const ISPENDR: usize = 0x200;
const ICPENDR: usize = 0x280;
const ISACTIVER: usize = 0x300;
const ICACTIVER: usize = 0x380;
const IPRIORITYR: usize = 0x400;
const ICFGR: usize = 0xc00;

const ALL: u32 = u32::MAX;
/// The priority of every physical interrupt: one level for all, in the middle of the Non-secure range.
const PRIORITY: u8 = 0xa0;

/// A block with these registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bank(pub(super) Registers);

impl Bank {
    /// Disables the 32 interrupts of word `number`, clears their state, and gives all the same priority.
    pub(super) fn quiesce(&self, number: usize) {
        let word = number << 2;
        self.0.write(ICENABLER | word, ALL);
        self.0.write(ICPENDR | word, ALL);
        self.0.write(ICACTIVER | word, ALL);
        for n in 0..8 {
            self.0.write(IPRIORITYR | (number << 5) | (n << 2), u32::from_ne_bytes([PRIORITY; 4]));
        }
    }

    /// Puts the 32 interrupts of word `number` in group 0 or 1.
    pub(super) fn set_groups(&self, number: usize, group1: bool) {
        self.0.write(IGROUPR | (number << 2), if group1 { ALL } else { 0 });
    }

    /// Enables the interrupts `mask` of word `number`.
    pub(super) fn enable_all(&self, number: usize, mask: u32) {
        self.0.write(ISENABLER | (number << 2), mask);
    }

    pub(super) fn enable(&self, intid: IntId) {
        self.set(ISENABLER, intid);
    }

    pub(super) fn disable(&self, intid: IntId) {
        self.set(ICENABLER, intid);
    }

    pub(super) fn is_enabled(&self, intid: IntId) -> bool {
        self.get(ISENABLER, intid)
    }

    pub(super) fn set_pending(&self, intid: IntId) {
        self.set(ISPENDR, intid);
    }

    pub(super) fn clear_pending(&self, intid: IntId) {
        self.set(ICPENDR, intid);
    }

    pub(super) fn is_pending(&self, intid: IntId) -> bool {
        self.get(ISPENDR, intid)
    }

    pub(super) fn set_active(&self, intid: IntId) {
        self.set(ISACTIVER, intid);
    }

    pub(super) fn clear_active(&self, intid: IntId) {
        self.set(ICACTIVER, intid);
    }

    pub(super) fn is_active(&self, intid: IntId) -> bool {
        self.get(ISACTIVER, intid)
    }

    pub(super) fn set_priority(&self, intid: IntId, priority: u8) {
        self.0.write8(IPRIORITYR.wrapping_add(intid.get() as usize), priority);
    }

    pub(super) fn set_trigger(&self, intid: IntId, trigger: Trigger) {
        let register = ICFGR | ((intid.get() as usize) >> 4 << 2);
        let edge = 0b10u32.wrapping_shl((intid.get() & 0xf) << 1);
        let value = self.0.read(register) & !edge;
        self.0.write(
            register,
            match trigger {
                Trigger::Level => value,
                Trigger::Edge => value | edge,
            },
        );
    }

    /// Waits until bits `mask` of the register at `offset` are clear.
    pub(super) fn wait_clear(&self, offset: usize, mask: u32) -> bool {
        wait(|| self.0.read(offset) & mask == 0)
    }

    fn set(&self, base: usize, intid: IntId) {
        self.0.write(base | (intid.bank() << 2), crate::bits::bit(intid.lane()));
    }

    fn get(&self, base: usize, intid: IntId) -> bool {
        self.0.read(base | (intid.bank() << 2)) & crate::bits::bit(intid.lane()) != 0
    }
}
