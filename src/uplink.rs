//! The host's network devices on the virtual network.
//!
//! Lock order: none here. A device locks itself, and is not locked while a
//! frame of it goes through the switch.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use log::{info, warn};
use spin::Once;

use crate::address::Instant;
use crate::config::UplinkConfig;
use crate::network::frame::LONGEST_TAGGED;
use crate::network::{
    MacAddress, Port, PortCounters, PortMode, PortSettings, PortSink, Switch, VlanId,
};

/// Most frames that are taken from a device before others have a turn.
const BATCH: usize = 64;

/// Looks at a device without interrupt in a second.
const POLLS_PER_SECOND: u64 = 1000;

/// A network device of the host.
pub trait HostNic: Send + Sync {
    /// Its own address.
    fn mac(&self) -> MacAddress;

    /// Sends a frame; false when there is no room for it. Never waits.
    fn send(&self, frame: &[u8]) -> bool;

    /// Copies the next received frame into `frame`, and returns its length;
    /// `None` when there is none.
    fn receive(&self, frame: &mut [u8]) -> Option<usize>;

    /// Whether it interrupts when it has received something; the backend then
    /// calls [`Uplinks::notify`].
    fn interrupts(&self) -> bool;
}

/// A device of the host and its port of the switch.
struct Uplink {
    /// The number of the host's device.
    number: usize,
    nic: Arc<dyn HostNic>,
    port: Arc<Port>,
}

impl PortSink for Uplink {
    fn deliver(&self, frame: &[u8]) -> bool {
        self.nic.send(frame)
    }
}

/// All uplinks of the host.
pub struct Uplinks {
    list: Once<Vec<Arc<Uplink>>>,
    /// Some device may have received something.
    pending: AtomicBool,
    /// Some device does not interrupt.
    polled: AtomicBool,
}

impl Default for Uplinks {
    fn default() -> Self {
        Self::new()
    }
}

impl Uplinks {
    /// None.
    pub const fn new() -> Self {
        let (pending, polled) = (AtomicBool::new(false), AtomicBool::new(false));
        Uplinks { list: Once::new(), pending, polled }
    }

    /// Joins devices of the host to `switch`, as `configs` say. To be called once. What cannot be
    /// is left out and said in the log.
    pub fn connect(
        &self,
        configs: &[UplinkConfig],
        nics: &[Arc<dyn HostNic>],
        switch: &Arc<Switch>,
    ) {
        self.list.call_once(|| {
            let mut list = Vec::new();
            for config in configs {
                let number = usize::try_from(config.nic).unwrap_or(usize::MAX);
                let Some(nic) = nics.get(number) else {
                    warn!(
                        "uplink: the host has {} network devices, and none with number {number}",
                        nics.len()
                    );
                    continue;
                };
                let vlan = config.vlan.and_then(VlanId::new).unwrap_or(VlanId::UNTAGGED);
                let settings = PortSettings { mac: None, mode: PortMode::Access(vlan) };
                match switch.add_port(settings) {
                    Ok(port) => {
                        info!("uplink: network device {number}, {}", nic.mac());
                        let uplink = Arc::new(Uplink { number, nic: nic.clone(), port });
                        uplink.port.connect(&uplink);
                        list.push(uplink);
                    }
                    Err(reason) => warn!("uplink: {reason}"),
                }
            }
            let polled = list.iter().any(|uplink: &Arc<Uplink>| !uplink.nic.interrupts());
            self.polled.store(polled, Ordering::Release);
            list
        });
    }

    /// What passed the ports of the host's devices, behind the device's number, in the order of the configuration.
    pub fn counters(&self) -> impl Iterator<Item = (usize, PortCounters)> {
        let uplinks = self.list.get().into_iter().flatten();
        uplinks.map(|uplink| (uplink.number, uplink.port.counters()))
    }

    /// A device has interrupted. The caller then has its CPU look around.
    pub fn notify(&self) {
        self.pending.store(true, Ordering::Release);
    }

    /// Whether [`Self::serve`] has something to do. `poller`: this is the CPU that looks at
    /// devices without interrupt.
    pub fn wants_attention(&self, poller: bool) -> bool {
        self.pending.load(Ordering::Acquire) || (poller && self.polled.load(Ordering::Acquire))
    }

    /// Brings received frames into the switch. Returns when to do that again, if nothing happens
    /// before; `frequency` is that of `now`, ticks per second.
    pub fn serve(&self, now: Instant, frequency: u64, poller: bool) -> Option<Instant> {
        self.pending.store(false, Ordering::Release);
        let mut more = false;
        for uplink in self.list.get().into_iter().flatten() {
            let mut frame = [0; LONGEST_TAGGED];
            for taken in 1..=BATCH {
                let Some(length) = uplink.nic.receive(&mut frame) else { break };
                uplink.port.send(frame.get(..length).unwrap_or_default());
                more |= taken == BATCH;
            }
        }
        if more {
            return Some(now);
        }
        let poll = poller && self.polled.load(Ordering::Acquire);
        let interval = frequency.checked_div(POLLS_PER_SECOND).unwrap_or(0);
        poll.then(|| Instant(now.0.saturating_add(interval)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec;
    use std::sync::Mutex;

    /// A device with received and sent frames.
    struct Wire {
        received: Mutex<VecDeque<Vec<u8>>>,
        sent: Mutex<Vec<Vec<u8>>>,
        interrupts: bool,
    }

    impl Wire {
        fn new(interrupts: bool) -> Arc<Self> {
            let (received, sent) = (Mutex::new(VecDeque::new()), Mutex::new(Vec::new()));
            Arc::new(Wire { received, sent, interrupts })
        }
    }

    impl HostNic for Wire {
        fn mac(&self) -> MacAddress {
            MacAddress([2, 0, 0, 0, 0, 9])
        }

        fn send(&self, frame: &[u8]) -> bool {
            self.sent.lock().unwrap().push(frame.to_vec());
            true
        }

        fn receive(&self, frame: &mut [u8]) -> Option<usize> {
            let next = self.received.lock().unwrap().pop_front()?;
            frame[..next.len()].copy_from_slice(&next);
            Some(next.len())
        }

        fn interrupts(&self) -> bool {
            self.interrupts
        }
    }

    struct Guest(Mutex<Vec<Vec<u8>>>);

    impl PortSink for Guest {
        fn deliver(&self, frame: &[u8]) -> bool {
            self.0.lock().unwrap().push(frame.to_vec());
            true
        }
    }

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
        frame.resize(64, 0);
        frame
    }

    /// An uplink beside a guest with address 1, both on `vlan`.
    fn setup(wire: &Arc<Wire>, vlan: Option<u16>) -> (Uplinks, Arc<Switch>, Arc<Port>, Arc<Guest>) {
        let switch = Switch::new();
        let lan = vlan.and_then(VlanId::new).unwrap_or(VlanId::UNTAGGED);
        let mac = Some(MacAddress([2, 0, 0, 0, 0, 1]));
        let port = switch.add_port(PortSettings { mac, mode: PortMode::Access(lan) }).unwrap();
        let guest = Arc::new(Guest(Mutex::new(Vec::new())));
        port.connect(&guest);
        let uplinks = Uplinks::new();
        let nics: [Arc<dyn HostNic>; 1] = [wire.clone()];
        let missing = UplinkConfig { nic: 1, vlan: None };
        uplinks.connect(&[missing, UplinkConfig { nic: 0, vlan }], &nics, &switch);
        (uplinks, switch, port, guest)
    }

    #[test]
    fn frames_pass_the_uplink_both_ways() {
        for vlan in [None, Some(7)] {
            let wire = Wire::new(true);
            let (uplinks, _switch, port, guest) = setup(&wire, vlan);
            port.send(&frame(9, 1));
            assert_eq!(*wire.sent.lock().unwrap(), [frame(9, 1)]);
            wire.received.lock().unwrap().push_back(frame(1, 9));
            assert!(!uplinks.wants_attention(true));
            uplinks.notify();
            assert!(uplinks.wants_attention(false));
            assert_eq!(uplinks.serve(Instant(5), 1000, true), None);
            assert!(!uplinks.wants_attention(true));
            assert_eq!(*guest.0.lock().unwrap(), [frame(1, 9)]);
            // Nothing came back to where it came from.
            assert_eq!(wire.sent.lock().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_device_without_interrupt_is_looked_at_by_one_cpu() {
        let wire = Wire::new(false);
        let (uplinks, ..) = setup(&wire, None);
        assert!(uplinks.wants_attention(true) && !uplinks.wants_attention(false));
        assert_eq!(uplinks.serve(Instant(5), 10_000, true), Some(Instant(15)));
        assert_eq!(uplinks.serve(Instant(5), 10_000, false), None);
    }

    #[test]
    fn a_flood_leaves_turns_for_others() {
        let wire = Wire::new(true);
        let (uplinks, _switch, _port, guest) = setup(&wire, None);
        wire.received.lock().unwrap().extend((0..BATCH + 1).map(|_| frame(1, 9)));
        assert_eq!(uplinks.serve(Instant(5), 1000, false), Some(Instant(5)));
        assert_eq!(guest.0.lock().unwrap().len(), BATCH);
        assert_eq!(uplinks.serve(Instant(6), 1000, false), None);
        assert_eq!(guest.0.lock().unwrap().len(), BATCH + 1);
    }
}
