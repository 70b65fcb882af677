//! The pair of 8259A interrupt controllers with their edge/level registers
//! (Intel 8259A data sheet; ELCR as in the 82371 south bridges).
//!
//! Lock order: the pair's lock is held while its output line is driven.

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, InterruptLine, Width};
use spin::mutex::TicketMutex;

/// First port of the chip with interrupts 0 to 7.
pub const PRIMARY_PORT: u64 = 0x20;
/// First port of the chip with interrupts 8 to 15.
pub const SECONDARY_PORT: u64 = 0xa0;
/// First of the two edge/level registers.
pub const ELCR_PORT: u64 = 0x4d0;
/// Number of ports in each of the three windows.
pub const WINDOW_SIZE: u64 = 2;

/// Input of the first chip to which the second one leads.
const CASCADE: u8 = 2;

const OFFSET_COMMAND: u64 = 0;

/// ICW1 in a command write.
const COMMAND_INITIALISE: u8 = 1 << 4;
/// OCW3 in a command write.
const COMMAND_OCW3: u8 = 1 << 3;
/// ICW1: a fourth initialisation word follows.
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
/// ICW1: there is only one chip, so no third word.
const ICW1_SINGLE: u8 = 1 << 1;
/// ICW4: end interrupts when they are acknowledged.
const ICW4_AUTO_EOI: u8 = 1 << 1;
/// ICW4: special fully nested mode.
const ICW4_FULLY_NESTED: u8 = 1 << 4;
/// OCW3: the register read bits are valid.
const OCW3_READ: u8 = 1 << 1;
/// OCW3: read ISR instead of IRR.
const OCW3_READ_ISR: u8 = 1 << 0;
/// OCW3: the next read polls.
const OCW3_POLL: u8 = 1 << 2;
/// OCW3: the special mask bit is valid.
const OCW3_SET_SPECIAL: u8 = 1 << 6;
/// OCW3: special mask mode.
const OCW3_SPECIAL: u8 = 1 << 5;
/// Poll answer: an interrupt was pending.
const POLL_PENDING: u8 = 1 << 7;

/// Inputs that are edge-triggered whatever ELCR says: timer, keyboard,
/// cascade; clock and coprocessor.
const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// Which word the data port expects next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Debug, Clone, Copy)]
struct Chip {
    expect: Expect,
    icw1: u8,
    vector_base: u8,
    lines: u8,
    requests: u8,
    in_service: u8,
    mask: u8,
    level: u8,
    /// Input with the highest priority.
    highest: u8,
    read_isr: bool,
    poll: bool,
    auto_eoi: bool,
    rotate_auto_eoi: bool,
    fully_nested: bool,
    special_mask: bool,
}

impl Chip {
    const RESET: Chip = Chip {
        expect: Expect::Mask,
        icw1: 0,
        vector_base: 0,
        lines: 0,
        requests: 0,
        in_service: 0,
        mask: 0,
        level: 0,
        highest: 0,
        read_isr: false,
        poll: false,
        auto_eoi: false,
        rotate_auto_eoi: false,
        fully_nested: false,
        special_mask: false,
    };

    fn set_line(&mut self, input: u8, asserted: bool) {
        let bit = bit(input);
        let rising = asserted && self.lines & bit == 0;
        if asserted {
            self.lines |= bit;
            if rising || self.level & bit != 0 {
                self.requests |= bit;
            }
        } else {
            // A request whose line falls before it is acknowledged is gone.
            self.lines &= !bit;
            self.requests &= !bit;
        }
    }

    /// Distance of an input from the highest priority.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.highest) & 7
    }

    /// The input of highest priority among `inputs`.
    fn first(&self, inputs: u8) -> Option<u8> {
        (0..8).filter(|&input| inputs & bit(input) != 0).min_by_key(|&input| self.rank(input))
    }

    /// The input to be served now: requested, unmasked, and above what is in
    /// service.
    fn pending(&self, is_primary: bool) -> Option<u8> {
        let input = self.first(self.requests & !self.mask)?;
        let mut serving = self.in_service;
        if self.special_mask {
            serving &= !self.mask;
        }
        // The second chip may interrupt itself in this mode.
        if is_primary && self.fully_nested {
            serving &= !bit(CASCADE);
        }
        match self.first(serving) {
            Some(served) if self.rank(input) >= self.rank(served) => None,
            _ => Some(input),
        }
    }

    fn acknowledge(&mut self, input: u8) {
        if self.level & bit(input) == 0 {
            self.requests &= !bit(input);
        }
        if !self.auto_eoi {
            self.in_service |= bit(input);
        } else if self.rotate_auto_eoi {
            self.highest = input.wrapping_add(1) & 7;
        }
    }

    fn end(&mut self, input: Option<u8>, rotate: bool) {
        let Some(input) = input else { return };
        self.in_service &= !bit(input);
        if rotate {
            self.highest = input.wrapping_add(1) & 7;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & COMMAND_INITIALISE != 0 {
            let (lines, level) = (self.lines, self.level);
            *self = Chip { lines, level, icw1: value, expect: Expect::Icw2, ..Chip::RESET };
            // Edges seen before are forgotten; levels are still there.
            self.requests = lines & level;
        } else if value & COMMAND_OCW3 != 0 {
            if value & OCW3_POLL != 0 {
                self.poll = true;
            }
            if value & OCW3_READ != 0 {
                self.read_isr = value & OCW3_READ_ISR != 0;
            }
            if value & OCW3_SET_SPECIAL != 0 {
                self.special_mask = value & OCW3_SPECIAL != 0;
            }
        } else {
            let level = value & 7;
            let served = self.first(self.in_service);
            match value >> 5 {
                0 => self.rotate_auto_eoi = false,
                1 => self.end(served, false),
                3 => self.end(Some(level), false),
                4 => self.rotate_auto_eoi = true,
                5 => self.end(served, true),
                6 => self.highest = level.wrapping_add(1) & 7,
                7 => self.end(Some(level), true),
                _ => {}
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Mask => {
                self.mask = value;
                Expect::Mask
            }
            Expect::Icw2 => {
                self.vector_base = value & !7;
                if self.icw1 & ICW1_SINGLE == 0 { Expect::Icw3 } else { self.after_icw3() }
            }
            Expect::Icw3 => self.after_icw3(),
            Expect::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.fully_nested = value & ICW4_FULLY_NESTED != 0;
                Expect::Mask
            }
        };
    }

    fn after_icw3(&self) -> Expect {
        if self.icw1 & ICW1_NEEDS_ICW4 != 0 { Expect::Icw4 } else { Expect::Mask }
    }
}

struct State {
    primary: Chip,
    secondary: Chip,
    output: bool,
}

impl State {
    /// Feeds the second chip's output into the first.
    fn cascade(&mut self) {
        let asserted = self.secondary.pending(false).is_some();
        self.primary.set_line(CASCADE, asserted);
    }

    fn chip(&mut self, primary: bool) -> &mut Chip {
        if primary { &mut self.primary } else { &mut self.secondary }
    }

    /// The vector that the processor's acknowledge cycle gets. With nothing
    /// pending it is the spurious interrupt 7.
    fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.primary.pending(true) else {
            return self.primary.vector_base | 7;
        };
        self.primary.acknowledge(input);
        if input != CASCADE {
            return self.primary.vector_base | input;
        }
        match self.secondary.pending(false) {
            Some(input) => {
                self.secondary.acknowledge(input);
                self.secondary.vector_base | input
            }
            None => self.secondary.vector_base | 7,
        }
    }

    fn read(&mut self, primary: bool, offset: u64) -> u8 {
        let chip = self.chip(primary);
        if core::mem::take(&mut chip.poll) {
            return match chip.pending(primary) {
                Some(input) => {
                    chip.acknowledge(input);
                    POLL_PENDING | input
                }
                None => 0,
            };
        }
        match (offset, chip.read_isr) {
            (OFFSET_COMMAND, true) => chip.in_service,
            (OFFSET_COMMAND, false) => chip.requests,
            _ => chip.mask,
        }
    }
}

/// The two chips of a virtual machine.
pub struct Pic {
    state: TicketMutex<State>,
    output: Arc<dyn InterruptLine>,
}

impl Pic {
    /// Chips after reset; `output` leads to the processor's LINT0.
    pub fn new(output: Arc<dyn InterruptLine>) -> Self {
        let state = State { primary: Chip::RESET, secondary: Chip::RESET, output: false };
        Pic { state: TicketMutex::new(state), output }
    }

    /// Drives interrupt input `irq`, 0 to 15; others are ignored.
    pub fn set_line(&self, irq: u8, asserted: bool) {
        let mut state = self.state.lock();
        match irq {
            CASCADE => {}
            0..=7 => state.primary.set_line(irq, asserted),
            8..=15 => state.secondary.set_line(irq & 7, asserted),
            _ => {}
        }
        self.drive(&mut state);
    }

    /// Whether an interrupt waits for the processor.
    pub fn is_pending(&self) -> bool {
        self.state.lock().output
    }

    /// The processor takes an interrupt; gives its vector.
    pub fn acknowledge(&self) -> u8 {
        let mut state = self.state.lock();
        let vector = state.acknowledge();
        self.drive(&mut state);
        vector
    }

    fn drive(&self, state: &mut State) {
        state.cascade();
        let output = state.primary.pending(true).is_some();
        if output != state.output {
            state.output = output;
            self.output.set(output);
        }
    }

    fn access<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = access(&mut state);
        self.drive(&mut state);
        result
    }
}

/// The command and data port of one chip.
pub struct PicPorts {
    pic: Arc<Pic>,
    primary: bool,
}

impl PicPorts {
    /// The ports of the first chip, at [`PRIMARY_PORT`].
    pub fn primary(pic: Arc<Pic>) -> Self {
        PicPorts { pic, primary: true }
    }

    /// The ports of the second chip, at [`SECONDARY_PORT`].
    pub fn secondary(pic: Arc<Pic>) -> Self {
        PicPorts { pic, primary: false }
    }
}

impl Device for PicPorts {
    fn read(&self, offset: u64, _: Width) -> Result<u64, BusFault> {
        Ok(self.pic.access(|state| state.read(self.primary, offset)).into())
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        self.pic.access(|state| {
            let chip = state.chip(self.primary);
            if offset == OFFSET_COMMAND {
                chip.write_command(byte);
            } else {
                chip.write_data(byte);
            }
        });
        Ok(())
    }

    fn reset(&self) {
        self.pic.access(|state| {
            let chip = state.chip(self.primary);
            *chip = Chip { lines: chip.lines, ..Chip::RESET };
        });
    }
}

/// The edge/level registers, at [`ELCR_PORT`]: a set bit is level-triggered.
pub struct Elcr(pub Arc<Pic>);

impl Device for Elcr {
    fn read(&self, offset: u64, _: Width) -> Result<u64, BusFault> {
        Ok(self.0.access(|state| state.chip(offset == 0).level).into())
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        let [primary, secondary] = ELCR_WRITABLE;
        let writable = if offset == 0 { primary } else { secondary };
        self.0.access(|state| state.chip(offset == 0).level = byte & writable);
        Ok(())
    }

    fn reset(&self) {
        // The chips reset their registers.
    }
}

/// A legacy interrupt that reaches the chip pair and an IOAPIC pin alike.
pub struct IsaLine {
    /// The chip pair.
    pub pic: Arc<Pic>,
    /// Input of the pair, 0 to 15.
    pub irq: u8,
    /// The wire to the IOAPIC.
    pub ioapic: super::ioapic::IoApicLine,
}

impl InterruptLine for IsaLine {
    fn set(&self, asserted: bool) {
        self.pic.set_line(self.irq, asserted);
        self.ioapic.set(asserted);
    }
}

const fn bit(input: u8) -> u8 {
    1u8.wrapping_shl(input as u32)
}
