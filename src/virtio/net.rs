//! The network device (virtio 5.1): a pair of queues and a port of the switch.
//!
//! It computes the checksums that the driver leaves open. What it delivers is
//! complete, so it does not offer to leave them open to the driver, nor does
//! it offer segmentation.

mod backlog;
mod header;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use virtio_spec::{Id, net};

use crate::memory::GuestMemory;
use crate::network::frame::LONGEST_TAGGED;
use crate::network::{MacAddress, Port, PortSink};
use crate::virtio::chain::Chain;
use crate::virtio::device::{Broken, Features, Io, Job, Step, VirtioDevice, copy_config};
use crate::virtio::queue::{MAX_SIZE, Queue};
use crate::virtio::transport::Transport;
use backlog::Backlog;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [MAX_SIZE, MAX_SIZE];
/// What a frame counts against the budget of one access, beside its bytes:
/// each may interrupt a receiver.
const FRAME_COST: usize = 2048;

/// Bytes that wait for buffers of the driver, and how many there may be when a frame for a group
/// is to join them.
const BACKLOG: usize = 64 << 10;
const GROUP_BACKLOG: usize = BACKLOG / 2;

/// A frame on its way into the switch.
pub struct NetJob {
    port: Arc<Port>,
    buffer: Vec<u8>,
    length: usize,
    /// Ports to which it went.
    copies: usize,
}

impl Job for NetJob {
    fn perform(&mut self) {
        self.copies = self.port.send(self.buffer.get(..self.length).unwrap_or_default());
    }

    fn bytes(&self) -> usize {
        self.length.saturating_add(FRAME_COST).saturating_mul(self.copies.max(1))
    }
}

/// What became of a frame for the driver.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Delivered,
    /// It does not fit into the driver's buffer.
    Lost,
    /// It needs more chains of buffers than the driver offers, which is this many.
    Starved(u16),
}

/// A network device.
pub struct Net {
    port: Arc<Port>,
    mac: MacAddress,
    backlog: Backlog,
    /// The first of the driver's buffers for a frame, and a further one.
    chain: Chain,
    further: Chain,
    /// Heads and written bytes of the buffers of a frame.
    used: Vec<(u16, u32)>,
    sending: Chain,
    /// Empty while a job has it.
    buffer: Vec<u8>,
}

impl Net {
    /// A device after power-on that sends through `port` and tells its driver
    /// the address `mac`. The port is to be connected to its transport.
    pub fn new(port: Arc<Port>, mac: MacAddress) -> Self {
        Net {
            port,
            mac,
            backlog: Backlog::default(),
            chain: Chain::new(),
            further: Chain::new(),
            used: Vec::new(),
            sending: Chain::new(),
            // One more, by which a frame that is too long shows.
            buffer: vec![0; LONGEST_TAGGED + 1],
        }
    }

    /// Writes a frame into the driver's buffers.
    fn put(&mut self, io: &mut Io<'_>, frame: &[u8]) -> Result<Outcome, Broken> {
        let mergeable = io.features().contains(net::F::MRG_RXBUF.into());
        let Some((queue, memory)) = io.queue(RECEIVE) else { return Ok(Outcome::Lost) };
        loop {
            let outcome = self.fill(queue, memory, frame, mergeable)?;
            // The driver has to tell of the next buffer, unless it came meanwhile.
            match outcome {
                Outcome::Starved(seen) if queue.listen(memory, seen)? => {}
                outcome => return Ok(outcome),
            }
        }
    }

    fn fill(
        &mut self,
        queue: &mut Queue,
        memory: &dyn GuestMemory,
        frame: &[u8],
        mergeable: bool,
    ) -> Result<Outcome, Broken> {
        let header = header::received(1);
        let mut rest = frame;
        self.used.clear();
        while self.used.is_empty() || !rest.is_empty() {
            let first = self.used.is_empty();
            let chain = if first { &mut self.chain } else { &mut self.further };
            if !queue.pop(memory, chain)? {
                let seen = u16::try_from(self.used.len()).unwrap_or(0);
                queue.undo(seen);
                return Ok(Outcome::Starved(seen));
            }
            let mut place = chain.writer();
            let mut written = 0usize;
            if first {
                written = place.write(chain, memory, &header)?;
            }
            // 5.1.6.3.1: a buffer for a header at least.
            if first && written < header::SIZE || chain.writable_bytes() == 0 {
                return Err(Broken::Request);
            }
            let part = place.write(chain, memory, rest)?;
            rest = rest.get(part..).unwrap_or_default();
            if !rest.is_empty() && !mergeable {
                queue.push(memory, &self.chain, 0)?;
                return Ok(Outcome::Lost);
            }
            let written = u32::try_from(written.saturating_add(part)).unwrap_or(u32::MAX);
            self.used.push((chain.head(), written));
        }
        let count = u16::try_from(self.used.len()).unwrap_or(u16::MAX);
        if count > 1 {
            let mut place = self.chain.writer();
            place.skip(&self.chain, header::NUM_BUFFERS);
            place.write(&self.chain, memory, &count.to_le_bytes())?;
        }
        for (ahead, (head, written)) in (0..count).zip(&self.used) {
            queue.stage(memory, ahead, *head, *written)?;
        }
        queue.publish(memory, count)?;
        Ok(Outcome::Delivered)
    }

    /// Moves one frame of the backlog to the driver.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<Step<NetJob>, Broken> {
        let mut frame = [0; LONGEST_TAGGED];
        let Some(length) = self.backlog.peek(&mut frame) else { return Ok(Step::Idle) };
        if let Outcome::Starved(seen) = self.put(io, frame.get(..length).unwrap_or_default())? {
            return Ok(Step::Starved(seen));
        }
        self.backlog.pop();
        Ok(Step::Done(length))
    }

    /// Takes the next frame of the driver.
    fn transmit(&mut self, io: &mut Io<'_>) -> Result<Step<NetJob>, Broken> {
        let checksums = io.features().contains(net::F::CSUM.into());
        let Some((queue, memory)) = io.queue(TRANSMIT) else { return Ok(Step::Idle) };
        if !queue.pop(memory, &mut self.sending)? {
            return Ok(Step::Starved(0));
        }
        let mut header = [0; header::SIZE];
        let mut place = self.sending.reader();
        if place.read(&self.sending, memory, &mut header)? != header::SIZE {
            return Err(Broken::Request);
        }
        let length = place.read(&self.sending, memory, &mut self.buffer)?;
        queue.push(memory, &self.sending, 0)?;
        let frame = self.buffer.get_mut(..length).unwrap_or_default();
        if !header::apply(header, frame, checksums) {
            return Ok(Step::Done(length));
        }
        let buffer = core::mem::take(&mut self.buffer);
        Ok(Step::Job(NetJob { port: self.port.clone(), buffer, length, copies: 0 }))
    }
}

impl VirtioDevice for Net {
    type Job = NetJob;

    fn id(&self) -> Id {
        Id::Net
    }

    fn features(&self) -> Features {
        (net::F::MAC | net::F::STATUS | net::F::CSUM | net::F::MRG_RXBUF).into()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        let [a, b, c, d, e, f] = self.mac.0;
        let [low, high] = net::S::LINK_UP.bits().to_ne().to_le_bytes();
        copy_config(&[a, b, c, d, e, f, low, high], offset, bytes);
    }

    fn step(&mut self, queue: usize, io: &mut Io<'_>) -> Result<Step<NetJob>, Broken> {
        match queue {
            RECEIVE => self.receive(io),
            _ => self.transmit(io),
        }
    }

    fn finish(&mut self, job: NetJob, _: &mut Io<'_>) -> Result<(), Broken> {
        self.abandon(job);
        Ok(())
    }

    fn abandon(&mut self, job: NetJob) {
        self.buffer = job.buffer;
    }

    fn reset_queue(&mut self, queue: usize) {
        if queue == RECEIVE {
            self.backlog.clear();
        }
    }

    fn reset(&mut self) {
        self.backlog.clear();
    }
}

impl PortSink for Transport<Net> {
    fn deliver(&self, frame: &[u8]) -> bool {
        let taken = self.with(|net, io| {
            if io.queue(RECEIVE).is_none() {
                return Ok(false);
            }
            // Who floods the LAN takes no more than a part of what waits, so that frames for this
            // station alone still come through.
            let group = frame.first().is_some_and(|byte| byte & 1 != 0);
            let most = if group { GROUP_BACKLOG } else { BACKLOG };
            // What waits comes first.
            if !net.backlog.is_empty() {
                return Ok(net.backlog.push(frame, most));
            }
            Ok(match net.put(io, frame)? {
                Outcome::Delivered => true,
                Outcome::Lost => false,
                Outcome::Starved(_) => net.backlog.push(frame, most),
            })
        });
        taken.unwrap_or(false)
    }
}
