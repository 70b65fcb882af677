use super::*;
use crate::machine::clock::fake::FakeLine;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use proptest::prelude::*;
use std::sync::Mutex;

#[derive(Default)]
struct Console {
    sent: Mutex<Vec<u8>>,
    ready: AtomicU64,
}

impl ConsoleSink for Console {
    fn put(&self, byte: u8) {
        self.sent.lock().unwrap().push(byte);
    }
    fn ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }
}

fn port() -> (Arc<FakeLine>, Arc<Console>, Uart16550) {
    let (line, console) = (Arc::new(FakeLine::default()), Arc::new(Console::default()));
    let uart = Uart16550::new(line.clone(), console.clone());
    write(&uart, offset::MODEM_CONTROL, 0x0b);
    read(&uart, offset::MODEM_STATUS);
    (line, console, uart)
}

fn read(uart: &Uart16550, register: u64) -> u8 {
    uart.read(register, Width::Byte).unwrap() as u8
}

fn write(uart: &Uart16550, register: u64, value: u8) {
    uart.write(register, Width::Byte, value.into()).unwrap();
}

#[test]
fn bytes_go_out_and_the_transmitter_is_always_empty() {
    let (_, console, uart) = port();
    for byte in *b"hello" {
        assert_eq!(read(&uart, offset::LINE_STATUS), 0x60);
        write(&uart, offset::DATA, byte);
    }
    assert_eq!(*console.sent.lock().unwrap(), b"hello");
}

#[test]
fn enabling_the_transmitter_interrupt_raises_it_each_time() {
    let (line, _, uart) = port();
    for edge in 1..=3 {
        write(&uart, offset::INTERRUPT_ENABLE, 2);
        assert_eq!((line.level(), line.edges()), (true, edge));
        assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_TRANSMITTER_EMPTY);
        assert!(!line.level(), "reading IIR ends it");
        assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_NONE);
        write(&uart, offset::INTERRUPT_ENABLE, 0);
    }
    write(&uart, offset::INTERRUPT_ENABLE, 2);
    let edges = line.edges();
    write(&uart, offset::DATA, b'x');
    assert_eq!(line.edges(), edges + 1, "a byte that is sent makes a new edge");
}

#[test]
fn received_bytes_interrupt_at_the_trigger_or_by_time_out() {
    let (line, console, uart) = port();
    write(&uart, offset::INTERRUPT_ENABLE, 1);
    write(&uart, offset::IDENTIFICATION, 0x81);
    assert_eq!(uart.receive(b"abc"), 3);
    assert!(line.level());
    assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_FIFOS | IIR_TIME_OUT);
    assert_eq!(uart.receive(&[b'd'; 20]), 13, "the FIFO holds 16");
    assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_FIFOS | IIR_RECEIVED);
    assert_eq!(read(&uart, offset::LINE_STATUS), 0x61);
    for expected in *b"abcddddddddddddd" {
        assert_eq!(read(&uart, offset::DATA), expected);
    }
    assert_eq!(console.ready.load(Ordering::Relaxed), 2, "FIFOs on, FIFO no longer full");
    assert!(!line.level());
    assert_eq!(read(&uart, offset::DATA), 0);
}

#[test]
fn without_fifos_one_byte_fits() {
    let (_, console, uart) = port();
    assert_eq!(uart.receive(b"ab"), 1);
    assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_NONE, "no FIFO bits, none enabled");
    write(&uart, offset::IDENTIFICATION, 1);
    assert_eq!(read(&uart, offset::LINE_STATUS), 0x60, "switching the FIFOs on clears");
    assert!(console.ready.load(Ordering::Relaxed) > 0);
}

#[test]
fn loopback_connects_data_and_modem_lines_as_drivers_probe_it() {
    let (line, console, uart) = port();
    write(&uart, offset::INTERRUPT_ENABLE, 1);
    for (control, status) in
        [(0x10, 0x00), (0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1a, 0x90)]
    {
        write(&uart, offset::MODEM_CONTROL, control);
        assert_eq!(read(&uart, offset::MODEM_STATUS) & 0xf0, status, "{control:#x}");
    }
    write(&uart, offset::DATA, 0x5a);
    assert_eq!(uart.receive(b"x"), 0);
    assert_eq!(read(&uart, offset::LINE_STATUS), 0x61);
    assert!(!line.level(), "the interrupt is cut off");
    write(&uart, offset::DATA, 0x5b);
    assert_eq!(read(&uart, offset::LINE_STATUS), 0x63, "overrun");
    assert_eq!(read(&uart, offset::LINE_STATUS), 0x61, "which reading clears");
    assert_eq!(read(&uart, offset::DATA), 0x5a);
    assert!(console.sent.lock().unwrap().is_empty());
}

#[test]
fn modem_changes_are_reported_once() {
    let (line, _, uart) = port();
    write(&uart, offset::INTERRUPT_ENABLE, 8);
    write(&uart, offset::MODEM_CONTROL, 0x14);
    write(&uart, offset::MODEM_CONTROL, 0x08);
    assert!(line.level());
    assert_eq!(read(&uart, offset::IDENTIFICATION), IIR_MODEM_STATUS);
    assert_eq!(read(&uart, offset::MODEM_STATUS), 0xbf);
    assert_eq!(read(&uart, offset::MODEM_STATUS), 0xb0);
    assert!(!line.level());
}

#[test]
fn the_divisor_latch_hides_data_and_interrupt_enable() {
    let (_, console, uart) = port();
    write(&uart, offset::LINE_CONTROL, 0x83);
    write(&uart, offset::DATA, 0x34);
    write(&uart, offset::INTERRUPT_ENABLE, 0x12);
    assert_eq!(read(&uart, offset::DATA), 0x34);
    assert_eq!(read(&uart, offset::INTERRUPT_ENABLE), 0x12);
    write(&uart, offset::LINE_CONTROL, 0x03);
    assert_eq!(read(&uart, offset::INTERRUPT_ENABLE), 0);
    assert!(console.sent.lock().unwrap().is_empty());
}

#[test]
fn scratch_keeps_its_byte_and_reset_clears_everything() {
    let (line, _, uart) = port();
    write(&uart, offset::SCRATCH, 0xa5);
    write(&uart, offset::INTERRUPT_ENABLE, 2);
    assert_eq!(read(&uart, offset::SCRATCH), 0xa5);
    uart.reset();
    assert_eq!(read(&uart, offset::SCRATCH), 0);
    assert!(!line.level());
}

#[test]
fn the_interrupt_needs_out2() {
    let (line, _, uart) = port();
    write(&uart, offset::MODEM_CONTROL, 0x03);
    write(&uart, offset::INTERRUPT_ENABLE, 2);
    assert!(!line.level());
    write(&uart, offset::MODEM_CONTROL, 0x0b);
    assert!(line.level());
}

proptest! {
    #[test]
    fn the_line_is_up_exactly_while_iir_names_a_cause(
        accesses in proptest::collection::vec((any::<bool>(), 0u64..8, any::<u8>()), 0..200)
    ) {
        let (line, _, uart) = port();
        for (is_write, register, value) in accesses {
            if is_write { write(&uart, register, value) } else { read(&uart, register); }
            uart.receive(&[value; 3]);
            let state = uart.state.lock();
            let connected = state.modem_control.bits() & 0x18 == 0x08;
            prop_assert_eq!(line.level(), connected && state.identification() != IIR_NONE);
            prop_assert!(state.received.len() <= FIFO_DEPTH);
        }
    }
}
