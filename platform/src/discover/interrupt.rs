//! Interrupts in the terms of their controller.

use super::controller::{self, AIC, GIC_V2, GIC_V3};
use crate::tree::{InterruptSpecifier, Node};
use core::fmt;

/// A GIC interrupt number: 0..=15 SGI, 16..=31 PPI, 32..=1019 SPI, 1056..=1119 extended PPI, 4096..=5119 extended SPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntId(u32);

impl IntId {
    /// Wraps a number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How a device signals an interrupt. Flags of the GIC's and the AIC's bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Low-to-high edge.
    EdgeRising,
    /// High-to-low edge.
    EdgeFalling,
    /// Active while high; also where the tree doesn't say.
    LevelHigh,
    /// Active while low.
    LevelLow,
}

impl Trigger {
    const MASK: u32 = 0xf;

    fn from_flags(flags: u32) -> Self {
        match flags & Self::MASK {
            1 | 3 => Self::EdgeRising,
            2 => Self::EdgeFalling,
            8 => Self::LevelLow,
            _ => Self::LevelHigh,
        }
    }

    /// Whether the interrupt is latched by an edge.
    #[must_use]
    pub const fn is_edge(self) -> bool {
        matches!(self, Self::EdgeRising | Self::EdgeFalling)
    }
}

/// Where an interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterruptSource {
    /// An input of the GIC.
    Gic(IntId),
    /// An input of Apple's AIC.
    AicIrq {
        /// Die, 0 on machines with one.
        die: u32,
        /// Number on that die.
        number: u32,
    },
    /// A source of Apple's FIQ, which the AIC doesn't see.
    AicFiq {
        /// Die, 0 on machines with one.
        die: u32,
        /// 0 hypervisor physical timer, 1 hypervisor virtual, 2 guest physical, 3 guest virtual, 4 PMU of efficient
        /// cores, 5 PMU of fast cores.
        number: u32,
    },
}

/// An interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interrupt {
    /// Where it comes from.
    pub source: InterruptSource,
    /// How it is signalled.
    pub trigger: Trigger,
}

impl Interrupt {
    /// An interrupt of the GIC.
    #[must_use]
    pub const fn gic(number: u32, trigger: Trigger) -> Self {
        Self { source: InterruptSource::Gic(IntId::new(number)), trigger }
    }

    /// Its number at the GIC; `None` on machines without one.
    #[must_use]
    pub const fn int_id(&self) -> Option<IntId> {
        match self.source {
            InterruptSource::Gic(int_id) => Some(int_id),
            InterruptSource::AicIrq { .. } | InterruptSource::AicFiq { .. } => None,
        }
    }

    /// Reads a specifier; `None` if its controller is neither a GIC nor an AIC, or the numbers are out of range.
    #[must_use]
    pub fn from_specifier(specifier: &InterruptSpecifier<'_>) -> Option<Self> {
        let controller = &specifier.controller;
        let cells = specifier.cells.as_slice();
        if controller::is_one_of(controller, GIC_V2) || controller::is_one_of(controller, GIC_V3) {
            // A fourth cell, the affinity of a partitioned PPI, doesn't change the number.
            let &[kind, number, flags, ..] = cells else { return None };
            let (first, count) = *GIC_KINDS.get(usize::try_from(kind).ok()?)?;
            let number = first.checked_add(number).filter(|_| number < count)?;
            Some(Self::gic(number, Trigger::from_flags(flags)))
        } else if controller::is_one_of(controller, AIC) {
            let (kind, die, number, flags) = match *cells {
                [kind, number, flags] => (kind, 0, number, flags),
                [kind, die, number, flags] => (kind, die, number, flags),
                _ => return None,
            };
            let source = match kind {
                AIC_IRQ => InterruptSource::AicIrq { die, number },
                AIC_FIQ => InterruptSource::AicFiq { die, number },
                _ => return None,
            };
            Some(Self { source, trigger: Trigger::from_flags(flags) })
        } else {
            None
        }
    }

    /// The first interrupt of a device, if it has one that reaches a known controller.
    #[must_use]
    pub fn first_of(device: &Node<'_>) -> Option<Self> {
        Self::from_specifier(&device.interrupts().next()?.ok()?)
    }
}

/// First number and count of SPI, PPI, extended SPI and extended PPI, by the first cell of a GIC specifier.
const GIC_KINDS: [(u32, u32); 4] = [(32, 988), (16, 16), (4096, 1024), (1056, 64)];
/// First cell of an AIC specifier: an input of the controller.
const AIC_IRQ: u32 = 0;
/// First cell of an AIC specifier: a source of FIQ.
const AIC_FIQ: u32 = 1;

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            InterruptSource::Gic(int_id) => write!(f, "INTID {}", int_id.get()),
            InterruptSource::AicIrq { die: 0, number } => write!(f, "AIC IRQ {number}"),
            InterruptSource::AicIrq { die, number } => write!(f, "AIC die {die} IRQ {number}"),
            InterruptSource::AicFiq { number, .. } => write!(f, "FIQ {number}"),
        }
    }
}
