//! The console device (virtio 5.3): one port, without a size, since the
//! hypervisor does not know that of the user's terminal.

#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use virtio_spec::Id;

use crate::bus::Progress;
use crate::console::ConsoleInput;
use crate::device::console::ConsoleSink;
use crate::virtio::chain::{Chain, Cursor};
use crate::virtio::device::{Broken, Features, Io, Job, Step, VirtioDevice, copy_config};
use crate::virtio::transport::Transport;

/// Port 0, to the driver.
const RECEIVE: usize = 0;
/// Port 0, from the driver.
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Bytes of output in one step.
const OUTPUT: usize = 1024;
/// Bytes of input that wait for a buffer of the driver.
const INPUT: usize = 256;

/// Output that is on its way, or word that there is space for input.
pub struct ConsoleJob {
    sink: Arc<dyn ConsoleSink>,
    kind: Kind,
}

enum Kind {
    Output { buffer: Vec<u8>, length: usize },
    Ready,
}

impl Job for ConsoleJob {
    fn perform(&mut self) {
        match &self.kind {
            Kind::Output { buffer, length } => {
                self.sink.write(buffer.get(..*length).unwrap_or_default());
            }
            Kind::Ready => self.sink.ready(),
        }
    }

    fn bytes(&self) -> usize {
        match self.kind {
            // A serial line is slower than memory by far.
            Kind::Output { length, .. } => length.saturating_mul(OUTPUT_COST),
            Kind::Ready => 0,
        }
    }
}

/// What a byte on a serial line counts against the budget of one access.
const OUTPUT_COST: usize = 32;

/// A console that sends to a [`ConsoleSink`].
pub struct Console {
    sink: Arc<dyn ConsoleSink>,
    input: VecDeque<u8>,
    /// Input was refused since there was last space.
    refused: bool,
    /// The chain that is being sent, and how far.
    sending: Option<Cursor>,
    chain: Chain,
    /// For received bytes.
    spare: Chain,
    /// `None` while a job has it.
    buffer: Option<Vec<u8>>,
}

impl Console {
    /// A console after power-on.
    pub fn new(sink: Arc<dyn ConsoleSink>) -> Self {
        Console {
            sink,
            input: VecDeque::with_capacity(INPUT),
            refused: false,
            sending: None,
            chain: Chain::new(),
            spare: Chain::new(),
            buffer: Some(vec![0; OUTPUT]),
        }
    }

    /// The word that there is space again, if somebody waits for it.
    fn take_ready(&mut self) -> Option<ConsoleJob> {
        let waited = core::mem::take(&mut self.refused);
        waited.then(|| ConsoleJob { sink: self.sink.clone(), kind: Kind::Ready })
    }

    /// Moves input into one buffer of the driver.
    fn receive(&mut self, io: &mut Io<'_>) -> Result<Step<ConsoleJob>, Broken> {
        if self.input.len() < INPUT
            && let Some(job) = self.take_ready()
        {
            return Ok(Step::Job(job));
        }
        if self.input.is_empty() {
            return Ok(Step::Idle);
        }
        let Some((queue, memory)) = io.queue(RECEIVE) else { return Ok(Step::Idle) };
        if !queue.pop(memory, &mut self.spare)? {
            return Ok(Step::Starved(0));
        }
        let (first, second) = self.input.as_slices();
        let mut place = self.spare.writer();
        let written = place.write(&self.spare, memory, first)?;
        let written = written.saturating_add(place.write(&self.spare, memory, second)?);
        self.input.drain(..written.min(self.input.len()));
        queue.push(memory, &self.spare, u32::try_from(written).unwrap_or(u32::MAX))?;
        Ok(Step::Done(written))
    }

    /// Takes the next bytes of output, or ends their chain.
    fn transmit(&mut self, io: &mut Io<'_>) -> Result<Step<ConsoleJob>, Broken> {
        let Some((queue, memory)) = io.queue(TRANSMIT) else { return Ok(Step::Idle) };
        let mut place = match self.sending.take() {
            Some(place) => place,
            None if queue.pop(memory, &mut self.chain)? => self.chain.reader(),
            None => return Ok(Step::Starved(0)),
        };
        let Some(mut buffer) = self.buffer.take() else { return Ok(Step::Idle) };
        let length = place.read(&self.chain, memory, &mut buffer);
        match length {
            Ok(length) if length == buffer.len() => self.sending = Some(place),
            // All is copied: the driver may have its buffer back before the bytes are out.
            Ok(_) => {
                if let Err(broken) = queue.push(memory, &self.chain, 0) {
                    self.buffer = Some(buffer);
                    return Err(broken);
                }
            }
            Err(broken) => {
                self.buffer = Some(buffer);
                return Err(broken);
            }
        }
        let length = length.unwrap_or(0);
        Ok(Step::Job(ConsoleJob { sink: self.sink.clone(), kind: Kind::Output { buffer, length } }))
    }
}

impl VirtioDevice for Console {
    type Job = ConsoleJob;

    fn id(&self) -> Id {
        Id::Console
    }

    fn features(&self) -> Features {
        Features::NONE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        copy_config(&[], offset, bytes);
    }

    fn step(&mut self, queue: usize, io: &mut Io<'_>) -> Result<Step<ConsoleJob>, Broken> {
        match queue {
            RECEIVE => self.receive(io),
            _ => self.transmit(io),
        }
    }

    fn finish(&mut self, job: ConsoleJob, _: &mut Io<'_>) -> Result<(), Broken> {
        self.abandon(job);
        Ok(())
    }

    fn stop(&mut self) -> Option<ConsoleJob> {
        self.input.clear();
        self.take_ready()
    }

    fn abandon(&mut self, job: ConsoleJob) {
        if let Kind::Output { buffer, .. } = job.kind {
            self.buffer = Some(buffer);
        }
    }

    fn reset_queue(&mut self, queue: usize) {
        if queue == TRANSMIT {
            self.sending = None;
        }
    }

    fn reset(&mut self) {
        self.input.clear();
        self.sending = None;
    }
}

impl ConsoleInput for Transport<Console> {
    /// Before the driver is ready the byte is taken and lost, as on a line
    /// with nobody at its end.
    fn receive(&self, byte: u8) -> bool {
        let taken = self.with(|console, io| {
            if !io.is_live() {
                return Ok(true);
            }
            if console.input.len() >= INPUT {
                console.refused = true;
                return Ok(false);
            }
            console.input.push_back(byte);
            Ok(true)
        });
        if taken == Some(true) {
            // Ends, since each turn moves input, of which there is little.
            while self.serve(RECEIVE) == Progress::Again {}
        }
        taken.unwrap_or(true)
    }
}
