//! A packet to another virtual machine, and back (virtio 5.1).

use core::sync::atomic::{AtomicU64, Ordering};

use super::interrupts::{came, forget, give_way_for, idle_until};
use super::{arch, sample};
use crate::virtio::{Buffer, Device, Queue};

/// Device ID of a network port.
const PORT: u32 = 1;
const RECEIVE: u32 = 0;
const SEND: u32 = 1;
/// `virtio_net_hdr` with `num_buffers`.
const HEADER: usize = 12;
/// The shortest frame of Ethernet without its check sequence.
const FRAME: usize = 60;
const LENGTH: usize = HEADER + FRAME;
/// EtherType for local experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Ticks in which the other machine answers, if it is there already.
const PATIENCE: u64 = 2_000_000;
/// Ticks in which the other machine has gone back to its wait.
const SETTLE: u64 = 50_000;

static INCOMING: Queue = Queue::new();
static OUTGOING: Queue = Queue::new();
/// The device whose interrupts are taken, by its registers' address.
static DEVICE: AtomicU64 = AtomicU64::new(0);

/// Has this CPU take the interrupts of `device`, and of no other device.
pub(super) fn take_interrupts_of(device: &Device) {
    DEVICE.store(device.base, Ordering::Release);
    arch::take_device(device.interrupt);
}

/// The device has interrupted.
pub(crate) fn on_device() {
    Device { base: DEVICE.load(Ordering::Acquire), interrupt: 0 }.acknowledge();
}

/// A port that is ready, and a buffer for what comes in.
struct Port {
    device: Device,
    buffer: [u8; LENGTH],
}

impl Port {
    fn find() -> Option<Port> {
        let device = Device::find(PORT)?;
        device.begin();
        device.add(RECEIVE, &INCOMING);
        device.add(SEND, &OUTGOING);
        // Nobody waits for a packet to be gone.
        OUTGOING.want_no_interrupts();
        device.go();
        take_interrupts_of(&device);
        Some(Port { device, buffer: [0; LENGTH] })
    }

    /// Gives the buffer to the device.
    fn listen(&mut self) {
        INCOMING.submit(0, &[Buffer::written(self.buffer.as_mut_ptr() as u64, LENGTH)]);
        if INCOMING.wants_notice() {
            self.device.notify(RECEIVE);
        }
    }

    fn send(&self, packet: &[u8; LENGTH]) {
        while OUTGOING.take().is_some() {}
        OUTGOING.submit(0, &[Buffer::read(packet.as_ptr() as u64, LENGTH)]);
        self.device.notify(SEND);
    }
}

/// The row of a packet and its echo, from the first store to the packet's descriptor until the interrupt of the echo is
/// ended.
pub(super) fn ask() {
    let Some(mut port) = Port::find() else { return };
    let mut packet = [0u8; LENGTH];
    packet[HEADER..HEADER + 6].copy_from_slice(&BROADCAST);
    packet[HEADER + 6..HEADER + 12].copy_from_slice(&port.device.address());
    packet[HEADER + 12..HEADER + 14].copy_from_slice(&EXPERIMENT);
    arch::unmask();
    // The other machine may still be starting.
    port.listen();
    forget();
    while !came() {
        port.send(&packet);
        give_way_for(PATIENCE);
    }
    // What was asked several times is answered several times.
    give_way_for(PATIENCE);
    while INCOMING.take().is_some() {
        port.listen();
        give_way_for(PATIENCE);
    }
    let peer: [u8; 6] = core::array::from_fn(|at| port.buffer[HEADER + 6 + at]);
    packet[HEADER..HEADER + 6].copy_from_slice(&peer);
    sample("packet-echo", || {
        forget();
        let start = arch::now();
        port.send(&packet);
        idle_until(came);
        let ticks = arch::now() - start;
        assert!(INCOMING.take().is_some(), "an interrupt without a packet");
        port.listen();
        give_way_for(SETTLE);
        ticks
    });
}

/// Sends every packet back to where it came from.
pub(super) fn answer() {
    let Some(mut port) = Port::find() else { return };
    let own = port.device.address();
    let mut packet = [0u8; LENGTH];
    port.listen();
    loop {
        idle_until(came);
        forget();
        while INCOMING.take().is_some() {
            packet[HEADER..HEADER + 6].copy_from_slice(&port.buffer[HEADER + 6..HEADER + 12]);
            packet[HEADER + 6..HEADER + 12].copy_from_slice(&own);
            packet[HEADER + 12..].copy_from_slice(&port.buffer[HEADER + 12..]);
            port.send(&packet);
            port.listen();
        }
    }
}
