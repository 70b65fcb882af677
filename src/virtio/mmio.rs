//! Registers of a transport (virtio 4.2.2, "MMIO Device Register Layout",
//! version 2).
//!
//! Control registers are read and written as aligned words; other accesses
//! read as zero and write nothing, as in other machines, since a guest's
//! mistake is no fault of its bus.

use virtio_spec::DeviceStatus;

use crate::bus::{BusFault, Device, Progress, Width};
use crate::virtio::device::VirtioDevice;
use crate::virtio::state::State;
use crate::virtio::transport::Transport;

/// Offsets of registers (virtio 4.2.2).
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_LEN_HIGH: u64 = 0x0b4;
    pub(super) const SHM_BASE_LOW: u64 = 0x0b8;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const QUEUE_RESET: u64 = 0x0c0;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// `MagicValue`: "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// `Version` of a device that is not legacy.
const VERSION: u32 = 2;
/// `VendorID`.
const VENDOR: u32 = u32::from_le_bytes(*b"BNSH");
/// `SHMLen` and `SHMBase` where there is no shared memory.
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// `value` with its low word replaced.
const fn with_low(value: u64, word: u32) -> u64 {
    value & !0xffff_ffff | word as u64
}

/// `value` with its high word replaced.
const fn with_high(value: u64, word: u32) -> u64 {
    value & 0xffff_ffff | (word as u64) << 32
}

impl<D: VirtioDevice> State<D> {
    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_select as usize);
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => u8::from(self.device.id()).into(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => self.device_features(),
            register::QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max().into()),
            register::QUEUE_READY => queue.is_some_and(|queue| queue.is_ready()).into(),
            register::STATUS => self.status().bits().into(),
            register::SHM_LEN_LOW
            | register::SHM_LEN_HIGH
            | register::SHM_BASE_LOW
            | register::SHM_BASE_HIGH => NO_SHARED_MEMORY,
            register::CONFIG_GENERATION => self.generation(),
            // A reset of a queue ends with the write that begins it, so `QueueReset` reads as zero.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) -> Progress {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::DRIVER_FEATURES => self.accept_features(value),
            register::DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::QUEUE_SEL => self.queue_select = value,
            register::QUEUE_READY => return self.enable_queue(value & 1 != 0),
            register::QUEUE_RESET if value == 1 => return self.reset_queue(),
            register::STATUS => return self.write_status(value.to_le_bytes()[0]),
            _ => {
                if let Some(queue) = self.queue_to_lay_out() {
                    let layout = &mut queue.layout;
                    match offset {
                        register::QUEUE_NUM => layout.size = value,
                        register::QUEUE_DESC_LOW => {
                            layout.descriptors = with_low(layout.descriptors, value);
                        }
                        register::QUEUE_DESC_HIGH => {
                            layout.descriptors = with_high(layout.descriptors, value);
                        }
                        register::QUEUE_DRIVER_LOW => {
                            layout.available = with_low(layout.available, value);
                        }
                        register::QUEUE_DRIVER_HIGH => {
                            layout.available = with_high(layout.available, value);
                        }
                        register::QUEUE_DEVICE_LOW => layout.used = with_low(layout.used, value),
                        register::QUEUE_DEVICE_HIGH => layout.used = with_high(layout.used, value),
                        _ => {}
                    }
                }
            }
        }
        Progress::Done
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8]) {
        // 2.5.1: not before the driver knows what is there.
        if self.status().contains(DeviceStatus::DRIVER) {
            let features = self.accepted();
            self.device.write_config(offset, bytes, features);
        }
    }
}

/// The place in the configuration space of an access at `offset`.
fn config_offset(offset: u64) -> Option<usize> {
    offset.checked_sub(register::CONFIG).and_then(|offset| usize::try_from(offset).ok())
}

impl<D: VirtioDevice> Device for Transport<D> {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        if let Some(place) = config_offset(offset) {
            let mut bytes = [0; 8];
            let part = bytes.get_mut(..width.bytes() as usize).unwrap_or_default();
            self.inspect(|state| state.device.read_config(place, part));
            return Ok(u64::from_le_bytes(bytes));
        }
        if width != Width::Word || !offset.is_multiple_of(width.bytes()) {
            return Ok(0);
        }
        let value = match offset {
            register::INTERRUPT_STATUS => self.interrupt.status(),
            _ => self.inspect(|state| state.read_register(offset)),
        };
        Ok(value.into())
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusFault> {
        self.write_some(offset, width, value).map(|_| ())
    }

    fn write_some(&self, offset: u64, width: Width, value: u64) -> Result<Progress, BusFault> {
        if let Some(place) = config_offset(offset) {
            let bytes = value.to_le_bytes();
            let part = bytes.get(..width.bytes() as usize).unwrap_or_default();
            self.change(|state| state.write_config(place, part));
            return Ok(Progress::Done);
        }
        if width != Width::Word || !offset.is_multiple_of(width.bytes()) {
            return Ok(Progress::Done);
        }
        let value = value as u32;
        Ok(match offset {
            register::QUEUE_NOTIFY => self.serve(value as usize),
            register::INTERRUPT_ACK => {
                self.interrupt.acknowledge(value);
                Progress::Done
            }
            _ => self.change(|state| state.write_register(offset, value)),
        })
    }

    fn reset(&self) {
        self.change(State::reset);
    }
}

#[cfg(test)]
mod tests;
