//! Memory of a guest for tests: bytes from address 0 on.

use std::cell::RefCell;

use bunshin::address::GuestAddress;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};

/// Bytes of [`Memory`].
const SIZE: usize = 0x1_0000;

pub(crate) struct Memory(RefCell<Vec<u8>>);

impl Memory {
    pub(crate) fn new() -> Self {
        Memory(RefCell::new(vec![0; SIZE]))
    }

    pub(crate) fn u16(&self, address: u64) -> u16 {
        let mut bytes = [0; 2];
        self.read(GuestAddress(address), &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.write(GuestAddress(address), bytes).unwrap();
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        let size = bytes.len() as u64;
        let range = address.0 as usize..(address.0 as usize).saturating_add(bytes.len());
        let memory = self.0.borrow();
        bytes.copy_from_slice(memory.get(range).ok_or(OutOfMemoryRange { address, size })?);
        Ok(())
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let size = bytes.len() as u64;
        let range = address.0 as usize..(address.0 as usize).saturating_add(bytes.len());
        let mut memory = self.0.borrow_mut();
        memory.get_mut(range).ok_or(OutOfMemoryRange { address, size })?.copy_from_slice(bytes);
        Ok(())
    }
}
