use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::mutex::SpinMutex;

use super::*;

#[derive(Default)]
struct Sink {
    bytes: SpinMutex<Vec<u8>>,
    ready: AtomicUsize,
}

impl ConsoleSink for Sink {
    fn put(&self, byte: u8) {
        self.bytes.lock().push(byte);
    }
    fn ready(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Line(AtomicBool);

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        assert_ne!(self.0.swap(asserted, Ordering::Relaxed), asserted, "no change");
    }
}

struct Bench {
    sink: Arc<Sink>,
    line: Arc<Line>,
    uart: Pl011,
}

impl Bench {
    fn new() -> Self {
        Self::of(Revision::R1p1)
    }
    fn of(revision: Revision) -> Self {
        let (sink, line) = (Arc::new(Sink::default()), Arc::new(Line::default()));
        let uart = Pl011::new(revision, sink.clone(), line.clone());
        Bench { sink, line, uart }
    }
    fn with_fifo(revision: Revision) -> Self {
        let bench = Self::of(revision);
        bench.write(offset::LCR_H, line_control::FEN);
        bench
    }
    fn read(&self, offset: u64) -> u32 {
        self.uart.read(offset, Width::Word).unwrap().try_into().unwrap()
    }
    fn write(&self, offset: u64, value: u32) {
        self.uart.write(offset, Width::Word, u64::from(value)).unwrap();
    }
    fn line(&self) -> bool {
        self.line.0.load(Ordering::Relaxed)
    }
    fn raw(&self) -> u32 {
        self.read(offset::RIS)
    }
    fn sent(&self) -> Vec<u8> {
        self.sink.bytes.lock().clone()
    }
    /// All registers that a read does not change.
    fn registers(&self) -> Vec<u32> {
        (0..0x400).filter(|&i| i != 0).map(|i| self.read(4 * i)).collect()
    }
    fn loop_back(&self) {
        let control = control::LBE | control::UARTEN | control::TXE | control::RXE;
        self.write(offset::CR, control);
    }
}

#[test]
fn registers_after_reset_are_those_of_the_manual() {
    let bench = Bench::new();
    for (offset, expected) in [
        (offset::DR, 0),
        (offset::RSR_ECR, 0),
        (offset::FR, 0x90),
        (offset::ILPR, 0),
        (offset::IBRD, 0),
        (offset::FBRD, 0),
        (offset::LCR_H, 0),
        (offset::CR, 0x300),
        (offset::IFLS, 0x12),
        (offset::IMSC, 0),
        (offset::RIS, 0),
        (offset::MIS, 0),
        (offset::ICR, 0),
        (offset::DMACR, 0),
        (0x4c, 0),
        (0x800, 0),
        (0xfe0, 0x11),
        (0xfe4, 0x10),
        (0xfe8, 0x14),
        (0xfec, 0x00),
        (0xff0, 0x0d),
        (0xff4, 0xf0),
        (0xff8, 0x05),
        (0xffc, 0xb1),
    ] {
        assert_eq!(bench.read(offset), expected, "{offset:#x}");
    }
    assert_eq!(Bench::of(Revision::R1p5).read(0xfe8), 0x34);
}

#[test]
fn registers_keep_the_bits_that_exist() {
    let bench = Bench::new();
    for (offset, written, expected) in [
        (offset::ILPR, u32::MAX, 0xff),
        (offset::IBRD, u32::MAX, 0xffff),
        (offset::FBRD, u32::MAX, 0x3f),
        (offset::LCR_H, u32::MAX, 0xff),
        (offset::CR, u32::MAX, 0xff87),
        (offset::IFLS, u32::MAX, 0x3f),
        (offset::IMSC, u32::MAX, 0x7ff),
        (offset::DMACR, u32::MAX, 0x7),
        (offset::FR, 0, 0x190 | 0x7),
        (0xfe0, 0, 0x11),
    ] {
        bench.write(offset, written);
        assert_eq!(bench.read(offset), expected, "{offset:#x}");
    }
}

#[test]
fn bytes_are_sent_in_order_at_every_width_even_when_disabled() {
    let bench = Bench::new();
    bench.uart.write(offset::DR, Width::Byte, 0x1_41).unwrap();
    bench.uart.write(offset::DR, Width::Half, 0x42).unwrap();
    bench.uart.write(offset::DR, Width::Word, 0xffff_ff43).unwrap();
    bench.write(offset::CR, 0);
    bench.write(offset::DR, 0x44);
    assert_eq!(bench.sent(), b"ABCD");
    assert_eq!(bench.read(offset::FR), 0x90, "the transmitter is never busy");
}

#[test]
fn narrow_reads_see_their_lanes_and_wide_ones_fault() {
    let bench = Bench::new();
    assert_eq!(bench.uart.read(offset::CR, Width::Byte), Ok(0));
    assert_eq!(bench.uart.read(offset::CR + 1, Width::Byte), Ok(3));
    assert_eq!(bench.uart.read(offset::CR, Width::Half), Ok(0x300));
    assert_eq!(bench.uart.read(offset::CR, Width::Double), Err(BusFault));
    assert_eq!(bench.uart.write(offset::DR, Width::Double, 0), Err(BusFault));
    assert_eq!(bench.uart.read(offset::CR + 1, Width::Word), Err(BusFault));
    assert_eq!(bench.uart.read(Pl011::WINDOW, Width::Byte), Err(BusFault));
    assert!(bench.sent().is_empty());
}

#[test]
fn transmit_interrupt_comes_with_each_byte_and_stays_until_cleared() {
    let bench = Bench::new();
    bench.write(offset::IMSC, interrupt::TX);
    assert!(!bench.line(), "an idle transmitter has passed no trigger level");
    bench.write(offset::DR, 0x41);
    assert!(bench.line());
    assert_eq!(bench.read(offset::MIS), interrupt::TX);
    bench.write(offset::ICR, interrupt::RX);
    assert!(bench.line());
    bench.write(offset::ICR, interrupt::TX);
    assert!(!bench.line());
    bench.write(offset::DR, 0x42);
    assert!(bench.line());
    bench.write(offset::IMSC, 0);
    assert!(!bench.line());
    assert_eq!(bench.raw(), interrupt::TX);
    bench.write(offset::IMSC, interrupt::TX);
    assert!(bench.line(), "unmasking shows what is pending");
}

#[test]
fn input_raises_the_timeout_at_once_and_the_trigger_at_its_level() {
    for (revision, select, level) in [
        (Revision::R1p1, 0, 2),
        (Revision::R1p1, 1, 4),
        (Revision::R1p1, 2, 8),
        (Revision::R1p1, 3, 12),
        (Revision::R1p1, 4, 14),
        (Revision::R1p5, 0, 4),
        (Revision::R1p5, 4, 28),
    ] {
        let bench = Bench::with_fifo(revision);
        bench.write(offset::IFLS, select << IFLS_RX_SHIFT);
        for count in 1..=revision.depth() {
            assert!(bench.uart.receive(0x61));
            let expected = if count >= level { interrupt::RX } else { 0 };
            assert_eq!(bench.raw(), expected | interrupt::RT, "{revision:?} {select} {count}");
        }
        for left in (0..revision.depth()).rev() {
            assert_eq!(bench.read(offset::DR), 0x61);
            let expected = when(left >= level, interrupt::RX) | when(left > 0, interrupt::RT);
            assert_eq!(bench.raw(), expected, "{revision:?} {select} {left}");
        }
    }
}

#[test]
fn without_fifo_one_character_fits() {
    let bench = Bench::new();
    assert!(bench.uart.can_receive());
    assert!(bench.uart.receive(1));
    assert_eq!(bench.raw(), interrupt::RX | interrupt::RT);
    assert_eq!(bench.read(offset::FR), (flag::TXFE | flag::RXFF));
    assert!(!bench.uart.can_receive());
    assert!(!bench.uart.receive(2));
    assert_eq!(bench.read(offset::DR), 1);
    assert_eq!(bench.read(offset::FR), (flag::TXFE | flag::RXFE));
    assert_eq!(bench.raw(), 0);
}

#[test]
fn refused_input_is_called_for_once_there_is_space() {
    let bench = Bench::with_fifo(Revision::R1p1);
    let ready = || bench.sink.ready.load(Ordering::Relaxed);
    let fill = || (0..20).filter(|&byte| bench.uart.receive(byte)).count();
    assert_eq!(fill(), 16);
    assert_eq!(ready(), 0);
    assert_eq!(bench.read(offset::DR), 0);
    assert_eq!(ready(), 1);
    assert_eq!(bench.read(offset::DR), 1);
    assert_eq!(ready(), 1, "only after a refusal");
    assert_eq!(fill(), 2);
    bench.write(offset::LCR_H, 0);
    assert_eq!(ready(), 2, "switching the FIFO empties it");
    assert_eq!(fill(), 1);
    bench.uart.reset();
    assert_eq!(ready(), 3);
}

#[test]
fn an_acknowledged_timeout_comes_back_with_the_next_character_or_read() {
    let bench = Bench::with_fifo(Revision::R1p1);
    bench.write(offset::IMSC, interrupt::RT);
    bench.uart.receive(1);
    bench.uart.receive(2);
    bench.uart.receive(3);
    bench.write(offset::ICR, interrupt::RT);
    assert!(!bench.line());
    assert_eq!(bench.read(offset::DR), 1);
    assert!(bench.line(), "input left behind is not forgotten");
    bench.write(offset::ICR, interrupt::RT);
    bench.uart.receive(4);
    assert!(bench.line());
    for expected in 2..=4 {
        assert_eq!(bench.read(offset::DR), expected);
    }
    assert!(!bench.line());
    assert_eq!(bench.read(offset::DR), 0, "an empty receiver reads zero");
}

#[test]
fn loop_back_returns_bytes_overruns_and_breaks_to_the_guest() {
    let bench = Bench::new();
    bench.loop_back();
    bench.write(offset::DR, 0x55);
    bench.write(offset::DR, 0x66);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.raw(), interrupt::TX | interrupt::RX | interrupt::RT | interrupt::OE);
    assert_eq!(bench.read(offset::RSR_ECR), error::OVERRUN);
    assert_eq!(bench.read(offset::DR), 0x855);
    bench.write(offset::RSR_ECR, 0);
    assert_eq!(bench.read(offset::RSR_ECR), 0);
    bench.write(offset::LCR_H, line_control::BRK);
    assert!(has(bench.raw(), interrupt::BE | interrupt::FE));
    assert_eq!(bench.read(offset::DR), 0x500);
    assert_eq!(bench.read(offset::RSR_ECR), 5);
}

#[test]
fn loop_back_without_a_receiver_swallows_bytes() {
    let bench = Bench::new();
    let control = control::LBE | control::UARTEN | control::TXE;
    bench.write(offset::CR, control);
    bench.write(offset::DR, 0x55);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.raw(), interrupt::TX);
    assert_eq!(bench.read(offset::FR), 0x90);
}

#[test]
fn loop_back_connects_modem_outputs_to_inputs() {
    for (output, input, interrupt) in [
        (control::RTS, flag::CTS, interrupt::CTS),
        (control::DTR, flag::DSR, interrupt::DSR),
        (control::OUT1, flag::DCD, interrupt::DCD),
        (control::OUT2, flag::RI, interrupt::RI),
    ] {
        let bench = Bench::new();
        bench.write(offset::CR, output);
        assert_eq!(bench.read(offset::FR), 0x90);
        bench.write(offset::CR, output | control::LBE);
        assert_eq!(bench.read(offset::FR), 0x90 | input);
        assert_eq!(bench.raw(), interrupt);
        bench.write(offset::ICR, interrupt);
        bench.write(offset::CR, control::LBE);
        assert_eq!(bench.raw(), interrupt, "both edges count");
    }
}

#[test]
fn reset_returns_everything_to_the_start() {
    let bench = Bench::new();
    let fresh = bench.registers();
    bench.loop_back();
    for offset in [
        offset::ILPR,
        offset::IBRD,
        offset::FBRD,
        offset::LCR_H,
        offset::IFLS,
        offset::IMSC,
        offset::DMACR,
        offset::DR,
    ] {
        bench.write(offset, u32::MAX);
    }
    bench.uart.receive(9);
    assert!(bench.line());
    assert_ne!(bench.registers(), fresh);
    bench.uart.reset();
    assert!(!bench.line());
    assert_eq!(bench.registers(), fresh);
    assert_eq!(bench.read(offset::DR), 0);
}

#[test]
fn any_stream_of_accesses_keeps_line_and_status_consistent() {
    // A xorshift generator: the stream is long, varied and the same in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let bench = Bench::new();
    for _ in 0..100_000 {
        let (choice, value) = (random(), random());
        let width = Width::from_bytes(1 << (choice >> 8 & 3)).unwrap();
        // Mostly the functional registers, sometimes the whole page.
        let offset = choice >> 16 & if choice >> 12 & 7 == 0 { 0x1fff } else { 0x4f };
        match choice & 3 {
            0 => drop(bench.uart.read(offset, width)),
            1 => drop(bench.uart.receive(value as u8)),
            _ => drop(bench.uart.write(offset, width, value)),
        }
        assert_eq!(bench.line(), bench.read(offset::MIS) != 0);
        assert_eq!(bench.read(offset::MIS), bench.read(offset::RIS) & bench.read(offset::IMSC));
        let full = bench.read(offset::FR) & flag::RXFF != 0;
        assert_eq!(!full, bench.uart.can_receive());
    }
}
