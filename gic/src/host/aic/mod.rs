//! Apple's interrupt controller, versions 1 and 2.
//!
//! The AIC only routes the interrupts of devices, and raises IRQ. What belongs to a CPU comes as FIQ without any
//! controller: timers, interrupts from other CPUs ("fast IPIs") and performance monitors; software asks each source. The
//! virtual CPU interface is that of GICv3 (`ICH_*_EL2`), and its maintenance interrupt an IRQ of which the AIC knows
//! nothing.
//!
//! This driver makes a GIC out of it, as far as the hypervisor needs one: [`KICK`] is the fast IPI, the private
//! interrupts have the numbers that they usually have, and an input that is [claimed](Distributor::claim) gets a number
//! of a shared interrupt. Neither priorities nor priority drop exist. An interrupt is *active* as long as it is masked at
//! its source: the AIC masks an input when it reports it, and this driver does the same for guests' timers.

mod cpu;
mod inputs;
mod registers;
#[cfg(test)]
mod tests;

pub use cpu::Cpu;

use alloc::boxed::Box;

use self::inputs::{Input, Inputs};
use super::mmio::Registers;
use super::{Error, KICK};
use crate::IntId;

/// The maintenance interrupt of the virtual CPU interface.
pub const MAINTENANCE: IntId = IntId::new(25);
/// The hypervisor's physical timer, `CNTHP`.
pub const HYPERVISOR_TIMER: IntId = IntId::new(26);
/// The guest's virtual timer, `CNTV`.
pub const VIRTUAL_TIMER: IntId = IntId::new(27);
/// The guest's physical timer, `CNTP`.
pub const PHYSICAL_TIMER: IntId = IntId::new(30);

/// Generation of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// M1.
    V1,
    /// M1 Pro and larger, M2.
    V2,
}

/// Where the registers of an AIC are: physical addresses, and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Which generation.
    pub version: Version,
    /// All registers but the event register of version 2.
    pub registers: usize,
    /// How long they are.
    pub size: usize,
    /// The event register of version 2.
    pub event: Option<usize>,
}

const V1_INFO: usize = 0x0004;
const V1_EVENT: usize = 0x2004;
const V1_TARGET: usize = 0x3000;
/// Version 1 has room for this many inputs, whatever it has.
const V1_MOST: u32 = 0x400;
const V2_INFO1: usize = 0x0004;
const V2_INFO3: usize = 0x000c;
const V2_CONFIG: usize = 0x0014;
const V2_CONFIG_ENABLE: u32 = 1 << 0;
const V2_INPUT: usize = 0x2000;
const INFO_INPUTS: u32 = 0xffff;
const INFO_DIE_SHIFT: u32 = 24;
const INFO_DIE: u32 = 0xf;

/// Where the registers of inputs are, and how many inputs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Offset of the first die's registers: a word for each input that says where it goes.
    first: usize,
    /// Inputs of a die that exist.
    inputs: u32,
    /// Inputs of a die for which there is room.
    most: u32,
    /// Dies.
    dies: u32,
}

/// The groups of registers with a bit for each input, in the order in which they follow the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    SoftwareSet = 0,
    SoftwareClear = 1,
    MaskSet = 2,
    MaskClear = 3,
    State = 4,
}

impl Layout {
    fn v1(registers: &Registers) -> Self {
        let inputs = (registers.read(V1_INFO) & INFO_INPUTS).min(V1_MOST);
        Self { first: V1_TARGET, inputs, most: V1_MOST, dies: 1 }
    }

    fn v2(registers: &Registers) -> Self {
        let info = registers.read(V2_INFO1);
        let most = registers.read(V2_INFO3) & INFO_INPUTS;
        let dies = (info >> INFO_DIE_SHIFT & INFO_DIE).saturating_add(1);
        Self { first: V2_INPUT, inputs: (info & INFO_INPUTS).min(most), most, dies }
    }

    /// Words of a group.
    const fn words(&self) -> usize {
        self.most.div_ceil(32) as usize
    }

    /// The word for an input that says where it goes.
    const fn route(&self, input: Input) -> usize {
        self.die(input.die).saturating_add((input.number as usize) << 2)
    }

    /// Word `number` of a group of a die.
    const fn word(&self, die: u32, group: Group, number: usize) -> usize {
        let words = self.words();
        let before = (self.most as usize).saturating_add(words.saturating_mul(group as usize));
        self.die(die).saturating_add(before.saturating_add(number) << 2)
    }

    const fn die(&self, die: u32) -> usize {
        let stride = (self.most as usize).saturating_add(self.words().saturating_mul(5)) << 2;
        self.first.saturating_add(stride.saturating_mul(die as usize))
    }

    const fn has(&self, input: Input) -> bool {
        input.die < self.dies && input.number < self.inputs
    }
}

/// The controller.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    version: Version,
    registers: Registers,
    event: Registers,
    layout: Layout,
    inputs: &'static Inputs,
}

impl Distributor {
    /// A driver of the controller with these registers.
    ///
    /// # Errors
    ///
    /// [`Error::Frame`] names the registers that can't be.
    ///
    /// # Safety
    ///
    /// The registers must be those of an AIC of this version, be mapped as device memory at these addresses as long as
    /// the driver is used, and be driven by nobody else.
    #[allow(unsafe_code)]
    pub unsafe fn new(frames: &Frames) -> Result<Self, Error> {
        const EVENT_SIZE: usize = 8;
        // SAFETY: the caller promises that these registers are mapped.
        let registers =
            unsafe { Registers::new(frames.registers, frames.size) }.ok_or(Error::Frame("AIC"))?;
        let (layout, event) = match frames.version {
            Version::V1 => (Layout::v1(&registers), registers.part(V1_EVENT & !7, EVENT_SIZE)),
            Version::V2 => {
                let address = frames.event.ok_or(Error::Frame("AIC event"))?;
                // SAFETY: as above.
                (Layout::v2(&registers), unsafe { Registers::new(address, EVENT_SIZE) })
            }
        };
        let inputs: &'static Inputs = Box::leak(Box::default());
        let event = event.ok_or(Error::Frame("AIC event"))?;
        Ok(Self { version: frames.version, registers, event, layout, inputs })
    }

    /// Gives input `number` of `die` the number of a shared interrupt; always the same one. `None` if there is no such
    /// input, or if more are claimed than a machine needs.
    #[must_use]
    pub fn claim(&self, die: u32, number: u32) -> Option<IntId> {
        let input = Input { die, number };
        self.layout.has(input).then(|| self.inputs.claim(input)).flatten()
    }

    /// One past the last interrupt number.
    #[must_use]
    pub const fn interrupts(&self) -> u32 {
        inputs::END
    }

    /// Masks every input.
    pub(super) fn init(&self) {
        const ALL: u32 = u32::MAX;
        for die in 0..self.layout.dies {
            for number in 0..self.layout.words() {
                for group in [Group::MaskSet, Group::SoftwareClear] {
                    self.registers.write(self.layout.word(die, group, number), ALL);
                }
            }
        }
        if self.version == Version::V2 {
            let config = self.registers.read(V2_CONFIG);
            self.registers.write(V2_CONFIG, config | V2_CONFIG_ENABLE);
        }
    }

    /// Reads the event register: what the AIC signals to this CPU. That masks it.
    fn event(&self) -> u32 {
        match self.version {
            // The registers before it have no side effects, but nobody reads them.
            Version::V1 => self.event.read(V1_EVENT & 7),
            Version::V2 => self.event.read(0),
        }
    }

    /// Writes the bit of an input in a group; nothing for a number that nobody has claimed.
    fn set(&self, group: Group, intid: IntId) {
        if let Some(input) = self.inputs.input(intid) {
            let word = self.layout.word(input.die, group, (input.number >> 5) as usize);
            self.registers.write(word, 1u32.wrapping_shl(input.number & 31));
        }
    }

    /// The bit of an input in a group; false for a number that nobody has claimed.
    fn get(&self, group: Group, intid: IntId) -> bool {
        self.inputs.input(intid).is_some_and(|input| {
            let word = self.layout.word(input.die, group, (input.number >> 5) as usize);
            self.registers.read(word) >> (input.number & 31) & 1 != 0
        })
    }
}
