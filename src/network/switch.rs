//! A learning layer-2 switch.
//!
//! A frame goes to the port whose address it names, to the port behind which
//! the address was heard lately, or else to all ports of its LAN behind which there may be
//! anybody. A frame for a group goes to all ports of its LAN. Nobody can
//! send by an address that belongs to another port, and a guest cannot leave
//! its LAN.
//!
//! Lock order: the switch's state is taken alone. It is released before a
//! frame is delivered.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::mutex::TicketMutex;

use crate::network::frame::{Frame, LONGEST_TAGGED, MacAddress, VlanId};
use crate::network::port::{Port, PortMode, PortSettings, Refusal};
use crate::network::table::{Station, Table};

/// Most ports of a switch.
pub const MAX_PORTS: usize = 1024;

/// Why there is no such port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another port on the LAN has the address.
    #[error("two network devices on VLAN {1} have the address {0}; change one of them")]
    Duplicate(MacAddress, VlanId),
    /// A group of stations cannot send.
    #[error("{0} is a group address; give one whose first byte is even")]
    Group(MacAddress),
    /// There are [`MAX_PORTS`] already.
    #[error("the switch has {MAX_PORTS} ports already; use fewer network devices")]
    Full,
}

struct State {
    ports: Vec<Arc<Port>>,
    /// Ports by the address that only they have.
    fixed: BTreeMap<Station, usize>,
    learned: Table,
}

/// A switch.
pub struct Switch {
    state: TicketMutex<State>,
}

/// Where a frame goes.
enum Destination {
    Port(Arc<Port>),
    All,
    Nowhere,
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Arc<Self> {
        let state = State { ports: Vec::new(), fixed: BTreeMap::new(), learned: Table::new() };
        Arc::new(Switch { state: TicketMutex::new(state) })
    }

    /// Adds a port. Frames for it are lost until [`Port::connect`].
    ///
    /// # Errors
    /// [`PortError`].
    pub fn add_port(self: &Arc<Self>, settings: PortSettings) -> Result<Arc<Port>, PortError> {
        let mut state = self.state.lock();
        let number = state.ports.len();
        if number >= MAX_PORTS {
            return Err(PortError::Full);
        }
        if let Some(mac) = settings.mac {
            if mac.is_group() {
                return Err(PortError::Group(mac));
            }
            let vlan = match settings.mode {
                PortMode::Access(vlan) => vlan,
                PortMode::Trunk => VlanId::UNTAGGED,
            };
            if state.fixed.contains_key(&(vlan, mac)) {
                return Err(PortError::Duplicate(mac, vlan));
            }
            state.fixed.insert((vlan, mac), number);
        }
        let port = Arc::new(Port::new(self, number, settings));
        state.ports.push(port.clone());
        Ok(port)
    }

    /// Forwards a frame that came in by `from`. Gives the number of ports to which it went.
    pub(super) fn forward(&self, from: &Port, bytes: &[u8]) -> Result<usize, Refusal> {
        let frame = Frame::parse(bytes).ok_or(Refusal::Malformed)?;
        if frame.source.is_group() {
            return Err(Refusal::Malformed);
        }
        let vlan = match (from.settings.mode, frame.tag) {
            (PortMode::Access(vlan), None | Some(0)) => vlan,
            (PortMode::Access(_), Some(_)) => return Err(Refusal::Vlan),
            (PortMode::Trunk, tag) => VlanId::new(tag.unwrap_or(0)).ok_or(Refusal::Vlan)?,
        };
        let mut space = [0; LONGEST_TAGGED];
        let mut copies = 0usize;
        let mut hand_over = |port: &Port| {
            copies = copies.saturating_add(1);
            let tagged = port.settings.mode == PortMode::Trunk;
            port.deliver(frame.with_tag(vlan, tagged, &mut space));
        };
        match self.route(from, vlan, &frame)? {
            Destination::Port(port) => hand_over(&port),
            Destination::All => {
                let mut number = 0;
                while let Some(port) = self.port(number) {
                    if number != from.number
                        && port.settings.is_on(vlan)
                        && port.settings.may_concern(&frame)
                    {
                        hand_over(&port);
                    }
                    number = number.saturating_add(1);
                }
            }
            Destination::Nowhere => {}
        }
        Ok(copies)
    }

    fn port(&self, number: usize) -> Option<Arc<Port>> {
        self.state.lock().ports.get(number).cloned()
    }

    /// Learns from a frame and finds out where it goes.
    fn route(&self, from: &Port, vlan: VlanId, frame: &Frame<'_>) -> Result<Destination, Refusal> {
        let mut state = self.state.lock();
        let source = (vlan, frame.source);
        match from.settings.mac {
            Some(mac) if mac != frame.source => return Err(Refusal::Spoofed),
            Some(_) => {}
            None if state.fixed.contains_key(&source) => return Err(Refusal::Spoofed),
            None => state.learned.learn(source, from.number),
        }
        if frame.destination.is_group() {
            return Ok(Destination::All);
        }
        let station = (vlan, frame.destination);
        let number = state.fixed.get(&station).copied().or_else(|| state.learned.find(station));
        Ok(match number {
            Some(number) if number == from.number => Destination::Nowhere,
            Some(number) => {
                state.ports.get(number).cloned().map_or(Destination::Nowhere, Destination::Port)
            }
            None => Destination::All,
        })
    }
}

#[cfg(test)]
mod tests;
