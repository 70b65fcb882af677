//! The interrupt controllers together: from a device's wire to a processor and
//! back by the end of the interrupt.

use super::ioapic::IoApic;
use super::lapic::{ApicBus, DEFAULT_ADDRESS, Effect, LocalApic, MessageSink, TimerClock, Wake};
use super::uart16550::{COM1_IRQ, Uart16550};
use bunshin::bus::{Device, Width};
use bunshin::device::console::ConsoleSink;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const CLOCK: TimerClock = TimerClock { tsc_khz: 1_000_000, bus_khz: 1_000_000 };
const EOI: u32 = 0x80b;

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Arc<Woken> {
    fn wake(&self, vcpu: usize) {
        self.0.fetch_or(1 << vcpu, Ordering::Relaxed);
    }
}

struct Pc {
    apics: Vec<LocalApic>,
    bus: Arc<ApicBus<Arc<Woken>>>,
    ioapic: Arc<IoApic>,
    woken: Arc<Woken>,
}

impl Pc {
    /// Processors in x2APIC mode.
    fn new(vcpus: u32) -> Self {
        let apics: Vec<LocalApic> = (0..vcpus)
            .map(|id| {
                let mut apic = LocalApic::new(id, id == 0, CLOCK, 40);
                apic.write_base(DEFAULT_ADDRESS | 0xc00).unwrap();
                apic.write_msr(0x80f, 0x1ff, 0).unwrap();
                apic
            })
            .collect();
        let woken = Arc::new(Woken::default());
        let mailboxes = apics.iter().map(|apic| apic.mailbox().clone()).collect();
        let bus = Arc::new(ApicBus::new(mailboxes, woken.clone()));
        let ioapic = Arc::new(IoApic::new(bus.clone()));
        Pc { apics, bus, ioapic, woken }
    }

    fn route(&self, pin: u64, entry: u64) {
        for (index, value) in [(0x11 + 2 * pin, entry >> 32), (0x10 + 2 * pin, entry)] {
            self.ioapic.write(0, Width::Word, index).unwrap();
            self.ioapic.write(0x10, Width::Word, value & 0xffff_ffff).unwrap();
        }
    }

    /// The processor takes what is pending; gives the vector.
    fn take(&mut self, vcpu: usize) -> Option<u8> {
        let vector = self.apics[vcpu].pending_vector()?;
        assert!(self.apics[vcpu].accept(vector));
        Some(vector)
    }

    fn end(&mut self, vcpu: usize) {
        let effect = self.apics[vcpu].write_msr(EOI, 0, 0).unwrap();
        self.apply(effect);
    }

    fn apply(&self, effect: Effect) {
        match effect {
            Effect::EndOfInterrupt { vector } => self.ioapic.end_of_interrupt(vector),
            Effect::Send(message) => self.bus.send(&message),
            Effect::None | Effect::Timer => {}
        }
    }
}

struct NoConsole;

impl ConsoleSink for NoConsole {
    fn put(&self, _: u8) {}
}

#[test]
fn serial_output_interrupts_the_processor_that_the_ioapic_names() {
    let mut pc = Pc::new(2);
    pc.route(COM1_IRQ.into(), 1 << 56 | 0x24);
    let uart = Uart16550::new(Arc::new(pc.ioapic.line(COM1_IRQ)), Arc::new(NoConsole));
    uart.write(4, Width::Byte, 8).unwrap();
    uart.write(1, Width::Byte, 2).unwrap();
    assert_eq!(pc.woken.0.load(Ordering::Relaxed), 1 << 1);
    for _ in 0..3 {
        assert_eq!((pc.take(0), pc.take(1)), (None, Some(0x24)));
        assert_eq!(uart.read(2, Width::Byte), Ok(2), "transmitter empty");
        uart.write(0, Width::Byte, b'x'.into()).unwrap();
        pc.end(1);
    }
}

#[test]
fn a_level_stays_with_its_processor_until_the_device_is_served() {
    let mut pc = Pc::new(2);
    pc.route(5, 0x8051);
    let line = pc.ioapic.line(5);
    bunshin::bus::InterruptLine::set(&line, true);
    for _ in 0..2 {
        assert_eq!(pc.take(0), Some(0x51));
        assert_eq!(pc.take(0), None, "once until the end");
        pc.end(0);
    }
    assert_eq!(pc.take(0), Some(0x51));
    bunshin::bus::InterruptLine::set(&line, false);
    pc.end(0);
    assert_eq!(pc.take(0), None);
}

#[test]
fn an_interrupt_between_processors_needs_no_ioapic() {
    let mut pc = Pc::new(3);
    let effect = pc.apics[0].write_msr(0x830, 0xc_00fd, 0).unwrap();
    pc.apply(effect);
    assert_eq!([pc.take(0), pc.take(1), pc.take(2)], [None, Some(0xfd), Some(0xfd)]);
    assert_eq!(pc.woken.0.load(Ordering::Relaxed), 0b110);
}

proptest! {
    #[test]
    fn no_level_is_lost_and_none_comes_without_cause(
        steps in proptest::collection::vec((0u8..4, 0usize..3), 0..200)
    ) {
        // Three devices of different classes on one processor.
        let vectors = [0x31u8, 0x52, 0x73];
        let mut pc = Pc::new(1);
        for (pin, vector) in vectors.iter().enumerate() {
            pc.route(5 + pin as u64, 0x8000 | u64::from(*vector));
        }
        let (mut lines, mut serving) = ([false; 3], Vec::new());
        for (kind, device) in steps {
            match kind {
                0 => { lines[device] = true; pc.ioapic.set_line(5 + device as u8, true); }
                1 => { lines[device] = false; pc.ioapic.set_line(5 + device as u8, false); }
                2 => if let Some(vector) = pc.take(0) { serving.push(vector); },
                _ => if serving.pop().is_some() { pc.end(0); }
            }
            // Nesting goes upwards only.
            prop_assert!(serving.is_sorted());
        }
        while serving.pop().is_some() {
            pc.end(0);
        }
        // What is asserted now is still to come, in order of priority.
        for _ in 0..20 {
            let Some(vector) = pc.take(0) else { break };
            let device = vectors.iter().position(|&own| own == vector).unwrap();
            lines[device] = false;
            pc.ioapic.set_line(5 + device as u8, false);
            pc.end(0);
        }
        prop_assert_eq!(lines, [false; 3]);
        prop_assert_eq!(pc.take(0), None);
    }
}
