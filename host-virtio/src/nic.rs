//! A network device (virtio 5.1) that never waits: frames that it has no room
//! for are lost, as on any network.

use alloc::vec::Vec;

use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::Transport;
use virtio_drivers::{Error, Hal};

use crate::memory::Shared;

/// Buffers in each direction.
const QUEUE_SIZE: usize = 64;
/// Bytes of a buffer: header (virtio 5.1.6) and the longest frame with a tag.
const BUFFER: usize = 2048;

/// A network device.
pub struct Nic<H: Hal, T: Transport> {
    raw: VirtIONetRaw<H, T, QUEUE_SIZE>,
    received: Shared<H>,
    sent: Shared<H>,
    /// Which of `received` the device has under a token.
    receiving: [Option<usize>; QUEUE_SIZE],
    /// Which of `sent` the device has under a token, and how much of it.
    sending: [Option<(usize, usize)>; QUEUE_SIZE],
    /// Buffers of `sent` that the device does not have.
    free: Vec<usize>,
    header: usize,
}

impl<H: Hal, T: Transport> Nic<H, T> {
    /// Starts the device behind `transport`.
    ///
    /// # Errors
    /// Why the driver cannot use it.
    pub fn new(transport: T) -> Result<Self, Error> {
        let raw = VirtIONetRaw::new(transport)?;
        let room = || Shared::new(QUEUE_SIZE * BUFFER).ok_or(Error::DmaError);
        let mut nic = Nic {
            raw,
            received: room()?,
            sent: room()?,
            receiving: [None; QUEUE_SIZE],
            sending: [None; QUEUE_SIZE],
            free: (0..QUEUE_SIZE / 2).collect(),
            header: 0,
        };
        let mut header = [0; 32];
        nic.header = nic.raw.fill_buffer_header(&mut header)?;
        for buffer in 0..QUEUE_SIZE {
            nic.offer(buffer)?;
        }
        // Sent frames are looked for when there are more to send.
        nic.raw.enable_interrupts();
        Ok(nic)
    }

    /// Its address.
    pub fn mac_address(&self) -> [u8; 6] {
        self.raw.mac_address()
    }

    /// Puts its interrupt down. To be called before [`Nic::receive`].
    pub fn acknowledge(&mut self) {
        self.raw.ack_interrupt();
    }

    fn offer(&mut self, buffer: usize) -> Result<(), Error> {
        // SAFETY: the device does not have this buffer, and nobody else looks at it.
        let bytes =
            unsafe { self.received.slice(buffer * BUFFER, BUFFER) }.ok_or(Error::DmaError)?;
        // SAFETY: the buffer lives as long as the queue and is left alone until it returns.
        let token = unsafe { self.raw.receive_begin(bytes) }?;
        let place = self.receiving.get_mut(usize::from(token)).ok_or(Error::WrongToken)?;
        *place = Some(buffer);
        Ok(())
    }

    /// Copies the next received frame into `frame` and returns its length. `None` if there is
    /// none. A frame that is longer than `frame` is lost and has length 0.
    pub fn receive(&mut self, frame: &mut [u8]) -> Option<usize> {
        let token = self.raw.poll_receive()?;
        let buffer = self.receiving.get_mut(usize::from(token))?.take()?;
        // SAFETY: the device has returned the buffer, and nobody else looks at it.
        let bytes = unsafe { self.received.slice(buffer * BUFFER, BUFFER) }?;
        // SAFETY: this is the buffer that was given under this token.
        let lengths = unsafe { self.raw.receive_complete(token, bytes) };
        let length = lengths.ok().and_then(|(header, length)| {
            let source = bytes.get(header..header.checked_add(length)?)?;
            frame.get_mut(..length)?.copy_from_slice(source);
            Some(length)
        });
        // When that fails there is one buffer less.
        let _ = self.offer(buffer);
        Some(length.unwrap_or(0))
    }

    /// Sends `frame`. False when there is no room for it.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        while let Some(token) = self.raw.poll_transmit() {
            let Some((buffer, length)) =
                self.sending.get_mut(usize::from(token)).and_then(Option::take)
            else {
                return false;
            };
            // SAFETY: the device has returned the buffer, and nobody else looks at it.
            let Some(bytes) = (unsafe { self.sent.slice(buffer * BUFFER, length) }) else {
                return false;
            };
            // SAFETY: this is the buffer that was given under this token.
            if unsafe { self.raw.transmit_complete(token, bytes) }.is_err() {
                return false;
            }
            self.free.push(buffer);
        }
        let length = self.header.saturating_add(frame.len());
        if length > BUFFER {
            return false;
        }
        let Some(buffer) = self.free.pop() else { return false };
        self.begin(buffer, length, frame).is_some()
    }

    fn begin(&mut self, buffer: usize, length: usize, frame: &[u8]) -> Option<()> {
        // SAFETY: the device does not have this buffer, and nobody else looks at it.
        let bytes = unsafe { self.sent.slice(buffer * BUFFER, length) }?;
        self.raw.fill_buffer_header(bytes).ok()?;
        bytes.get_mut(self.header..)?.copy_from_slice(frame);
        // SAFETY: the buffer lives as long as the queue and is left alone until it returns.
        let token = unsafe { self.raw.transmit_begin(bytes) }.ok()?;
        *self.sending.get_mut(usize::from(token))? = Some((buffer, length));
        Some(())
    }
}
