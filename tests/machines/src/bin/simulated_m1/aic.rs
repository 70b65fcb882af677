//! The AIC of an M1, version 1, and that of an M2, version 2: the same inputs behind other registers. Their one device is
//! the serial port; software can raise every input.

use machines::m1::AFFINITIES;

use crate::gic;
use crate::uart::Uart;

const INPUTS: u32 = 896;
const WORDS: usize = 32;
/// The serial port's input on an M1 and on an M2.
const UART_INPUTS: [u32; 2] = [605, 739];

const INFO: usize = 0x0004;
const WHO_AM_I: usize = 0x2000;
const EVENT: usize = 0x2004;
const TARGET: usize = 0x3000;
const SOFTWARE_SET: usize = 0x4000;
const SOFTWARE_CLEAR: usize = 0x4080;
const MASK_SET: usize = 0x4100;
const MASK_CLEAR: usize = 0x4180;
const STATE: usize = 0x4200;
const GROUP: usize = 0x80;
const EVENT_INPUT: u32 = 1 << 16;

/// Version 2: how many inputs there are, and for how many there is room.
const INFO1: usize = 0x0004;
const INFO3: usize = 0x000c;
const ROOM: usize = 0x1000;
const CONFIGURATION: usize = 0x2000;
/// Its groups of bits follow a word for each input, in the order of version 1.
const GROUPS: usize = CONFIGURATION + 4 * ROOM;
const GROUP2: usize = ROOM / 8;

pub(crate) struct Aic {
    software: [u32; WORDS],
    masked: [u32; WORDS],
    target: [u8; WORDS * 32],
}

impl Aic {
    /// Before [`Aic::reset`].
    pub(crate) const fn new() -> Self {
        Aic { software: [0; WORDS], masked: [0; WORDS], target: [0; WORDS * 32] }
    }

    pub(crate) fn reset(&mut self) {
        self.masked.fill(u32::MAX);
        self.target.fill(1);
    }

    fn is_up(&self, input: u32, uart: &Uart) -> bool {
        let software = self.software[input as usize / 32] >> (input % 32) & 1 != 0;
        software || UART_INPUTS.contains(&input) && uart.interrupts()
    }

    fn is_masked(&self, input: u32) -> bool {
        self.masked[input as usize / 32] >> (input % 32) & 1 != 0
    }

    fn goes_to(&self, input: u32, cpu: usize) -> bool {
        self.target[input as usize] >> cpu & 1 != 0
    }

    /// The first input that is up, not masked, and goes to this CPU.
    fn pending(&self, cpu: usize, uart: &Uart) -> Option<u32> {
        (0..INPUTS).find(|input| {
            !self.is_masked(*input) && self.goes_to(*input, cpu) && self.is_up(*input, uart)
        })
    }

    /// Brings the lines of all CPUs up to date.
    fn update(&self) {
        let cpus = 0..AFFINITIES.len();
        gic::route_uart(cpus.clone().find(|cpu| {
            UART_INPUTS.iter().any(|input| !self.is_masked(*input) && self.goes_to(*input, *cpu))
        }));
        for cpu in cpus {
            let raised = (0..INPUTS).any(|input| {
                let word = input as usize / 32;
                self.software[word] & !self.masked[word] >> (input % 32) & 1 != 0
                    && self.goes_to(input, cpu)
            });
            match raised {
                true => gic::raise(cpu, gic::AIC_LINE),
                false => gic::put_down(cpu, gic::AIC_LINE),
            }
        }
    }

    /// What this CPU is told of, which masks it.
    pub(crate) fn event(&mut self, cpu: usize, uart: &Uart) -> u32 {
        match self.pending(cpu, uart) {
            Some(input) => {
                self.masked[input as usize / 32] |= 1 << (input % 32);
                self.update();
                EVENT_INPUT | input
            }
            None => 0,
        }
    }

    /// The register of version 1 for one of version 2.
    fn of_version_1(offset: usize) -> Option<usize> {
        let offset = offset.checked_sub(GROUPS)?;
        let (group, inside) = (offset / GROUP2, offset % GROUP2);
        (inside < GROUP && group <= (STATE - SOFTWARE_SET) / GROUP)
            .then_some(SOFTWARE_SET + group * GROUP + inside)
    }

    /// Reads a register of version 2.
    pub(crate) fn read2(&mut self, cpu: usize, offset: usize, uart: &Uart) -> u32 {
        match offset {
            INFO1 => INPUTS,
            INFO3 => ROOM as u32,
            _ => Self::of_version_1(offset).map_or(0, |offset| self.read(cpu, offset, uart)),
        }
    }

    /// Writes a register of version 2. It chooses the CPU by itself: here always the first.
    pub(crate) fn write2(&mut self, offset: usize, value: u32) {
        if let Some(offset) = Self::of_version_1(offset) {
            self.write(offset, value);
        }
    }

    pub(crate) fn read(&mut self, cpu: usize, offset: usize, uart: &Uart) -> u32 {
        match offset {
            INFO => INPUTS,
            WHO_AM_I => cpu as u32,
            EVENT => self.event(cpu, uart),
            TARGET..SOFTWARE_SET => self.target[(offset - TARGET) / 4].into(),
            MASK_SET..STATE => self.masked[offset % GROUP / 4],
            STATE => {
                let word = offset % GROUP / 4;
                (0..32)
                    .filter(|bit| self.is_up(word as u32 * 32 + bit, uart))
                    .fold(0, |all, bit| all | 1 << bit)
            }
            _ => 0,
        }
    }

    pub(crate) fn write(&mut self, offset: usize, value: u32) {
        let word = offset % GROUP / 4;
        match offset {
            TARGET..SOFTWARE_SET => self.target[(offset - TARGET) / 4] = value as u8,
            SOFTWARE_SET..SOFTWARE_CLEAR => self.software[word] |= value,
            SOFTWARE_CLEAR..MASK_SET => self.software[word] &= !value,
            MASK_SET..MASK_CLEAR => self.masked[word] |= value,
            MASK_CLEAR..STATE => self.masked[word] &= !value,
            _ => return,
        }
        self.update();
    }
}
