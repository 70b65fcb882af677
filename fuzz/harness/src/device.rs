//! One virtio device and a hostile guest each.

use std::sync::Arc;

use bunshin::console::ConsoleInput;
use bunshin::network::{MacAddress, PortMode, PortSettings, Switch, VlanId};
use bunshin::virtio::balloon::Balloon;
use bunshin::virtio::block::Block;
use bunshin::virtio::console::Console;
use bunshin::virtio::net::Net;
use bunshin::virtio::rng::Rng;

use crate::guest::Guest;
use crate::input::Input;
use crate::world::{Disk, Outside};

/// The console; from outside come typed bytes.
pub fn console(data: &[u8]) {
    let mut input = Input::new(data);
    let device = Console::new(Arc::new(Outside::default()));
    Guest::new(device, input.u64()).run(&mut input, |device, input| {
        for byte in 0..input.u8() {
            device.receive(byte);
        }
    });
}

/// A disk; from outside come failures of its medium.
pub fn block(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = Disk::new();
    let device = Block::new(disk.clone(), "fuzz");
    Guest::new(device, input.u64()).run(&mut input, |_, input| {
        disk.break_down(input.u8() % 4 == 0);
    });
}

/// A network device; from outside come frames.
pub fn net(data: &[u8]) {
    let mut input = Input::new(data);
    let switch = Switch::new();
    let mac = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
    let mode = PortMode::Access(VlanId::UNTAGGED);
    let port = switch.add_port(PortSettings { mac: Some(mac), mode }).unwrap();
    let uplink = switch.add_port(PortSettings { mac: None, mode: PortMode::Trunk }).unwrap();
    let outside = Arc::new(Outside::default());
    uplink.connect(&outside);
    let mut guest = Guest::new(Net::new(port.clone(), mac), input.u64());
    port.connect(&guest.device);
    guest.run(&mut input, |_, input| {
        let (kind, length) = (input.u8(), usize::from(input.u16() % 1600));
        let mut frame = vec![0xff; length];
        if kind & 1 != 0 {
            frame.iter_mut().zip(mac.0).for_each(|(target, byte)| *target = byte);
        }
        let bytes = input.bytes(usize::from(kind >> 2));
        frame.iter_mut().skip(6).zip(bytes).for_each(|(target, byte)| *target = *byte);
        uplink.send(&frame);
    });
}

/// The source of random numbers.
pub fn rng(data: &[u8]) {
    let mut input = Input::new(data);
    let device = Rng::new(Arc::new(Outside::default()));
    Guest::new(device, input.u64()).run(&mut input, |_, _| {});
}

/// The balloon; from outside come targets and questions.
pub fn balloon(data: &[u8]) {
    let mut input = Input::new(data);
    let device = Balloon::new(Arc::new(Outside::default()));
    Guest::new(device, input.u64()).run(&mut input, |device, input| {
        device.set_target(input.u32());
        device.request_statistics();
        let _ = (device.statistics(), device.actual());
    });
}
