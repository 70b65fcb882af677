//! The virtual network: a switch for Ethernet frames between virtual machines
//! and uplinks.

pub mod frame;
pub mod port;
pub mod switch;
mod table;

pub use frame::{MacAddress, VlanId};
pub use port::{Port, PortCounters, PortMode, PortSettings, PortSink};
pub use switch::Switch;
