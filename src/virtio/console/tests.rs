use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::bus::Device;
use crate::virtio::testing::{EVENT_IDX, Guest, QUEUE};

#[derive(Default)]
struct Terminal {
    seen: Mutex<Vec<u8>>,
    writes: AtomicUsize,
    ready: AtomicUsize,
}

impl ConsoleSink for Terminal {
    fn put(&self, byte: u8) {
        self.seen.lock().unwrap().push(byte);
    }

    fn write(&self, bytes: &[u8]) {
        self.writes.fetch_add(1, SeqCst);
        self.seen.lock().unwrap().extend(bytes);
    }

    fn ready(&self) {
        self.ready.fetch_add(1, SeqCst);
    }
}

fn guest(features: u64) -> (Guest<Console>, Arc<Terminal>) {
    let terminal = Arc::new(Terminal::default());
    (Guest::ready(Console::new(terminal.clone()), features), terminal)
}

#[test]
fn a_buffer_of_output_costs_one_access() {
    for features in [0, EVENT_IDX] {
        let (mut guest, terminal) = guest(features);
        let text = b"Debian GNU/Linux\r\n".repeat(10);
        let (first, second) = text.split_at(100);
        let buffers = [(guest.buffer(first), 100, false), (guest.buffer(second), 80, false)];
        let head = guest.add(TRANSMIT, &buffers);
        assert_eq!(guest.notify(TRANSMIT), 1);
        assert_eq!(*terminal.seen.lock().unwrap(), text);
        assert_eq!(terminal.writes.load(SeqCst), 1);
        assert_eq!(guest.take(TRANSMIT), Some((head, 0)));
        assert_eq!(guest.line.edges(), 1);
        assert_eq!(guest.interrupt(), 1);
        assert!(!guest.line.level.load(SeqCst));
    }
}

#[test]
fn long_output_arrives_whole_and_in_pieces() {
    let (mut guest, terminal) = guest(0);
    let text: Vec<u8> = (0..100_000).map(|i| (i * 7 / 3) as u8).collect();
    let buffer = guest.buffer(&text);
    guest.add(TRANSMIT, &[(buffer, 60_000, false), (buffer + 60_000, 40_000, false)]);
    assert!(guest.notify(TRANSMIT) > 1);
    assert!(*terminal.seen.lock().unwrap() == text);
    assert!(guest.take(TRANSMIT).is_some());
    assert!(!guest.needs_reset());
}

#[test]
fn input_fills_buffers_in_the_order_of_arrival() {
    for features in [0, EVENT_IDX] {
        let (mut guest, _) = guest(features);
        let buffer = guest.allocate(64);
        for number in 0..4 {
            guest.add(RECEIVE, &[(buffer + 16 * number, 16, true)]);
        }
        guest.notify(RECEIVE);
        for byte in b"ls" {
            assert!(guest.device.receive(*byte));
        }
        assert_eq!(guest.interrupt(), 1);
        assert_eq!(guest.take(RECEIVE).map(|used| used.1), Some(1));
        assert_eq!(guest.take(RECEIVE).map(|used| used.1), Some(1));
        assert_eq!(guest.memory.get(buffer, 1), b"l");
        assert_eq!(guest.memory.get(buffer + 16, 1), b"s");
    }
}

#[test]
fn input_that_has_no_buffer_waits_and_is_refused_when_it_is_too_much() {
    for features in [0, EVENT_IDX] {
        let (mut guest, terminal) = guest(features);
        let taken = (0..1000u32).take_while(|i| guest.device.receive(*i as u8)).count();
        assert_eq!(taken, INPUT);
        assert_eq!(terminal.ready.load(SeqCst), 0);
        let buffer = guest.allocate(1000);
        guest.add(RECEIVE, &[(buffer, 100, true), (buffer + 100, 1, true)]);
        guest.notify(RECEIVE);
        assert_eq!(guest.take(RECEIVE), Some((0, 101)));
        assert_eq!(terminal.ready.load(SeqCst), 1, "the sender must learn that there is space");
        guest.add(RECEIVE, &[(buffer + 101, 800, true)]);
        guest.notify(RECEIVE);
        assert_eq!(guest.take(RECEIVE).map(|used| used.1), Some(155));
        let expected: Vec<u8> = (0..256u32).map(|i| i as u8).collect();
        assert_eq!(guest.memory.get(buffer, 256), expected);
    }
}

#[test]
fn a_refused_sender_learns_of_a_reset_and_of_a_broken_driver() {
    for breaks in [false, true] {
        let (mut guest, terminal) = guest(0);
        while guest.device.receive(b'x') {}
        if breaks {
            guest.offer(RECEIVE, QUEUE);
            guest.notify(RECEIVE);
            assert!(guest.needs_reset());
        } else {
            guest.device.reset();
        }
        assert_eq!(terminal.ready.load(SeqCst), 1);
        assert!(guest.device.receive(b'y'), "lost, not refused");
        guest.start(0);
        let buffer = guest.buffer(b"?");
        guest.add(RECEIVE, &[(buffer, 1, true)]);
        guest.notify(RECEIVE);
        assert_eq!(guest.take(RECEIVE), None);
    }
}
