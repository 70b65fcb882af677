//! Exits that end with an answer to one instruction.

use crate::address::GuestAddress;
use crate::bus::{Space, Width};
use crate::exit::{Completion, Exit, FaultAccess, IoAccess, Operation};
use crate::fake::device::{Asked, Recorder};
use crate::fake::vcpu::{Event, Op};
use crate::fake::world::{DEVICE, PORT, World};
use crate::statistics::ExitKind;
use crate::vm::State;

const WIDTHS: [Width; 4] = [Width::Byte, Width::Half, Width::Word, Width::Double];

fn access(space: Space, address: u64, width: Width, operation: Operation) -> IoAccess {
    let completion = Completion { register: 1, width, sign_extend: false, wide: true, length: 4 };
    IoAccess { space, address, width, operation, completion }
}

/// What the device is asked and how the guest's instructions end.
fn outcome(exits: &[Exit]) -> (Vec<Asked>, Vec<Event>) {
    let ops: Vec<_> = exits.iter().copied().map(Op::Exit).collect();
    let world = World::of_one(&ops);
    world.settle();
    let noise = [Event::MachineReset, Event::Load(0), Event::Save(0)];
    let mut events = world.vms[0].machine.take_trace();
    events.retain(|event| !noise.contains(event) && !matches!(event, Event::Start(..)));
    let mut asked = world.devices[0].take();
    asked.retain(|asked| *asked != Asked::Reset);
    (asked, events)
}

#[test]
fn a_read_of_every_width_gives_the_low_bytes_zero_extended() {
    for (space, base) in [(Space::Memory, DEVICE), (Space::Port, PORT)] {
        for width in WIDTHS {
            let read = access(space, base + 8, width, Operation::Read);
            let (asked, events) = outcome(&[Exit::Io(read)]);
            assert_eq!(asked, [Asked::Read(8, width)]);
            assert_eq!(events, [Event::Completed(0, Recorder::VALUE & width.mask())]);
        }
    }
}

#[test]
fn a_write_that_is_too_much_at_once_is_repeated_until_it_is_done() {
    let slow = DEVICE + Recorder::SLOW;
    let write = access(Space::Memory, slow, Width::Word, Operation::Write(7));
    let (asked, events) = outcome(&[Exit::Io(write)]);
    assert_eq!(asked, [Asked::Write(Recorder::SLOW, Width::Word, 7); 3]);
    assert_eq!(events, [Event::Repeated(0), Event::Repeated(0), Event::Completed(0, 0)]);
}

#[test]
fn a_completion_says_how_the_value_is_extended() {
    for (width, wide, expected) in [
        (Width::Byte, false, 0xffff_ff88),
        (Width::Byte, true, 0xffff_ffff_ffff_ff88),
        (Width::Half, false, 0xffff_8788),
        (Width::Half, true, 0xffff_ffff_ffff_8788),
        (Width::Word, true, 0xffff_ffff_8586_8788),
        (Width::Double, true, Recorder::VALUE),
    ] {
        let mut read = access(Space::Memory, DEVICE, width, Operation::Read);
        read.completion.sign_extend = true;
        read.completion.wide = wide;
        assert_eq!(outcome(&[Exit::Io(read)]).1, [Event::Completed(0, expected)], "{width:?}");
    }
}

#[test]
fn a_write_of_every_width_reaches_the_device() {
    for (space, base) in [(Space::Memory, DEVICE), (Space::Port, PORT)] {
        for width in WIDTHS {
            let value = Recorder::VALUE & width.mask();
            let write = access(space, base + 0x10, width, Operation::Write(value));
            let (asked, events) = outcome(&[Exit::Io(write)]);
            assert_eq!(asked, [Asked::Write(0x10, width, value)]);
            assert_eq!(events, [Event::Completed(0, 0)]);
        }
    }
}

#[test]
fn an_access_that_nobody_answers_faults() {
    let end = DEVICE + Recorder::SIZE;
    for (space, address, width) in [
        (Space::Memory, 0, Width::Word),
        (Space::Memory, DEVICE - 1, Width::Half),
        (Space::Memory, end - 4, Width::Double),
        (Space::Memory, end, Width::Byte),
        (Space::Memory, u64::MAX, Width::Double),
        (Space::Port, DEVICE, Width::Byte),
        (Space::Memory, PORT, Width::Byte),
    ] {
        for operation in [Operation::Read, Operation::Write(1)] {
            let access = access(space, address, width, operation);
            let (asked, events) = outcome(&[Exit::Io(access)]);
            assert_eq!(asked, [], "{address:#x}");
            assert_eq!(events, [Event::Faulted(0, access.completion)], "{address:#x}");
        }
    }
}

#[test]
fn a_device_can_refuse_an_access() {
    for operation in [Operation::Read, Operation::Write(1)] {
        let access = access(Space::Memory, DEVICE + Recorder::REFUSED, Width::Word, operation);
        let (asked, events) = outcome(&[Exit::Io(access)]);
        assert_eq!(asked.len(), 1);
        assert_eq!(events, [Event::Faulted(0, access.completion)]);
    }
}

#[test]
fn what_the_core_cannot_do_ends_as_hardware_would_end_it() {
    let completion = access(Space::Memory, 0, Width::Double, Operation::Read).completion;
    let address = GuestAddress(DEVICE);
    for (exit, expected) in [
        (Exit::UndecodedIo { address }, Event::AccessFaulted(0)),
        (Exit::MemoryFault { address, access: FaultAccess::Read }, Event::AccessFaulted(0)),
        (Exit::MemoryFault { address, access: FaultAccess::Execute }, Event::AccessFaulted(0)),
        (Exit::Hypercall { function: 0x8400_ffff }, Event::CallRefused(0)),
        (
            Exit::Register { register: 0, operation: Operation::Read, completion },
            Event::Faulted(0, completion),
        ),
    ] {
        assert_eq!(outcome(&[exit]), (vec![], vec![expected]), "{exit:?}");
    }
}

#[test]
fn a_guest_goes_on_after_every_answer() {
    let read = Exit::Io(access(Space::Memory, DEVICE, Width::Byte, Operation::Read));
    let exits = [
        Exit::Hypercall { function: 0 },
        read,
        Exit::Debug,
        Exit::UndecodedIo { address: GuestAddress(0) },
        Exit::SpinHint,
        Exit::HostInterrupt,
        read,
    ];
    let (_, events) = outcome(&exits);
    let read = Event::Completed(0, Recorder::VALUE & 0xff);
    assert_eq!(events, [Event::CallRefused(0), read, Event::AccessFaulted(0), read]);
}

#[test]
fn exits_are_counted_by_kind() {
    let address = GuestAddress(0);
    let io = Exit::Io(access(Space::Memory, DEVICE, Width::Byte, Operation::Read));
    let completion = access(Space::Memory, 0, Width::Double, Operation::Read).completion;
    let register = Exit::Register { register: 0, operation: Operation::Read, completion };
    let fault = Exit::MemoryFault { address, access: FaultAccess::Write };
    for (kind, exits) in [
        (ExitKind::Io, vec![io, Exit::UndecodedIo { address }]),
        (ExitKind::MemoryFault, vec![fault; 3]),
        (ExitKind::Register, vec![register]),
        (ExitKind::SpinHint, vec![Exit::SpinHint; 2]),
        (ExitKind::HostInterrupt, vec![Exit::HostInterrupt; 4]),
        (ExitKind::Other, vec![Exit::Debug]),
    ] {
        let ops: Vec<_> = exits.iter().copied().map(Op::Exit).collect();
        let world = World::of_one(&ops);
        world.settle();
        let counters = &world.vms[0].vcpus[0].exits;
        for other in ExitKind::ALL {
            let extra = match other {
                // It turns itself off at the end.
                ExitKind::Hypercall => 1,
                // The kick of the start.
                ExitKind::HostInterrupt => 1,
                _ => 0,
            };
            let expected = if other == kind { exits.len() as u64 } else { 0 };
            assert_eq!(counters.get(other), expected + extra, "{kind:?} {other:?}");
        }
    }
}

/// Runs `exits` where the guest has given up an address, which it can have again or not.
fn with_absent(address: u64, free: bool, exits: &[Exit]) -> (std::rc::Rc<World>, Vec<Event>) {
    let ops: Vec<_> = exits.iter().copied().map(Op::Exit).collect();
    let world = World::of_one(&ops);
    world.vms[0].machine.absent.lock().unwrap().insert(address, free);
    world.settle();
    let mut events = world.vms[0].machine.take_trace();
    events.retain(|event| {
        matches!(event, Event::Repeated(_) | Event::AccessFaulted(_) | Event::Faulted(..))
    });
    (world, events)
}

#[test]
fn memory_that_was_given_up_is_there_again_when_it_is_touched() {
    let address = 0x9000;
    let read = Exit::Io(access(Space::Memory, address, Width::Word, Operation::Read));
    let (world, events) = with_absent(address, true, &[read]);
    let completion = access(Space::Memory, address, Width::Word, Operation::Read).completion;
    assert_eq!(events, [Event::Repeated(0), Event::Faulted(0, completion)], "then nobody is there");
    assert_eq!(world.vms[0].present_memory(), world.vms[0].config.memory);
    let fetch = Exit::MemoryFault { address: GuestAddress(address), access: FaultAccess::Execute };
    assert_eq!(with_absent(address, true, &[fetch]).1, []);
    let port = Exit::Io(access(Space::Port, address, Width::Byte, Operation::Read));
    assert_eq!(with_absent(address, true, &[port]).1.len(), 1, "a port is no memory");
}

#[test]
fn a_guest_that_needs_memory_of_which_there_is_none_stands_still_alone() {
    let address = 0x9000;
    for exit in [
        Exit::Io(access(Space::Memory, address, Width::Word, Operation::Read)),
        Exit::MemoryFault { address: GuestAddress(address), access: FaultAccess::Write },
    ] {
        crate::fake::journal::begin();
        let (world, events) = with_absent(address, false, &[exit]);
        assert!(matches!(world.vms[0].state(), State::Paused(_)), "{exit:?}");
        assert!(
            !events
                .iter()
                .any(|event| matches!(event, Event::Faulted(..) | Event::AccessFaulted(_)))
        );
        let told = crate::fake::journal::take().join("\n");
        assert!(told.contains("needs memory that it gave up"), "{told}");
        assert_eq!(world.vms[0].present_memory(), world.vms[0].config.memory - 4096);
    }
}
