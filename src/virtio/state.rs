//! What the lock of a transport guards: device, queues, status and features.

use alloc::vec;
use alloc::vec::Vec;

use log::debug;
use virtio_spec::{DeviceStatus, F};

use crate::bus::Progress;
use crate::memory::GuestMemory;
use crate::virtio::device::{Broken, Features, Io, Step, VirtioDevice};
use crate::virtio::interrupt::{CONFIGURATION_CHANGE, USED_BUFFER};
use crate::virtio::queue::Queue;

/// Features of the transport and its rings, which every device has.
fn ring_features() -> Features {
    Features::from(F::VERSION_1 | F::INDIRECT_DESC | F::EVENT_IDX | F::RING_RESET)
}

/// Status bits that the driver writes (virtio 2.1).
const DRIVERS: DeviceStatus = DeviceStatus::ACKNOWLEDGE
    .union(DeviceStatus::DRIVER)
    .union(DeviceStatus::FEATURES_OK)
    .union(DeviceStatus::DRIVER_OK)
    .union(DeviceStatus::FAILED);

pub(super) struct State<D: VirtioDevice> {
    pub(super) device: D,
    pub(super) queues: Vec<Queue>,
    /// Queues whose device has its turns now.
    serving: Vec<bool>,
    /// Number of resets so far.
    epoch: u64,
    status: DeviceStatus,
    /// What the driver accepts, by words of 32 features.
    driver_features: [u32; 2],
    /// It accepts one beyond these words.
    foreign_features: bool,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
    generation: u32,
    /// Bits for `InterruptStatus` that are to be raised with the lock released.
    raised: u32,
    /// A job that is to be done with the lock released.
    aftermath: Option<D::Job>,
}

impl<D: VirtioDevice> State<D> {
    pub(super) fn new(device: D) -> Self {
        let queues: Vec<Queue> = device.queue_sizes().iter().map(|&max| Queue::new(max)).collect();
        State {
            serving: vec![false; queues.len()],
            device,
            queues,
            epoch: 0,
            status: DeviceStatus::empty(),
            driver_features: [0; 2],
            foreign_features: false,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            generation: 0,
            raised: 0,
            aftermath: None,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// `ConfigGeneration`.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// `Status`.
    pub(super) fn status(&self) -> DeviceStatus {
        self.status
    }

    /// All that the device offers.
    fn offered(&self) -> Features {
        self.device.features().union(ring_features())
    }

    /// `DeviceFeatures`: the selected word of what is offered.
    pub(super) fn device_features(&self) -> u32 {
        match self.device_features_select {
            0 => self.offered().0 as u32,
            1 => (self.offered().0 >> 32) as u32,
            _ => 0,
        }
    }

    /// `DriverFeatures`: the selected word of what the driver accepts. Fixed
    /// after negotiation (virtio 3.1.1).
    pub(super) fn accept_features(&mut self, value: u32) {
        if self.status.contains(DeviceStatus::FEATURES_OK) {
            return;
        }
        match self.driver_features.get_mut(self.driver_features_select as usize) {
            Some(word) => *word = value,
            None => self.foreign_features |= value != 0,
        }
    }

    /// What the driver accepts.
    pub(super) fn accepted(&self) -> Features {
        let [low, high] = self.driver_features;
        Features(u64::from(low) | u64::from(high) << 32)
    }

    /// Features in force: none before negotiation has ended.
    pub(super) fn features(&self) -> Features {
        self.accepted().when(self.status.contains(DeviceStatus::FEATURES_OK))
    }

    /// Whether buffers may be used.
    fn is_live(&self) -> bool {
        self.status.contains(DeviceStatus::DRIVER_OK)
            && !self.status.intersects(DeviceStatus::DEVICE_NEEDS_RESET | DeviceStatus::FAILED)
    }

    /// A driver's write of `Status`.
    pub(super) fn write_status(&mut self, value: u8) -> Progress {
        let value = DeviceStatus::from_bits_retain(value);
        if value.is_empty() {
            // Whoever resets a device may rely on none of its work being under way.
            if self.serving.contains(&true) {
                return Progress::Again;
            }
            self.reset();
            return Progress::Done;
        }
        let mut new = self.status.union(value.intersection(DRIVERS));
        let acceptable = self.offered().contains(self.accepted())
            && self.accepted().contains(F::VERSION_1.into())
            && !self.foreign_features;
        if !self.status.contains(DeviceStatus::FEATURES_OK) && !acceptable {
            new.remove(DeviceStatus::FEATURES_OK);
        }
        if !new.contains(DeviceStatus::FEATURES_OK) {
            new.remove(DeviceStatus::DRIVER_OK);
        }
        self.status = new;
        Progress::Done
    }

    /// Back to the state after power-on.
    pub(super) fn reset(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.status = DeviceStatus::empty();
        self.driver_features = [0; 2];
        self.foreign_features = false;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.generation = 0;
        self.raised = 0;
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.reset();
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(job) = self.device.stop() {
            self.aftermath = Some(job);
        }
    }

    /// Takes the job that is to be done with the lock released.
    pub(super) fn take_aftermath(&mut self) -> Option<D::Job> {
        self.aftermath.take()
    }

    /// The driver broke a rule: nothing goes on before a reset (virtio 2.1.2).
    pub(super) fn fail(&mut self, broken: Broken) {
        debug!("virtio {:?}: {broken}; the device waits for a reset", self.device.id());
        self.status.insert(DeviceStatus::DEVICE_NEEDS_RESET);
        if self.status.contains(DeviceStatus::DRIVER_OK) {
            self.raised |= CONFIGURATION_CHANGE;
        }
        self.stop();
    }

    /// `QueueReady`, of the selected queue.
    pub(super) fn enable_queue(&mut self, ready: bool) -> Progress {
        let features = self.features();
        let negotiated = self.status.contains(DeviceStatus::FEATURES_OK);
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else {
            return Progress::Done;
        };
        if !ready {
            return self.stop_queue(false);
        }
        if !queue.is_ready()
            && negotiated
            && let Err(broken) = queue.enable(features)
        {
            self.fail(broken);
        }
        Progress::Done
    }

    /// `QueueReset`, of the selected queue (virtio 2.6.1).
    pub(super) fn reset_queue(&mut self) -> Progress {
        match self.features().contains(F::RING_RESET.into()) {
            true => self.stop_queue(true),
            false => Progress::Done,
        }
    }

    /// Has the device let go of the selected queue; `wholly`, forget its layout too.
    fn stop_queue(&mut self, wholly: bool) -> Progress {
        let index = self.queue_select as usize;
        if self.serving.get(index) == Some(&true) {
            return Progress::Again;
        }
        if let Some(queue) = self.queues.get_mut(index) {
            if wholly {
                queue.reset();
            }
            queue.disable();
            self.device.reset_queue(index);
        }
        Progress::Done
    }

    /// The selected queue, as long as the driver may still lay it out.
    pub(super) fn queue_to_lay_out(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_select as usize).filter(|queue| !queue.is_ready())
    }

    /// Begins turns for queue `index`; false when there are none to be had.
    pub(super) fn claim(&mut self, index: usize) -> bool {
        let live = self.is_live() && self.queues.get(index).is_some_and(Queue::is_ready);
        match self.serving.get_mut(index) {
            // Whoever serves it sees what is there before it ends.
            Some(serving) if live && !*serving => {
                *serving = true;
                true
            }
            _ => false,
        }
    }

    /// Ends what [`State::claim`] began.
    pub(super) fn unclaim(&mut self, index: usize) {
        if let Some(serving) = self.serving.get_mut(index) {
            *serving = false;
        }
    }

    /// Gives the device one turn. Before it ends the turns, it has told the
    /// driver whether it wants to be notified.
    pub(super) fn step(
        &mut self,
        index: usize,
        memory: &dyn GuestMemory,
    ) -> Result<Step<D::Job>, Broken> {
        if !self.is_live() {
            return Ok(Step::Idle);
        }
        let step = self.with_io(memory, |device, io| device.step(index, io))?;
        let Some(queue) = self.queues.get_mut(index) else { return Ok(step) };
        match step {
            // A chain came meanwhile, of which the driver need not notify.
            Step::Starved(seen) if queue.listen(memory, seen)? => return Ok(Step::Done(0)),
            Step::Idle => queue.mute(memory)?,
            _ => {}
        }
        Ok(step)
    }

    /// Gives a job back to the device.
    pub(super) fn finish(&mut self, job: D::Job, epoch: u64, memory: &dyn GuestMemory) {
        if epoch != self.epoch || !self.is_live() {
            self.device.abandon(job);
        } else if let Err(broken) = self.with_io(memory, |device, io| device.finish(job, io)) {
            self.fail(broken);
        }
    }

    /// Runs `act` on the device and what the driver gave it.
    pub(super) fn with_io<R>(
        &mut self,
        memory: &dyn GuestMemory,
        act: impl FnOnce(&mut D, &mut Io<'_>) -> R,
    ) -> R {
        let mut io = Io {
            features: self.features(),
            live: self.is_live(),
            queues: &mut self.queues,
            memory,
            config_changed: false,
        };
        let answer = act(&mut self.device, &mut io);
        if io.config_changed {
            self.generation = self.generation.wrapping_add(1);
            if self.status.contains(DeviceStatus::DRIVER_OK) {
                self.raised |= CONFIGURATION_CHANGE;
            }
        }
        answer
    }

    /// Takes the bits to be raised, used buffers of which the driver wants to
    /// hear among them.
    pub(super) fn take_raised(&mut self, memory: &dyn GuestMemory) -> u32 {
        if self.is_live() {
            for index in 0..self.queues.len() {
                match self.queues.get_mut(index).map(|queue| queue.take_signal(memory)) {
                    Some(Ok(true)) => self.raised |= USED_BUFFER,
                    Some(Err(broken)) => self.fail(broken),
                    _ => {}
                }
            }
        }
        core::mem::take(&mut self.raised)
    }
}
