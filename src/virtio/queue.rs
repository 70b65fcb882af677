//! A split virtqueue (virtio 2.7), the device's side of it.

use core::sync::atomic::{Ordering, fence};

use virtio_spec::virtq::{AvailF, UsedF};

use crate::address::GuestAddress;
use crate::memory::GuestMemory;
use crate::virtio::chain::Chain;
use crate::virtio::descriptor;
use crate::virtio::device::{Broken, Features};

/// Largest queue, and longest chain, in descriptors.
pub const MAX_SIZE: u16 = 256;

/// `flags` and `idx`, before the elements of both rings.
const RING_HEADER: u64 = 4;
/// Offset of `idx` in both rings.
const RING_INDEX: u64 = 2;
/// Bytes of an element of the available ring.
const AVAILABLE_ELEMENT: u64 = 2;
/// Bytes of an element of the used ring, `struct virtq_used_elem`.
const USED_ELEMENT: u64 = 8;

/// Where a queue lies, as the driver wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Number of descriptors.
    pub(super) size: u32,
    /// The descriptor table.
    pub(super) descriptors: u64,
    /// The available ring ("driver area").
    pub(super) available: u64,
    /// The used ring ("device area").
    pub(super) used: u64,
}

/// One virtqueue. Disabled until the driver has said where it lies.
#[derive(Debug)]
pub struct Queue {
    max: u16,
    pub(super) layout: Layout,
    ready: bool,
    /// A power of two while ready.
    size: u16,
    event_index: bool,
    indirect: bool,
    /// Index of the next element of the available ring to look at.
    next_available: u16,
    /// Index of the next element of the used ring to write.
    next_used: u16,
    /// `next_used` when the driver was last told, or need not have been.
    signalled: u16,
    /// `VIRTQ_USED_F_NO_NOTIFY` is set.
    quiet: bool,
}

impl Queue {
    pub(super) fn new(max: u16) -> Self {
        Queue {
            max,
            layout: Layout { size: max.into(), descriptors: 0, available: 0, used: 0 },
            ready: false,
            size: 0,
            event_index: false,
            indirect: false,
            next_available: 0,
            next_used: 0,
            signalled: 0,
            quiet: false,
        }
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        *self = Queue::new(self.max);
    }

    /// Largest size that the driver may choose.
    pub(super) fn max(&self) -> u16 {
        self.max
    }

    /// Whether the driver has enabled the queue.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Enables the queue as laid out, from its start.
    pub(super) fn enable(&mut self, features: Features) -> Result<(), Broken> {
        let Layout { size, descriptors, available, used } = self.layout;
        let size = u16::try_from(size).map_err(|_| Broken::Geometry)?;
        let aligned = descriptors.is_multiple_of(descriptor::SIZE)
            && available.is_multiple_of(2)
            && used.is_multiple_of(4);
        if !aligned || !size.is_power_of_two() || size > self.max {
            return Err(Broken::Geometry);
        }
        *self = Queue {
            layout: self.layout,
            ready: true,
            size,
            event_index: features.contains(virtio_spec::F::EVENT_IDX.into()),
            indirect: features.contains(virtio_spec::F::INDIRECT_DESC.into()),
            ..Queue::new(self.max)
        };
        Ok(())
    }

    /// Stops using the queue.
    pub(super) fn disable(&mut self) {
        self.ready = false;
    }

    /// An address in the available ring.
    fn available(&self, offset: u64) -> Result<GuestAddress, Broken> {
        GuestAddress(self.layout.available).checked_add(offset).ok_or(Broken::Geometry)
    }

    /// An address in the used ring.
    fn used(&self, offset: u64) -> Result<GuestAddress, Broken> {
        GuestAddress(self.layout.used).checked_add(offset).ok_or(Broken::Geometry)
    }

    /// Offset of element `index`, of `bytes` bytes, in a ring.
    fn element(&self, index: u16, bytes: u64) -> u64 {
        let place = index & self.size.wrapping_sub(1);
        u64::from(place).saturating_mul(bytes).saturating_add(RING_HEADER)
    }

    /// Offset behind all elements of `bytes` bytes each in a ring.
    fn end(&self, bytes: u64) -> u64 {
        u64::from(self.size).saturating_mul(bytes).saturating_add(RING_HEADER)
    }

    /// How many chains the driver offers.
    fn offered(&self, memory: &dyn GuestMemory) -> Result<u16, Broken> {
        let index = memory.load_u16(self.available(RING_INDEX)?)?;
        let offered = index.wrapping_sub(self.next_available);
        if offered > self.size {
            return Err(Broken::Overrun);
        }
        Ok(offered)
    }

    /// Takes the next chain of the driver into `chain`; false when there is none.
    ///
    /// # Errors
    /// [`Broken`] when ring or chain break a rule.
    pub fn pop(&mut self, memory: &dyn GuestMemory, chain: &mut Chain) -> Result<bool, Broken> {
        if !self.ready || self.offered(memory)? == 0 {
            return Ok(false);
        }
        // The element was written before the index.
        fence(Ordering::Acquire);
        let element = self.element(self.next_available, AVAILABLE_ELEMENT);
        let head = memory.load_u16(self.available(element)?)?;
        let table = GuestAddress(self.layout.descriptors);
        descriptor::follow(memory, table, self.size, head, self.indirect, chain)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(true)
    }

    /// Gives back the last `count` chains that were taken and not used.
    pub fn undo(&mut self, count: u16) {
        self.next_available = self.next_available.wrapping_sub(count);
    }

    /// Returns `chain` to the driver, with `written` bytes of it written.
    ///
    /// # Errors
    /// [`Broken::Memory`] when the ring is not memory.
    pub fn push(
        &mut self,
        memory: &dyn GuestMemory,
        chain: &Chain,
        written: u32,
    ) -> Result<(), Broken> {
        self.stage(memory, 0, chain.head(), written)?;
        self.publish(memory, 1)
    }

    /// Writes the used element that is `ahead` of the next one, not yet
    /// visible to the driver.
    ///
    /// # Errors
    /// [`Broken::Memory`] when the ring is not memory.
    pub(super) fn stage(
        &mut self,
        memory: &dyn GuestMemory,
        ahead: u16,
        head: u16,
        written: u32,
    ) -> Result<(), Broken> {
        let element = self.element(self.next_used.wrapping_add(ahead), USED_ELEMENT);
        let value = u64::from(head) | u64::from(written) << 32;
        memory.write(self.used(element)?, &value.to_le_bytes())?;
        Ok(())
    }

    /// Makes `count` staged elements visible.
    ///
    /// # Errors
    /// [`Broken::Memory`] when the ring is not memory.
    pub(super) fn publish(&mut self, memory: &dyn GuestMemory, count: u16) -> Result<(), Broken> {
        self.next_used = self.next_used.wrapping_add(count);
        // The driver sees the elements, and what is in their buffers, before the index.
        fence(Ordering::Release);
        memory.store_u16(self.used(RING_INDEX)?, self.next_used)?;
        Ok(())
    }

    /// Asks the driver to notify when it adds a chain to the `seen` ones that
    /// it offers by now. True when it has, of which it may not notify.
    ///
    /// # Errors
    /// [`Broken`] when a ring breaks a rule.
    pub(super) fn listen(&mut self, memory: &dyn GuestMemory, seen: u16) -> Result<bool, Broken> {
        if self.event_index {
            // 2.7.10: `avail_event` follows the used elements.
            let event = self.next_available.wrapping_add(seen);
            memory.store_u16(self.used(self.end(USED_ELEMENT))?, event)?;
        } else if self.quiet {
            self.quiet = false;
            memory.store_u16(self.used(0)?, 0)?;
        }
        // The driver's index is read after the driver can see the request.
        fence(Ordering::SeqCst);
        Ok(self.offered(memory)? > seen)
    }

    /// Tells the driver that it need not notify. With an event index nothing
    /// has to be done: it notifies of one chain only.
    ///
    /// # Errors
    /// [`Broken::Memory`] when the ring is not memory.
    pub(super) fn mute(&mut self, memory: &dyn GuestMemory) -> Result<(), Broken> {
        if !self.event_index && !self.quiet {
            self.quiet = true;
            memory.store_u16(self.used(0)?, UsedF::NO_NOTIFY.bits().to_ne())?;
        }
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was returned since the
    /// last time of asking (virtio 2.7.7).
    ///
    /// # Errors
    /// [`Broken::Memory`] when the ring is not memory.
    pub(super) fn take_signal(&mut self, memory: &dyn GuestMemory) -> Result<bool, Broken> {
        let before = self.signalled;
        if !self.ready || self.next_used == before {
            return Ok(false);
        }
        self.signalled = self.next_used;
        // What the driver asks for is read after it can see the used index.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = memory.load_u16(self.available(self.end(AVAILABLE_ELEMENT))?)?;
            let passed = self.next_used.wrapping_sub(event).wrapping_sub(1);
            Ok(passed < self.next_used.wrapping_sub(before))
        } else {
            let flags = memory.load_u16(self.available(0)?)?;
            Ok(flags & AvailF::NO_INTERRUPT.bits().to_ne() == 0)
        }
    }
}

#[cfg(test)]
mod tests;
