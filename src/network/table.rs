//! What a switch has learned of which station is behind which port.

use alloc::vec;
use alloc::vec::Vec;

use crate::network::frame::{MacAddress, VlanId};

/// Stations in one bucket.
const WAYS: usize = 4;
/// Buckets, a power of two.
const BUCKETS: usize = 256;
/// A station is forgotten when this many frames were learned from since it
/// was last heard.
pub(super) const AGE: u64 = 1 << 16;

/// A station: an address on a LAN.
pub(super) type Station = (VlanId, MacAddress);

#[derive(Debug, Clone, Copy)]
struct Entry {
    station: Station,
    port: usize,
    /// Count of learned frames when it was last heard.
    heard: u64,
}

/// A table of fixed size. In a full bucket the station that was not heard for
/// longest gives way, so no flood of addresses can make it grow.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<[Option<Entry>; WAYS]>,
    /// Frames learned from.
    count: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        Table { entries: vec![[None; WAYS]; BUCKETS], count: 0 }
    }

    /// FNV-1a over LAN and address.
    fn bucket((vlan, mac): Station) -> usize {
        let bytes = vlan.get().to_le_bytes().into_iter().chain(mac.0);
        let hash = bytes
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        (hash ^ hash >> 16) as usize & (BUCKETS - 1)
    }

    /// A frame from `station` came in by `port`.
    pub(super) fn learn(&mut self, station: Station, port: usize) {
        self.count = self.count.wrapping_add(1);
        let entry = Entry { station, port, heard: self.count };
        let Some(bucket) = self.entries.get_mut(Self::bucket(station)) else { return };
        let known = bucket.iter().position(|e| e.is_some_and(|e| e.station == station));
        let oldest = bucket.iter().enumerate().min_by_key(|(_, e)| e.map_or(0, |e| e.heard));
        let place = known.or(oldest.map(|(place, _)| place));
        if let Some(slot) = place.and_then(|place| bucket.get_mut(place)) {
            *slot = Some(entry);
        }
    }

    /// The port behind which `station` was heard lately.
    pub(super) fn find(&self, station: Station) -> Option<usize> {
        let bucket = self.entries.get(Self::bucket(station))?;
        let entry = bucket.iter().flatten().find(|entry| entry.station == station)?;
        (self.count.wrapping_sub(entry.heard) < AGE).then_some(entry.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(number: u32) -> Station {
        let [a, b, c, d] = number.to_be_bytes();
        (VlanId::UNTAGGED, MacAddress([2, 0, a, b, c, d]))
    }

    #[test]
    fn a_station_is_where_it_was_heard_last() {
        let mut table = Table::new();
        assert_eq!(table.find(station(1)), None);
        table.learn(station(1), 3);
        table.learn(station(2), 4);
        table.learn(station(1), 5);
        assert_eq!(table.find(station(1)), Some(5));
        assert_eq!(table.find(station(2)), Some(4));
        let elsewhere = (VlanId::new(7).unwrap(), station(1).1);
        assert_eq!(table.find(elsewhere), None);
    }

    #[test]
    fn a_silent_station_is_forgotten() {
        let mut table = Table::new();
        table.learn(station(1), 3);
        for _ in 1..AGE {
            table.learn(station(2), 4);
        }
        assert_eq!(table.find(station(1)), Some(3));
        table.learn(station(2), 4);
        assert_eq!(table.find(station(1)), None);
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_space_and_spares_who_talks() {
        let mut table = Table::new();
        for number in 0..100_000 {
            table.learn(station(number), 9);
            table.learn(station(u32::MAX), 1);
        }
        assert_eq!(table.find(station(u32::MAX)), Some(1));
        assert_eq!(table.entries.len() * WAYS, BUCKETS * WAYS);
    }
}
