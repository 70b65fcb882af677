//! Devices beyond those of the standard machine.

use super::{
    CLOCK_PHANDLE, DescriptionError, EDGE_RISING, GuestDescription, LEVEL_HIGH, Node, PPI, SPI,
    is_name, private_flags,
};
use crate::guest::{GuestRange, layout};
use alloc::vec;
use alloc::vec::Vec;

/// The last number of a shared interrupt.
const LAST_SPI: u32 = 1019;

/// An interrupt of a device of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestInterrupt {
    /// Its number at the guest's interrupt controller: 16 to 31 private, 32 to 1019 shared.
    pub int_id: u32,
    /// Signalled by a rising edge instead of a high level.
    pub edge: bool,
}

impl GuestInterrupt {
    /// The specifier; `None` if the number is no device's. `cpus` are the flags of a private one.
    fn cells(&self, cpus: u32) -> Option<[u32; 3]> {
        let (kind, first, flags) = match self.int_id {
            layout::FIRST_PPI..layout::FIRST_SPI => (PPI, layout::FIRST_PPI, cpus),
            layout::FIRST_SPI..=LAST_SPI => (SPI, layout::FIRST_SPI, 0),
            _ => return None,
        };
        let trigger = if self.edge { EDGE_RISING } else { LEVEL_HIGH };
        Some([kind, self.int_id.checked_sub(first)?, flags | trigger])
    }
}

/// A device beyond those of the standard machine, such as one of the host that is passed to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDevice<'a> {
    /// Name of the node, without address.
    pub name: &'a str,
    /// The programming models that it follows, the most specific first.
    pub compatible: &'a [&'a str],
    /// Its registers, at least one range.
    pub registers: &'a [GuestRange],
    /// Its interrupts.
    pub interrupts: &'a [GuestInterrupt],
    /// Names of the clocks that its driver asks for; each is the fixed clock of the machine.
    pub clock_names: &'a [&'a str],
    /// Other properties, with their values in the form of a blob.
    pub properties: &'a [(&'a str, &'a [u8])],
}

impl GuestDevice<'_> {
    pub(super) fn check(&self) -> Result<(), DescriptionError> {
        if !is_name(self.name) {
            return Err(DescriptionError::Name { what: "device" });
        }
        // Names of properties may have two characters more.
        if !self.properties.iter().all(|(name, _)| is_name(&name.replace(['#', '?'], "_"))) {
            return Err(DescriptionError::Name { what: "property" });
        }
        if self.compatible.iter().chain(self.clock_names).any(|text| text.contains('\0')) {
            return Err(DescriptionError::Nul { text: "compatible or clock name" });
        }
        if self.registers.is_empty() {
            return Err(DescriptionError::NoRegisters);
        }
        match self.interrupts.iter().find(|interrupt| interrupt.cells(0).is_none()) {
            Some(interrupt) => Err(DescriptionError::NoInterrupt { int_id: interrupt.int_id }),
            None => Ok(()),
        }
    }

    pub(super) fn node(&self, guest: &GuestDescription<'_>) -> Option<Node> {
        let cpus = private_flags(guest) & !LEVEL_HIGH;
        let interrupts: Vec<u32> = self
            .interrupts
            .iter()
            .filter_map(|interrupt| interrupt.cells(cpus))
            .flatten()
            .collect();
        let mut node = Node::at(self.name, self.registers.first()?.base());
        for (name, value) in self.properties {
            node = node.bytes(name, value);
        }
        if !self.clock_names.is_empty() {
            let clocks = vec![CLOCK_PHANDLE; self.clock_names.len()];
            node = node.texts("clock-names", self.clock_names).cells("clocks", &clocks);
        }
        if !interrupts.is_empty() {
            node = node.cells("interrupts", &interrupts);
        }
        Some(node.reg(self.registers).texts("compatible", self.compatible))
    }
}
