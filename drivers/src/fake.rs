//! A register file that remembers what was written, for tests.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use crate::Registers;

/// Registers whose reads are scripted and whose writes are kept in order.
#[derive(Default)]
pub(crate) struct Fake {
    values: RefCell<BTreeMap<usize, u32>>,
    scripts: RefCell<BTreeMap<usize, VecDeque<u32>>>,
    pub(crate) writes: RefCell<Vec<(usize, u32)>>,
    pub(crate) reads: RefCell<usize>,
}

impl Fake {
    /// The register at `offset` reads as `value` until it is written.
    pub(crate) fn with(self, offset: usize, value: u32) -> Self {
        self.values.borrow_mut().insert(offset, value);
        self
    }

    /// The next reads of the register at `offset` give these values, before its own.
    pub(crate) fn script(self, offset: usize, values: &[u32]) -> Self {
        self.scripts.borrow_mut().insert(offset, values.iter().copied().collect());
        self
    }

    pub(crate) fn value(&self, offset: usize) -> u32 {
        self.values.borrow().get(&offset).copied().unwrap_or(0)
    }
}

impl Registers for &Fake {
    fn read8(&self, offset: usize) -> u8 {
        self.read32(offset) as u8
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write32(offset, value.into());
    }

    fn read32(&self, offset: usize) -> u32 {
        *self.reads.borrow_mut() += 1;
        let scripted = self.scripts.borrow_mut().get_mut(&offset).and_then(VecDeque::pop_front);
        scripted.unwrap_or_else(|| self.value(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        self.writes.borrow_mut().push((offset, value));
        self.values.borrow_mut().insert(offset, value);
    }
}
