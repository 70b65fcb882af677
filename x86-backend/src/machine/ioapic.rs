//! The I/O APIC (82093AA data sheet, version 0x11): 24 pins, each with a
//! redirection entry that says which message it sends.
//!
//! Lock order: the IOAPIC's lock is held while messages go to the local APICs,
//! which take no lock.

use super::lapic::{Delivery, Destination, Message, MessageSink};
use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, InterruptLine, Width};
use spin::mutex::TicketMutex;

/// Number of input pins.
pub const PINS: u8 = 24;
/// Guest-physical address of the window.
pub const ADDRESS: u64 = 0xfec0_0000;
/// Bytes of the window.
pub const WINDOW_SIZE: u64 = 0x1000;

/// IOREGSEL: which register the data window shows.
const OFFSET_INDEX: u64 = 0x00;
/// IOWIN: the data window.
const OFFSET_DATA: u64 = 0x10;

const INDEX_ID: u8 = 0x00;
const INDEX_VERSION: u8 = 0x01;
const INDEX_ARBITRATION: u8 = 0x02;
const INDEX_REDIRECTION: u8 = 0x10;

/// Version 0x11, which has no EOI register, and the number of the last pin.
const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;
const ID_MASK: u32 = 0xf << 24;

/// One redirection entry.
mod entry {
    pub(super) const DELIVERY_SHIFT: u32 = 8;
    pub(super) const LOGICAL: u64 = 1 << 11;
    /// Delivery status; always idle here.
    pub(super) const STATUS: u64 = 1 << 12;
    pub(super) const REMOTE_IRR: u64 = 1 << 14;
    pub(super) const LEVEL: u64 = 1 << 15;
    pub(super) const MASKED: u64 = 1 << 16;
    pub(super) const DESTINATION_SHIFT: u32 = 56;
    /// Vector, delivery, mode, polarity, trigger, mask and destination.
    pub(super) const WRITABLE: u64 = 0xff << DESTINATION_SHIFT | 0x1_ffff & !(STATUS | REMOTE_IRR);
}

struct State {
    index: u8,
    id: u32,
    /// A bit for each pin that its device asserts.
    lines: u32,
    entries: [u64; PINS as usize],
}

impl State {
    const RESET: State =
        State { index: 0, id: 0, lines: 0, entries: [entry::MASKED; PINS as usize] };

    fn asserted(&self, pin: u8) -> bool {
        self.lines & bit(pin) != 0
    }

    /// The message that `pin` may send now.
    fn message(&self, pin: u8) -> Option<Message> {
        let entry = *self.entries.get(usize::from(pin))?;
        if entry & (entry::MASKED | entry::REMOTE_IRR) != 0 {
            return None;
        }
        let delivery = match Delivery::from_bits(entry >> entry::DELIVERY_SHIFT)? {
            Delivery::Smi | Delivery::StartUp | Delivery::External => return None,
            delivery => delivery,
        };
        // The others have no end of interrupt.
        let has_vector = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        let level = has_vector && entry & entry::LEVEL != 0;
        let [vector, .., destination] = entry.to_le_bytes();
        let destination = Destination::from_8_bits(destination, entry & entry::LOGICAL != 0);
        Some(Message { destination, delivery, vector, level })
    }

    /// Sends the message of `pin`. A level-triggered pin waits for the end of
    /// the interrupt then, if a processor took it.
    fn fire(&mut self, pin: u8, sink: &dyn MessageSink) {
        let Some(message) = self.message(pin) else { return };
        if sink.deliver(&message)
            && message.level
            && let Some(entry) = self.entries.get_mut(usize::from(pin))
        {
            *entry |= entry::REMOTE_IRR;
        }
    }

    /// Sends the message of a level-triggered pin that is still asserted.
    fn refire(&mut self, pin: u8, sink: &dyn MessageSink) {
        let level = self.entries.get(usize::from(pin)).is_some_and(|e| e & entry::LEVEL != 0);
        if level && self.asserted(pin) {
            self.fire(pin, sink);
        }
    }

    fn read(&self) -> u32 {
        match self.index {
            INDEX_ID | INDEX_ARBITRATION => self.id,
            INDEX_VERSION => VERSION,
            index => match self.redirection(index) {
                Some((pin, high)) => {
                    let entry = self.entries.get(usize::from(pin)).copied().unwrap_or(0);
                    (if high { entry >> 32 } else { entry & 0xffff_ffff }) as u32
                }
                None => 0,
            },
        }
    }

    /// Pin and half of redirection register `index`.
    fn redirection(&self, index: u8) -> Option<(u8, bool)> {
        let number = index.checked_sub(INDEX_REDIRECTION)?;
        let pin = number >> 1;
        (pin < PINS).then_some((pin, number & 1 != 0))
    }

    fn write(&mut self, value: u32, sink: &dyn MessageSink) {
        if self.index == INDEX_ID {
            self.id = value & ID_MASK;
        }
        let Some((pin, high)) = self.redirection(self.index) else { return };
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else { return };
        let (kept, new) = if high {
            (*entry & 0xffff_ffff, u64::from(value) << 32)
        } else {
            (*entry & !0xffff_ffff, u64::from(value))
        };
        let remote_irr = *entry & entry::REMOTE_IRR;
        *entry = kept | new & entry::WRITABLE | remote_irr;
        // A pin made edge-triggered waits for no end of interrupt; Linux ends
        // stuck interrupts of version 0x11 in this way.
        if *entry & entry::LEVEL == 0 {
            *entry &= !entry::REMOTE_IRR;
        }
        self.refire(pin, sink);
    }
}

/// The I/O APIC of a virtual machine.
pub struct IoApic {
    state: TicketMutex<State>,
    sink: Arc<dyn MessageSink>,
}

impl IoApic {
    /// An IOAPIC after reset that sends to `sink`.
    pub fn new(sink: Arc<dyn MessageSink>) -> Self {
        IoApic { state: TicketMutex::new(State::RESET), sink }
    }

    /// Drives input `pin`; a pin that does not exist is ignored.
    pub fn set_line(&self, pin: u8, asserted: bool) {
        if pin >= PINS {
            return;
        }
        let mut state = self.state.lock();
        let before = state.lines;
        state.lines = if asserted { before | bit(pin) } else { before & !bit(pin) };
        let rising = state.lines & !before != 0;
        // Level-triggered pins fire on the rising edge as well; afterwards the
        // end of the interrupt looks at them again.
        if rising {
            state.fire(pin, &*self.sink);
        }
    }

    /// A local APIC ended level-triggered `vector`.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut state = self.state.lock();
        for pin in 0..PINS {
            let Some(entry) = state.entries.get_mut(usize::from(pin)) else { continue };
            let [own, ..] = entry.to_le_bytes();
            if own == vector && *entry & entry::REMOTE_IRR != 0 {
                *entry &= !entry::REMOTE_IRR;
                state.refire(pin, &*self.sink);
            }
        }
    }

    /// The wire to input `pin`.
    pub fn line(self: &Arc<Self>, pin: u8) -> IoApicLine {
        IoApicLine { ioapic: self.clone(), pin }
    }
}

impl Device for IoApic {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        let state = self.state.lock();
        let value = match offset {
            OFFSET_INDEX => state.index.into(),
            OFFSET_DATA => state.read(),
            _ => 0,
        };
        Ok(u64::from(value) & width.mask())
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let mut state = self.state.lock();
        match offset {
            OFFSET_INDEX => [state.index, ..] = value.to_le_bytes(),
            OFFSET_DATA => state.write((value & 0xffff_ffff) as u32, &*self.sink),
            _ => {}
        }
        Ok(())
    }

    fn reset(&self) {
        // The lines belong to the devices, which drive them on their own reset.
        let mut state = self.state.lock();
        let lines = state.lines;
        *state = State { lines, ..State::RESET };
    }
}

/// The wire to one input of an [`IoApic`].
pub struct IoApicLine {
    ioapic: Arc<IoApic>,
    pin: u8,
}

impl InterruptLine for IoApicLine {
    fn set(&self, asserted: bool) {
        self.ioapic.set_line(self.pin, asserted);
    }
}

const fn bit(pin: u8) -> u32 {
    1u32.wrapping_shl(pin as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicBool, Ordering};
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Sent(Mutex<Vec<Message>>, AtomicBool);

    impl MessageSink for Sent {
        fn deliver(&self, message: &Message) -> bool {
            self.0.lock().unwrap().push(*message);
            !self.1.load(Ordering::Relaxed)
        }
    }

    fn machine() -> (Arc<Sent>, Arc<IoApic>) {
        let sent = Arc::new(Sent::default());
        let ioapic = Arc::new(IoApic::new(sent.clone()));
        (sent, ioapic)
    }

    fn write(ioapic: &IoApic, index: u64, value: u64) {
        ioapic.write(OFFSET_INDEX, Width::Word, index).unwrap();
        ioapic.write(OFFSET_DATA, Width::Word, value).unwrap();
    }

    fn read(ioapic: &IoApic, index: u64) -> u64 {
        ioapic.write(OFFSET_INDEX, Width::Byte, index).unwrap();
        ioapic.read(OFFSET_DATA, Width::Word).unwrap()
    }

    fn taken(sent: &Sent) -> usize {
        core::mem::take(&mut *sent.0.lock().unwrap()).len()
    }

    #[test]
    fn registers_read_back_what_can_be_written() {
        let (_, ioapic) = machine();
        assert_eq!(read(&ioapic, 0x01), 0x0017_0011);
        write(&ioapic, 0x00, 0xffff_ffff);
        assert_eq!(read(&ioapic, 0x00), 0x0f00_0000);
        assert_eq!(read(&ioapic, 0x10), 0x1_0000, "masked after reset");
        write(&ioapic, 0x10, 0xffff_ffff);
        write(&ioapic, 0x11, 0xffff_ffff);
        assert_eq!(read(&ioapic, 0x10), 0x1_afff, "neither status nor remote IRR");
        assert_eq!(read(&ioapic, 0x11), 0xff00_0000);
        assert_eq!(read(&ioapic, 0x40), 0, "there is no pin 24");
        ioapic.reset();
        assert_eq!(read(&ioapic, 0x10), 0x1_0000);
    }

    #[test]
    fn an_edge_sends_once_and_is_lost_under_the_mask() {
        let (sent, ioapic) = machine();
        let line = ioapic.line(4);
        write(&ioapic, 0x19, 0x0200_0000);
        write(&ioapic, 0x18, 0x0024);
        line.set(true);
        line.set(true);
        let expected = Message {
            destination: Destination::Physical(2),
            delivery: Delivery::Fixed,
            vector: 0x24,
            level: false,
        };
        assert_eq!(*sent.0.lock().unwrap(), [expected]);
        line.set(false);
        line.set(true);
        assert_eq!(taken(&sent), 2);
        write(&ioapic, 0x18, 0x1_0024);
        line.set(false);
        line.set(true);
        write(&ioapic, 0x18, 0x0024);
        assert_eq!(taken(&sent), 0);
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_asserted() {
        let (sent, ioapic) = machine();
        let line = ioapic.line(10);
        write(&ioapic, 0x24, 0x8030);
        line.set(true);
        assert_eq!(taken(&sent), 1);
        assert_eq!(read(&ioapic, 0x24), 0xc030, "remote IRR");
        line.set(false);
        line.set(true);
        assert_eq!(taken(&sent), 0, "it waits for the end");
        ioapic.end_of_interrupt(0x31);
        assert_eq!(taken(&sent), 0, "another vector");
        ioapic.end_of_interrupt(0x30);
        assert_eq!(taken(&sent), 1);
        line.set(false);
        ioapic.end_of_interrupt(0x30);
        assert_eq!((taken(&sent), read(&ioapic, 0x24)), (0, 0x8030));
    }

    #[test]
    fn a_level_that_waits_under_the_mask_is_sent_by_the_unmasking() {
        let (sent, ioapic) = machine();
        ioapic.set_line(10, true);
        write(&ioapic, 0x24, 0x1_8030);
        assert_eq!(taken(&sent), 0);
        write(&ioapic, 0x24, 0x8030);
        assert_eq!(taken(&sent), 1);
    }

    #[test]
    fn a_level_that_nobody_takes_does_not_wait_for_an_end() {
        let (sent, ioapic) = machine();
        sent.1.store(true, Ordering::Relaxed);
        write(&ioapic, 0x24, 0x8030);
        ioapic.set_line(10, true);
        assert_eq!((taken(&sent), read(&ioapic, 0x24)), (1, 0x8030));
        sent.1.store(false, Ordering::Relaxed);
        write(&ioapic, 0x24, 0x8030);
        assert_eq!((taken(&sent), read(&ioapic, 0x24)), (1, 0xc030));
    }

    #[test]
    fn making_a_pin_edge_triggered_clears_remote_irr() {
        let (sent, ioapic) = machine();
        write(&ioapic, 0x24, 0x8030);
        ioapic.set_line(10, true);
        write(&ioapic, 0x24, 0x1_0030);
        write(&ioapic, 0x24, 0x1_8030);
        assert_eq!(read(&ioapic, 0x24), 0x1_8030);
        write(&ioapic, 0x24, 0x8030);
        assert_eq!(taken(&sent), 2);
    }

    #[test]
    fn destinations_and_delivery_modes_come_from_the_entry() {
        for (low, high, expected) in [
            (0x0830, 0x0300_0000, Some((Destination::Logical(3), Delivery::Fixed))),
            (0x0030, 0xff00_0000, Some((Destination::All, Delivery::Fixed))),
            (0x0930, 0xff00_0000, Some((Destination::Logical(0xff), Delivery::LowestPriority))),
            (0x0400, 0x0100_0000, Some((Destination::Physical(1), Delivery::Nmi))),
            (0x0200, 0, None),
            (0x0330, 0, None),
            (0x0700, 0, None),
        ] {
            let (sent, ioapic) = machine();
            write(&ioapic, 0x11, high);
            write(&ioapic, 0x10, low);
            ioapic.set_line(0, true);
            let sent = sent.0.lock().unwrap().first().map(|m| (m.destination, m.delivery));
            assert_eq!(sent, expected, "{low:#x}");
        }
    }

    proptest! {
        #[test]
        fn an_asserted_unmasked_level_is_never_forgotten(
            steps in proptest::collection::vec((0u8..4, any::<bool>(), any::<bool>()), 0..200)
        ) {
            let (sent, ioapic) = machine();
            let (mut line, mut masked, mut outstanding) = (false, true, false);
            for (kind, flag, _) in steps {
                match kind {
                    0 | 1 => { line = flag; ioapic.set_line(7, flag); }
                    2 => {
                        masked = flag;
                        write(&ioapic, 0x1e, 0x8040 | u64::from(flag) << 16);
                    }
                    _ => if outstanding { outstanding = false; ioapic.end_of_interrupt(0x40); }
                }
                let count = taken(&sent);
                prop_assert!(count <= usize::from(!outstanding), "one message at a time");
                outstanding |= count == 1;
                prop_assert!(!line || masked || outstanding);
            }
        }

        #[test]
        fn no_access_makes_the_ioapic_panic(
            accesses in proptest::collection::vec((0u64..0x20, any::<u64>()), 0..100)
        ) {
            let (_, ioapic) = machine();
            for (offset, value) in accesses {
                ioapic.write(offset, Width::Double, value).unwrap();
                ioapic.read(offset, Width::Word).unwrap();
                ioapic.set_line(value as u8, value & 0x100 != 0);
                ioapic.end_of_interrupt(value as u8);
            }
        }
    }
}
