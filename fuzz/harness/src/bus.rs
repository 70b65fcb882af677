//! Streams of accesses to all devices of a machine on its bus.

use std::sync::Arc;

use bunshin::bus::{Bus, Device, Space, Width};
use bunshin::device::flash::ErasedFlash;
use bunshin::device::pl011::{Pl011, Revision};
use bunshin::device::pl031::Pl031;
use bunshin::network::{MacAddress, PortMode, PortSettings, Switch};
use bunshin::virtio::balloon::Balloon;
use bunshin::virtio::block::Block;
use bunshin::virtio::console::Console;
use bunshin::virtio::net::Net;
use bunshin::virtio::rng::Rng;
use bunshin::virtio::{Transport, VirtioDevice};

use crate::input::Input;
use crate::world::{Disk, Line, Memory, Outside};

/// Length of every window, and distance of their starts.
const WINDOW: u64 = 0x1000;

fn virtio<D: VirtioDevice + 'static>(device: D, memory: &Arc<Memory>) -> Arc<dyn Device> {
    Arc::new(Transport::new(device, memory.clone(), Arc::new(Line::default())))
}

/// A machine with one device of each kind, and accesses of a hostile guest.
pub fn bus(data: &[u8]) {
    let outside = Arc::new(Outside::default());
    let memory = Memory::new();
    let line = || Arc::new(Line::default());
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let switch = Switch::new();
    let port = switch.add_port(PortSettings { mac: Some(mac), mode: PortMode::Trunk }).unwrap();
    let devices: [Arc<dyn Device>; 8] = [
        Arc::new(Pl011::new(Revision::R1p5, outside.clone(), line())),
        Arc::new(Pl031::new(outside.clone(), line())),
        Arc::new(ErasedFlash),
        virtio(Console::new(outside.clone()), &memory),
        virtio(Rng::new(outside.clone()), &memory),
        virtio(Balloon::new(outside.clone()), &memory),
        virtio(Block::new(Disk::new(), "fuzz"), &memory),
        virtio(Net::new(port, mac), &memory),
    ];
    let mut bus = Bus::new();
    for (slot, device) in (0u64..).zip(devices) {
        bus.attach(Space::Memory, slot * WINDOW, WINDOW, device).unwrap();
    }
    let mut input = Input::new(data);
    while !input.is_empty() {
        let operation = input.u8();
        let width = [Width::Word, Width::Byte, Width::Half, Width::Double];
        let width = width[usize::from(operation & 3)];
        let address = u64::from(operation >> 5) * WINDOW + u64::from(input.u8()) * 4;
        let address = address + if operation & 16 != 0 { u64::from(input.u8()) } else { 0 };
        match (operation >> 2) & 3 {
            0 => {
                if let Some((device, offset)) = bus.find(Space::Memory, address, width)
                    && let Ok(value) = device.read(offset, width)
                {
                    assert!(value <= width.mask());
                }
            }
            1 | 2 => {
                let value = if operation & 8 != 0 { input.u64() } else { input.u8().into() };
                if let Some((device, offset)) = bus.find(Space::Memory, address, width) {
                    let _ = device.write_some(offset, width, value & width.mask());
                }
            }
            _ => {
                let (offset, length) = (input.u16(), input.u8());
                memory.put(offset.into(), input.bytes(length.into()));
            }
        }
    }
    bus.reset();
}
