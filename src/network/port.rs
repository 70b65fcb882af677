//! A port of the switch: who may send what through it, and who gets what.

use alloc::sync::{Arc, Weak};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;

use crate::network::frame::{Frame, MacAddress, VlanId};
use crate::network::switch::Switch;

/// What is plugged into a port.
pub trait PortSink: Send + Sync {
    /// Takes a frame from the switch, which holds no lock. False when it is
    /// lost because there is no space for it. Must not block, and must not
    /// send.
    fn deliver(&self, frame: &[u8]) -> bool;
}

/// Which LANs a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortMode {
    /// On one LAN; its frames carry no tag outside of the switch.
    Access(VlanId),
    /// On all LANs; frames carry tags but those of [`VlanId::UNTAGGED`].
    Trunk,
}

/// What a port lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSettings {
    /// The only address that may send through the port; `None` on an uplink,
    /// behind which there are many.
    pub mac: Option<MacAddress>,
    /// Its LANs.
    pub mode: PortMode,
}

impl PortSettings {
    /// Whether the port is on `vlan`.
    pub(super) fn is_on(&self, vlan: VlanId) -> bool {
        match self.mode {
            PortMode::Access(own) => own == vlan,
            PortMode::Trunk => true,
        }
    }
}

impl PortSettings {
    /// Whether behind the port there may be somebody for whom `frame` is.
    pub(super) fn may_concern(&self, frame: &Frame<'_>) -> bool {
        frame.destination.is_group() || self.mac.is_none_or(|mac| mac == frame.destination)
    }
}

/// Why the switch did not forward a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    Spoofed,
    Vlan,
}

/// Frames that passed a port or did not, since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    malformed: AtomicU64,
    spoofed: AtomicU64,
    vlan: AtomicU64,
    lost: AtomicU64,
}

/// Numbers of frames, as seen by what is plugged into a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Sent and forwarded.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Sent, not forwarded: too short, too long, or from a group address.
    pub malformed: u64,
    /// Sent, not forwarded: from an address that belongs to another port.
    pub spoofed: u64,
    /// Sent, not forwarded: tagged for a LAN that the port is not on.
    pub vlan: u64,
    /// For this port, and lost: nobody has plugged in or runs a driver, or there was no space.
    pub lost: u64,
}

impl fmt::Display for PortCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortCounters { sent, received, malformed, spoofed, vlan, lost } = self;
        write!(
            f,
            "sent {sent}, received {received}, lost {lost}; refused: malformed {malformed}, from another's address \
             {spoofed}, tagged for another VLAN {vlan}"
        )
    }
}

/// A port of a [`Switch`].
pub struct Port {
    switch: Weak<Switch>,
    pub(super) number: usize,
    pub(super) settings: PortSettings,
    counters: Counters,
    sink: Once<Weak<dyn PortSink>>,
}

impl Port {
    pub(super) fn new(switch: &Arc<Switch>, number: usize, settings: PortSettings) -> Self {
        Port {
            switch: Arc::downgrade(switch),
            number,
            settings,
            counters: Counters::default(),
            sink: Once::new(),
        }
    }

    /// Plugs `sink` in, the first time that it is called. The port does not
    /// keep it alive.
    pub fn connect<S: PortSink + 'static>(&self, sink: &Arc<S>) {
        self.sink.call_once(|| {
            let sink: Weak<S> = Arc::downgrade(sink);
            sink
        });
    }

    /// Sends a frame to whom it concerns. To be called with no lock held that
    /// a receiver might take. Gives the number of ports to which it went.
    pub fn send(&self, frame: &[u8]) -> usize {
        let Some(switch) = self.switch.upgrade() else { return 0 };
        let (counter, copies) = match switch.forward(self, frame) {
            Ok(copies) => (&self.counters.sent, copies),
            Err(Refusal::Malformed) => (&self.counters.malformed, 0),
            Err(Refusal::Spoofed) => (&self.counters.spoofed, 0),
            Err(Refusal::Vlan) => (&self.counters.vlan, 0),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        copies
    }

    /// What was counted so far.
    pub fn counters(&self) -> PortCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PortCounters {
            sent: read(&self.counters.sent),
            received: read(&self.counters.received),
            malformed: read(&self.counters.malformed),
            spoofed: read(&self.counters.spoofed),
            vlan: read(&self.counters.vlan),
            lost: read(&self.counters.lost),
        }
    }

    /// Gives `frame` to what is plugged in.
    pub(super) fn deliver(&self, frame: &[u8]) {
        let sink = self.sink.get().and_then(Weak::upgrade);
        let counter = match sink.is_some_and(|sink| sink.deliver(frame)) {
            true => &self.counters.received,
            false => &self.counters.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
