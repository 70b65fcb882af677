use std::sync::Mutex;

use super::*;
use crate::network::PortSink;
use crate::network::frame::{LONGEST, VlanId};

const BROADCAST: MacAddress = MacAddress([0xff; 6]);

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, number])
}

/// What is plugged into a port of the test.
#[derive(Default)]
struct Station {
    seen: Mutex<Vec<Vec<u8>>>,
}

impl PortSink for Station {
    fn deliver(&self, frame: &[u8]) -> bool {
        self.seen.lock().unwrap().push(frame.to_vec());
        true
    }
}

struct Network {
    switch: Arc<Switch>,
    ports: Vec<Arc<Port>>,
    stations: Vec<Arc<Station>>,
}

impl Network {
    fn new(ports: &[(Option<u8>, PortMode)]) -> Self {
        let switch = Switch::new();
        let ports: Vec<_> = ports
            .iter()
            .map(|(address, mode)| {
                let settings = PortSettings { mac: address.map(mac), mode: *mode };
                switch.add_port(settings).unwrap()
            })
            .collect();
        let stations: Vec<_> = ports.iter().map(|_| Arc::new(Station::default())).collect();
        for (port, station) in ports.iter().zip(&stations) {
            port.connect(station);
        }
        Network { switch, ports, stations }
    }

    /// Who gets what, when `from` sends `frame`.
    fn send(&self, from: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.ports[from].send(frame);
        let mut seen = Vec::new();
        for (number, station) in self.stations.iter().enumerate() {
            for frame in std::mem::take(&mut *station.seen.lock().unwrap()) {
                seen.push((number, frame));
            }
        }
        seen
    }

    /// Who gets anything of it.
    fn receivers(&self, from: usize, frame: &[u8]) -> Vec<usize> {
        self.send(from, frame).into_iter().map(|(number, _)| number).collect()
    }
}

fn access(vlan: u16) -> PortMode {
    PortMode::Access(VlanId::new(vlan).unwrap())
}

fn frame(destination: MacAddress, source: MacAddress) -> Vec<u8> {
    [&destination.0[..], &source.0, &[8, 0], &[0xaa; 46]].concat()
}

fn tagged(destination: MacAddress, source: MacAddress, tag: u16) -> Vec<u8> {
    let mut bytes = frame(destination, source);
    bytes.splice(12..12, [0x81, 0, (tag >> 8) as u8, tag as u8]);
    bytes
}

#[test]
fn a_frame_goes_to_whom_it_names_and_a_broadcast_to_all_others() {
    let network = Network::new(&[(Some(0), access(0)), (Some(1), access(0)), (Some(2), access(0))]);
    let to_two = frame(mac(2), mac(0));
    assert_eq!(network.send(0, &to_two), [(2, to_two.clone())]);
    assert_eq!(network.receivers(1, &frame(BROADCAST, mac(1))), [0, 2]);
    assert_eq!(network.receivers(1, &frame(MacAddress([1, 0, 0x5e, 0, 0, 1]), mac(1))), [0, 2]);
    assert_eq!(network.receivers(1, &frame(mac(9), mac(1))), [], "unknown, and nobody can be it");
    assert_eq!(network.receivers(1, &frame(mac(1), mac(1))), [], "itself");
    assert_eq!(network.ports[2].counters().received, 3);
    assert_eq!(network.ports[1].counters().sent, 4);
}

#[test]
fn stations_behind_uplinks_are_learned() {
    let network = Network::new(&[(Some(0), access(0)), (None, access(0)), (None, access(0))]);
    assert_eq!(network.receivers(0, &frame(mac(7), mac(0))), [1, 2]);
    assert_eq!(network.receivers(1, &frame(mac(0), mac(7))), [0]);
    assert_eq!(network.receivers(0, &frame(mac(7), mac(0))), [1]);
    assert_eq!(network.receivers(2, &frame(mac(0), mac(7))), [0], "it has moved");
    assert_eq!(network.receivers(0, &frame(mac(7), mac(0))), [2]);
    assert_eq!(network.receivers(2, &frame(mac(7), mac(6))), [], "both are on the same side");
}

#[test]
fn nobody_sends_in_the_name_of_another() {
    let network = Network::new(&[(Some(0), access(0)), (Some(1), access(0)), (None, access(0))]);
    assert_eq!(network.receivers(0, &frame(mac(1), mac(2))), []);
    assert_eq!(network.receivers(0, &frame(mac(0), mac(1))), []);
    assert_eq!(network.receivers(2, &frame(mac(1), mac(0))), [], "from outside");
    assert_eq!(network.ports[0].counters().spoofed, 2);
    assert_eq!(network.ports[2].counters().spoofed, 1);
    assert_eq!(network.receivers(1, &frame(mac(0), mac(1))), [0], "nothing was learned of it");
}

#[test]
fn lans_are_apart() {
    let network = Network::new(&[
        (Some(0), access(5)),
        (Some(1), access(5)),
        (Some(1), access(6)),
        (Some(3), access(0)),
        (None, PortMode::Trunk),
        (None, access(6)),
    ]);
    let plain = frame(BROADCAST, mac(0));
    assert_eq!(
        network.send(0, &plain),
        [(1, plain.clone()), (4, tagged(BROADCAST, mac(0), 5))],
        "tagged on the trunk"
    );
    assert_eq!(network.receivers(0, &frame(mac(1), mac(0))), [1], "the same address twice");
    assert_eq!(network.receivers(2, &frame(mac(3), mac(1))), [4, 5], "unknown on this LAN");
    let plain = frame(mac(3), mac(8));
    assert_eq!(network.send(4, &plain), [(3, plain.clone())]);
    assert_eq!(
        network.send(4, &tagged(mac(1), mac(8), 0xe006)),
        [(2, frame(mac(1), mac(8)))],
        "without its tag and priority"
    );
    assert_eq!(network.receivers(4, &tagged(mac(1), mac(8), 4095)), []);
    assert_eq!(network.receivers(4, &tagged(mac(1), mac(8), 7)), []);
}

#[test]
fn a_guest_does_not_leave_its_lan_by_a_tag() {
    let network =
        Network::new(&[(Some(0), access(0)), (Some(1), access(5)), (None, PortMode::Trunk)]);
    assert_eq!(network.receivers(0, &tagged(mac(1), mac(0), 5)), []);
    assert_eq!(network.ports[0].counters().vlan, 1);
    let priority = tagged(BROADCAST, mac(0), 0xa000);
    assert_eq!(network.send(0, &priority), [(2, frame(BROADCAST, mac(0)))]);
}

#[test]
fn malformed_frames_go_nowhere() {
    let network = Network::new(&[(Some(0), access(0)), (None, PortMode::Trunk)]);
    let whole = frame(BROADCAST, mac(0));
    for length in 0..14 {
        assert_eq!(network.receivers(0, &whole[..length]), [], "{length}");
    }
    let mut long = whole.clone();
    long.resize(LONGEST + 1, 0);
    assert_eq!(network.receivers(0, &long), []);
    assert_eq!(network.receivers(0, &long[..LONGEST]), [1]);
    let mut long = tagged(BROADCAST, mac(8), 5);
    assert_eq!(network.receivers(1, &long[..17]), []);
    long.resize(LONGEST + 5, 0);
    assert_eq!(network.receivers(1, &long), []);
    assert_eq!(network.receivers(0, &frame(BROADCAST, BROADCAST)), []);
    assert_eq!(network.ports[0].counters().malformed, 16);
}

#[test]
fn ports_that_contradict_others_are_refused() {
    let network = Network::new(&[(Some(0), access(5))]);
    let settings = |number, mode| PortSettings { mac: Some(number), mode };
    let add = |settings| network.switch.add_port(settings).err();
    let five = VlanId::new(5).unwrap();
    assert_eq!(add(settings(mac(0), access(5))), Some(PortError::Duplicate(mac(0), five)));
    assert_eq!(add(settings(BROADCAST, access(5))), Some(PortError::Group(BROADCAST)));
    assert_eq!(add(settings(mac(0), access(6))), None);
    assert_eq!(VlanId::new(4095), None);
}

#[test]
fn frames_for_nobody_are_counted_as_lost() {
    let switch = Switch::new();
    let settings = |number| PortSettings { mac: Some(mac(number)), mode: access(0) };
    let from = switch.add_port(settings(0)).unwrap();
    let to = switch.add_port(settings(1)).unwrap();
    from.send(&frame(mac(1), mac(0)));
    let station = Arc::new(Station::default());
    to.connect(&station);
    drop(station);
    from.send(&frame(mac(1), mac(0)));
    assert_eq!(to.counters().lost, 2);
}
