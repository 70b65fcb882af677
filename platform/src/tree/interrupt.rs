//! Which interrupts a device raises, and at which controller (Devicetree Specification 0.4, 2.4).

use super::{Node, Property, PropertyError, blob};

/// Largest `#interrupt-cells` that is understood: 3 or 4 for a GIC and for Apple's AIC.
pub const MAX_INTERRUPT_CELLS: usize = 4;
/// Largest `#address-cells` of a nexus that is understood: 3 for PCI.
const MAX_UNIT_CELLS: usize = 4;
/// How many interrupt parents and nexus nodes are followed before the tree is taken for a circle.
const MAX_HOPS: usize = 64;

/// Up to [`MAX_INTERRUPT_CELLS`] numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cells {
    cells: [u32; MAX_INTERRUPT_CELLS],
    count: usize,
}

impl Cells {
    /// The numbers.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.cells.get(..self.count).unwrap_or_default()
    }

    /// Reads `count` cells off the front of `bytes`.
    fn take(bytes: &mut &[u8], count: usize) -> Option<Self> {
        let length = count.checked_mul(4)?;
        let (value, rest) = bytes.split_at_checked(length)?;
        let mut cells = Self { cells: [0; MAX_INTERRUPT_CELLS], count };
        for (cell, bytes) in cells.cells.get_mut(..count)?.iter_mut().zip(value.chunks_exact(4)) {
            *cell = blob::word(bytes, 0)?;
        }
        *bytes = rest;
        Some(cells)
    }
}

/// An interrupt in the terms of its controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptSpecifier<'t> {
    /// The controller.
    pub controller: Node<'t>,
    /// As many cells as the controller's `#interrupt-cells` says.
    pub cells: Cells,
}

/// Iterator over a device's interrupts. It ends after the first error.
#[derive(Clone, Debug)]
pub struct Interrupts<'t> {
    device: Node<'t>,
    rest: &'t [u8],
    form: Form<'t>,
}

#[derive(Clone, Debug)]
enum Form<'t> {
    /// `interrupts-extended`: each specifier has its controller's phandle in front.
    Extended(Property<'t>),
    /// `interrupts`: all have the same controller.
    Plain(Property<'t>),
    None,
}

impl<'t> Interrupts<'t> {
    pub(super) fn of(device: Node<'t>) -> Self {
        let form = match device.property("interrupts-extended") {
            Some(property) => Form::Extended(property),
            None => device.property("interrupts").map_or(Form::None, Form::Plain),
        };
        let rest = match form {
            Form::Extended(property) | Form::Plain(property) => property.value(),
            Form::None => &[],
        };
        Self { device, rest, form }
    }

    fn read(&mut self) -> Result<InterruptSpecifier<'t>, PropertyError> {
        let (property, controller) = match self.form {
            Form::Extended(property) => {
                let phandle = Cells::take(&mut self.rest, 1)
                    .and_then(|cells| cells.as_slice().first().copied())
                    .and_then(|phandle| self.device.tree().by_phandle(phandle))
                    .ok_or_else(|| property.fault("a phandle names no node"))?;
                (property, phandle)
            }
            Form::Plain(property) => {
                let parent = interrupt_parent(self.device)
                    .ok_or_else(|| property.fault("the device has no interrupt parent"))?;
                (property, parent)
            }
            Form::None => return Err(self.device.fault("interrupts", "it is missing")),
        };
        let cells = controller
            .interrupt_cells()
            .filter(|count| (1..=MAX_INTERRUPT_CELLS).contains(count))
            .ok_or_else(|| {
                property.fault("the interrupt controller hasn't 1 to 4 #interrupt-cells")
            })?;
        let cells = Cells::take(&mut self.rest, cells)
            .ok_or_else(|| property.fault("the value isn't a whole number of interrupts"))?;
        follow_maps(self.device, InterruptSpecifier { controller, cells }, &property)
    }
}

impl<'t> Iterator for Interrupts<'t> {
    type Item = Result<InterruptSpecifier<'t>, PropertyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let interrupt = self.read();
        if interrupt.is_err() {
            self.rest = &[];
        }
        Some(interrupt)
    }
}

/// The nearest interrupt controller or nexus above: each node's own `interrupt-parent` or else its parent, until one
/// has `#interrupt-cells`.
fn interrupt_parent(device: Node<'_>) -> Option<Node<'_>> {
    let up = |node: &Node<'_>| node.interrupt_cells().is_none();
    let mut node = device;
    for _ in 0..MAX_HOPS {
        node = match node.own_interrupt_parent() {
            Some(phandle) => node.tree().by_phandle(phandle)?,
            None => node.parent()?,
        };
        if !up(&node) {
            return Some(node);
        }
    }
    None
}

/// Follows `interrupt-map`s up to a controller (Devicetree Specification 0.4, 2.4.3).
fn follow_maps<'t>(
    device: Node<'t>,
    interrupt: InterruptSpecifier<'t>,
    property: &Property<'t>,
) -> Result<InterruptSpecifier<'t>, PropertyError> {
    let mut interrupt = interrupt;
    // Beyond the first nexus the unit address comes from the map; zeros stand for one that isn't compared.
    let mut unit = unit_address(device);
    for _ in 0..MAX_HOPS {
        let nexus = interrupt.controller;
        if nexus.property("interrupt-controller").is_some() {
            return Ok(interrupt);
        }
        let Some(map) = nexus.property("interrupt-map") else { return Ok(interrupt) };
        (unit, interrupt) = look_up(nexus, &map, &unit, &interrupt.cells)
            .ok_or_else(|| map.fault("no entry maps an interrupt of a device below"))?;
    }
    Err(property.fault("the interrupt maps form a circle"))
}

type UnitAddress = [u32; MAX_UNIT_CELLS];

/// The cells of the first address of a device.
fn unit_address(device: Node<'_>) -> UnitAddress {
    let mut unit = UnitAddress::default();
    if let Some(reg) = device.property("reg") {
        for (cell, value) in unit.iter_mut().zip(reg.cells()) {
            *cell = value;
        }
    }
    unit
}

fn look_up<'t>(
    nexus: Node<'t>,
    map: &Property<'t>,
    unit: &UnitAddress,
    interrupt: &Cells,
) -> Option<(UnitAddress, InterruptSpecifier<'t>)> {
    let unit_cells = nexus.address_cells();
    let unit = unit.get(..unit_cells)?;
    let interrupt_cells = interrupt.as_slice().len();
    let mask = nexus.property("interrupt-map-mask");
    let wanted = unit.iter().chain(interrupt.as_slice());
    let mut rest = map.value();
    while !rest.is_empty() {
        let key_length = unit_cells.checked_add(interrupt_cells)?.checked_mul(4)?;
        let (key, tail) = rest.split_at_checked(key_length)?;
        rest = tail;
        let parent = Cells::take(&mut rest, 1)?;
        let parent = map_parent(nexus, parent)?;
        let address_cells = parent.interrupt_address_cells();
        let (address, tail) = rest.split_at_checked(address_cells.checked_mul(4)?)?;
        rest = tail;
        let cells = parent.interrupt_cells().filter(|count| *count <= MAX_INTERRUPT_CELLS)?;
        let cells = Cells::take(&mut rest, cells)?;

        let mut masks = mask.iter().flat_map(Property::cells).chain(core::iter::repeat(u32::MAX));
        let matches = wanted.clone().zip(key.chunks_exact(4)).all(|(value, key)| {
            let mask = masks.next().unwrap_or(u32::MAX);
            blob::word(key, 0).is_some_and(|key| value & mask == key & mask)
        });
        if matches {
            let mut unit = UnitAddress::default();
            for (cell, bytes) in unit.iter_mut().zip(address.chunks_exact(4)) {
                *cell = blob::word(bytes, 0)?;
            }
            return Some((unit, InterruptSpecifier { controller: parent, cells }));
        }
    }
    None
}

fn map_parent<'t>(nexus: Node<'t>, phandle: Cells) -> Option<Node<'t>> {
    nexus.tree().by_phandle(phandle.as_slice().first().copied()?)
}
