use std::sync::Mutex;

use super::*;
use crate::network::port::PortCounters;
use crate::network::{PortMode, PortSettings, Switch, VlanId};
use crate::virtio::testing::{EVENT_IDX, Guest};

const CSUM: u64 = 1;
const MRG_RXBUF: u64 = 1 << 15;

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, number])
}

fn guest(switch: &Arc<Switch>, number: u8, features: u64) -> (Guest<Net>, Arc<Port>) {
    let mode = PortMode::Access(VlanId::UNTAGGED);
    let port = switch.add_port(PortSettings { mac: Some(mac(number)), mode }).unwrap();
    (Guest::ready(Net::new(port.clone(), mac(number)), features), port)
}

fn frame(to: u8, from: u8, length: usize) -> Vec<u8> {
    let header = [&mac(to).0[..], &mac(from).0, &[8, 0]].concat();
    header.into_iter().chain((0..).map(|i: usize| (i / 3) as u8)).take(length).collect()
}

/// Sends `frame` with a header of virtio before it.
fn send(guest: &mut Guest<Net>, header: [u8; 12], frame: &[u8]) {
    let head = guest.buffer(&header);
    let body = guest.buffer(frame);
    let (first, second) = (frame.len() as u32 / 3, frame.len() as u32 - frame.len() as u32 / 3);
    guest.add(
        TRANSMIT,
        &[(head, 12, false), (body, first, false), (body + u64::from(first), second, false)],
    );
    guest.notify(TRANSMIT);
    assert!(guest.take(TRANSMIT).is_some());
}

/// Remembers frames.
#[derive(Default)]
struct Tap(Mutex<Vec<Vec<u8>>>);

impl PortSink for Tap {
    fn deliver(&self, frame: &[u8]) -> bool {
        self.0.lock().unwrap().push(frame.to_vec());
        true
    }
}

#[test]
fn a_frame_leaves_as_it_was_sent() {
    let switch = Switch::new();
    let (mut guest, _) = guest(&switch, 0, 0);
    let settings = PortSettings { mac: None, mode: PortMode::Trunk };
    let (uplink, tap) = (switch.add_port(settings).unwrap(), Arc::new(Tap::default()));
    uplink.connect(&tap);
    for length in [14, 60, 1514] {
        let frame = frame(9, 0, length);
        send(&mut guest, [0; 12], &frame);
        assert_eq!(std::mem::take(&mut *tap.0.lock().unwrap()), [frame]);
    }
    send(&mut guest, [0; 12], &frame(9, 0, 1515));
    assert!(tap.0.lock().unwrap().is_empty());
    assert!(!guest.needs_reset());
}

#[test]
fn checksums_are_completed_only_as_negotiated() {
    for (features, passes) in [(0, false), (CSUM, true)] {
        let switch = Switch::new();
        let (mut guest, _) = guest(&switch, 0, features);
        let settings = PortSettings { mac: None, mode: PortMode::Trunk };
        let (uplink, tap) = (switch.add_port(settings).unwrap(), Arc::new(Tap::default()));
        uplink.connect(&tap);
        let plain = frame(9, 0, 100);
        send(&mut guest, [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &plain);
        let seen = tap.0.lock().unwrap();
        assert_eq!(seen.len(), usize::from(passes));
        if passes {
            assert_eq!(seen[0][..40], plain[..40]);
            assert_ne!(seen[0][40..42], plain[40..42]);
            assert_eq!(seen[0][42..], plain[42..]);
        }
    }
}

#[test]
fn a_frame_goes_into_one_buffer_or_into_several_when_they_may_be_merged() {
    for (features, sizes, expected) in [
        (0, &[2000][..], Some(&[1012][..])),
        (MRG_RXBUF, &[2000], Some(&[1012])),
        (MRG_RXBUF, &[12, 500, 500, 9], Some(&[12, 500, 500])),
        (MRG_RXBUF, &[100, 2000], Some(&[100, 912])),
        (0, &[100, 2000], None),
    ] {
        for features in [features, features | EVENT_IDX] {
            let (mut guest, _) = guest(&Switch::new(), 0, features);
            let space = guest.allocate(4096);
            let mut at = space;
            for size in sizes {
                guest.add(RECEIVE, &[(at, *size, true)]);
                at += u64::from(*size);
            }
            guest.notify(RECEIVE);
            let frame = frame(0, 1, 1000);
            assert_eq!(guest.device.deliver(&frame), expected.is_some());
            let used: Vec<u32> = std::iter::from_fn(|| guest.take(RECEIVE)).map(|u| u.1).collect();
            assert_eq!(used, expected.unwrap_or(&[0]));
            assert_eq!(guest.interrupt(), 1);
            if let Some(parts) = expected {
                let header = guest.memory.get(space, 12);
                assert_eq!(header[..10], [0; 10]);
                assert_eq!(usize::from(header[10]), parts.len());
                let bytes = guest.memory.get(space, 1012);
                assert_eq!(bytes[12..], frame);
            }
        }
    }
}

#[test]
fn frames_wait_in_order_for_buffers_and_are_lost_when_there_are_too_many() {
    for features in [0, EVENT_IDX, MRG_RXBUF, MRG_RXBUF | EVENT_IDX] {
        let switch = Switch::new();
        let (mut guest, port) = guest(&switch, 0, features);
        let settings = PortSettings { mac: None, mode: PortMode::Trunk };
        let other = switch.add_port(settings).unwrap();
        port.connect(&guest.device);
        let lengths: Vec<usize> = (0..100).map(|i| 60 + i * 14).collect();
        for length in &lengths {
            other.send(&frame(0, 1, *length));
        }
        let counters = port.counters();
        assert_eq!(counters.received + counters.lost, 100);
        assert!(counters.lost > 0, "64 KiB at most");
        let space = guest.allocate(2048);
        for length in &lengths[..counters.received as usize] {
            guest.add(RECEIVE, &[(space, 2048, true)]);
            guest.notify(RECEIVE);
            assert_eq!(guest.take(RECEIVE).map(|used| used.1), Some(*length as u32 + 12));
            assert_eq!(guest.memory.get(space + 12, *length), frame(0, 1, *length));
        }
        guest.add(RECEIVE, &[(space, 2048, true)]);
        guest.notify(RECEIVE);
        assert_eq!(guest.take(RECEIVE), None);
    }
}

#[test]
fn a_driver_that_is_not_ready_receives_nothing() {
    let mut guest = Guest::new(Net::new(
        Switch::new().add_port(PortSettings { mac: None, mode: PortMode::Trunk }).unwrap(),
        mac(0),
    ));
    assert!(!guest.device.deliver(&frame(0, 1, 60)));
    guest.start(0);
    assert!(guest.device.deliver(&frame(0, 1, 60)));
    guest.start(0);
    let space = guest.allocate(2048);
    guest.add(RECEIVE, &[(space, 2048, true)]);
    guest.notify(RECEIVE);
    assert_eq!(guest.take(RECEIVE), None, "what came before the reset is gone");
}

#[test]
fn the_configuration_has_the_address_and_a_link() {
    let (guest, _) = guest(&Switch::new(), 7, 0);
    assert_eq!(guest.read(0x100), u32::from_le_bytes([0x52, 0x54, 0, 0]));
    assert_eq!(guest.read(0x104), u32::from_le_bytes([0, 7, 1, 0]));
}

#[test]
fn two_guests_that_send_to_each_other_at_once_do_not_block() {
    let switch = Switch::new();
    let mut guests: Vec<_> = (0..2).map(|n| guest(&switch, n, EVENT_IDX)).collect();
    for (guest, port) in &guests {
        port.connect(&guest.device);
    }
    std::thread::scope(|scope| {
        for (number, (guest, _)) in guests.iter_mut().enumerate() {
            scope.spawn(move || {
                let (to, from) = (1 - number as u8, number as u8);
                for _ in 0..500 {
                    let bytes = [vec![0; 12], frame(to, from, 1000)].concat();
                    let buffer = guest.buffer(&bytes);
                    guest.add(TRANSMIT, &[(buffer, bytes.len() as u32, false)]);
                    guest.notify(TRANSMIT);
                    assert!(guest.take(TRANSMIT).is_some());
                }
            });
        }
    });
    for (number, (_, port)) in guests.iter().enumerate() {
        let counters = port.counters();
        assert_eq!(counters.sent, 500, "{number}");
        assert_eq!(counters.received + counters.lost, 500);
    }
}

#[test]
fn a_storm_of_broadcasts_leaves_room_for_frames_to_one_station() {
    let switch = Switch::new();
    let (guest, port) = guest(&switch, 0, 0);
    port.connect(&guest.device);
    let (storm, peer) = (self::guest(&switch, 1, 0).1, self::guest(&switch, 2, 0).1);
    let broadcast = [&[0xff; 6][..], &frame(0, 1, 1000)[6..]].concat();
    for _ in 0..200 {
        storm.send(&broadcast);
    }
    assert!(port.counters().lost > 100, "{:?}", port.counters());
    let before = port.counters();
    for _ in 0..20 {
        peer.send(&frame(0, 2, 1000));
    }
    assert_eq!(port.counters(), PortCounters { received: before.received + 20, ..before });
}

#[test]
fn a_frame_to_many_ports_counts_as_many() {
    let switch = Switch::new();
    let (mut sender, _) = guest(&switch, 0, 0);
    let _others: Vec<_> = (1..40).map(|number| guest(&switch, number, 0)).collect();
    let broadcast = [&[0; 12][..], &[0xff; 6], &frame(1, 0, 1000)[6..]].concat();
    let buffer = sender.buffer(&broadcast);
    for _ in 0..8 {
        sender.add(TRANSMIT, &[(buffer, broadcast.len() as u32, false)]);
    }
    assert!(sender.notify(TRANSMIT) >= 3, "all in one access");
}
