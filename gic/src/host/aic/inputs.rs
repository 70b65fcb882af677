//! Which input of the AIC has which interrupt number.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::IntId;

/// How many inputs the hypervisor can use: its own, and those of devices that guests have.
const MOST: usize = 64;
/// One past the last number that an input can get.
pub(super) const END: u32 = IntId::PRIVATE + MOST as u32;
/// An entry that no input has. An input's own is never this.
const FREE: u64 = u64::MAX;

/// An input of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) die: u32,
    pub(super) number: u32,
}

impl Input {
    const fn packed(self) -> u64 {
        (self.die as u64) << 32 | self.number as u64
    }
}

/// The inputs in the order of their interrupt numbers. Entries are only added.
#[derive(Debug)]
pub(super) struct Inputs([AtomicU64; MOST]);

impl Default for Inputs {
    fn default() -> Self {
        Self([const { AtomicU64::new(FREE) }; MOST])
    }
}

impl Inputs {
    /// The number of an input, now or from now on.
    pub(super) fn claim(&self, input: Input) -> Option<IntId> {
        let packed = input.packed();
        let index = self.0.iter().position(|entry| {
            let taken = entry.compare_exchange(FREE, packed, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok() || taken == Err(packed)
        })?;
        Some(number(index))
    }

    /// The number of an input that has been claimed.
    #[inline]
    pub(super) fn find(&self, input: Input) -> Option<IntId> {
        let packed = input.packed();
        let mut taken = self
            .0
            .iter()
            .map(|entry| entry.load(Ordering::Acquire))
            .take_while(|entry| *entry != FREE);
        taken.position(|entry| entry == packed).map(number)
    }

    /// The input with this number.
    #[inline]
    pub(super) fn input(&self, intid: IntId) -> Option<Input> {
        let index = intid.get().checked_sub(IntId::PRIVATE)? as usize;
        let packed = self.0.get(index)?.load(Ordering::Acquire);
        (packed != FREE).then_some(Input { die: (packed >> 32) as u32, number: packed as u32 })
    }
}

const fn number(index: usize) -> IntId {
    IntId::new(IntId::PRIVATE.saturating_add(index as u32))
}
