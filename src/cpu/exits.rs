//! The core's half of an exit.

use alloc::string::String;
use core::fmt::Write;

use log::{debug, error, warn};

use super::{Next, Slot};
use crate::address::GuestAddress;
use crate::backend::{Backend, Machine, Provided, Vcpu};
use crate::bus::{BusFault, Progress, Space};
use crate::exit::{Exit, Fatal, IoAccess, Operation, PowerAnswer, PowerRequest};
use crate::hypervisor::Hypervisor;
use crate::statistics::ExitKind;
use crate::trace::Recorder;
use crate::vm::Transition;

/// Runs until there is more to do than to answer the guest.
#[inline]
pub(super) fn run_on<B: Backend>(
    hypervisor: &Hypervisor<B>,
    recorder: Option<&Recorder>,
    slot: &mut Slot<B>,
) -> Next {
    loop {
        let next = match slot.vcpu.run() {
            // Nearly all are of this kind: what follows is known where it is made.
            Exit::Io(access) => {
                let next = perform_io(&hypervisor.backend, slot, access);
                note(hypervisor, recorder, slot, ExitKind::Io);
                next
            }
            exit => handle(hypervisor, recorder, slot, exit),
        };
        if next != Next::Resume {
            return next;
        }
    }
}

/// Counts and records an exit.
#[inline(always)]
fn note<B: Backend>(
    hypervisor: &Hypervisor<B>,
    recorder: Option<&Recorder>,
    slot: &Slot<B>,
    kind: ExitKind,
) {
    slot.vcpu.handle().exits.count(kind);
    if let Some(recorder) = recorder {
        recorder.record(hypervisor.backend.exit_time(), slot.source, kind, slot.vcpu.raw_exit());
    }
}

/// The core's half of an exit.
#[inline(always)]
fn handle<B: Backend>(
    hypervisor: &Hypervisor<B>,
    recorder: Option<&Recorder>,
    slot: &mut Slot<B>,
    exit: Exit,
) -> Next {
    let (next, kind) = match exit {
        Exit::Io(access) => (perform_io(&hypervisor.backend, slot, access), ExitKind::Io),
        Exit::UndecodedIo { address } => {
            debug!("vm \"{}\": access at {address:#x} not decodable", slot.vm.config.name);
            slot.vcpu.fault_access();
            (Next::Resume, ExitKind::Io)
        }
        Exit::MemoryFault { address, .. } => {
            let next = match slot.vm.machine.provide(address) {
                Provided::Present => Next::Resume,
                Provided::NotMemory => {
                    slot.vcpu.fault_access();
                    Next::Resume
                }
                Provided::Short => wait_for_memory(&hypervisor.backend, slot),
            };
            (next, ExitKind::MemoryFault)
        }
        Exit::Hypercall { .. } => {
            slot.vcpu.refuse_call();
            (Next::Resume, ExitKind::Hypercall)
        }
        Exit::Register { completion, .. } => {
            slot.vcpu.fault(completion);
            (Next::Resume, ExitKind::Register)
        }
        Exit::Idle => (Next::Block, ExitKind::Idle),
        Exit::SpinHint => (Next::Yield, ExitKind::SpinHint),
        Exit::Power(request) => (power(hypervisor, slot, request), ExitKind::Hypercall),
        Exit::HostInterrupt => (Next::Reconsider, ExitKind::HostInterrupt),
        Exit::Debug => (Next::Resume, ExitKind::Other),
        Exit::Fatal(reason) => {
            die(hypervisor, recorder, slot, &reason);
            (Next::Leave, ExitKind::Other)
        }
    };
    note(hypervisor, recorder, slot, kind);
    next
}

/// Lets a device answer, or has the access fault.
#[inline(always)]
fn perform_io<B: Backend>(backend: &B, slot: &mut Slot<B>, access: IoAccess) -> Next {
    let Slot { vm, vcpu, near, .. } = slot;
    let found = vm.bus.find_near(near, access.space, access.address, access.width);
    let answer = match (found, access.operation) {
        (None, _) => return nobody_answers(backend, slot, access),
        (Some((device, offset)), Operation::Read) => device.read(offset, access.width),
        (Some((device, offset)), Operation::Write(value)) => {
            match device.write_some(offset, access.width, value) {
                Ok(Progress::Done) => Ok(0),
                Ok(Progress::Again) => {
                    vcpu.repeat(access.completion);
                    return Next::Reconsider;
                }
                Err(BusFault) => Err(BusFault),
            }
        }
    };
    match answer {
        Ok(value) => vcpu.complete(access.completion, value & access.width.mask()),
        Err(BusFault) => vcpu.fault(access.completion),
    }
    Next::Resume
}

/// An access to an address that no device has: memory that the guest gave up, or nothing at all.
#[cold]
fn nobody_answers<B: Backend>(backend: &B, slot: &mut Slot<B>, access: IoAccess) -> Next {
    let provided = match access.space {
        Space::Memory => slot.vm.machine.provide(GuestAddress(access.address)),
        Space::Port => Provided::NotMemory,
    };
    match provided {
        Provided::Present => slot.vcpu.repeat(access.completion),
        Provided::NotMemory => slot.vcpu.fault(access.completion),
        Provided::Short => {
            slot.vcpu.repeat(access.completion);
            return wait_for_memory(backend, slot);
        }
    }
    Next::Resume
}

/// The guest needs memory that it gave up, and the host has none left: it stands still until the
/// user lets it try again.
fn wait_for_memory<B: Backend>(backend: &B, slot: &Slot<B>) -> Next {
    warn!(
        "vm \"{}\": needs memory that it gave up, but none is free; make another VM smaller \
         (`balloon`), then `resume` it",
        slot.vm.config.name
    );
    stop(backend, slot, Transition::Pause)
}

fn power<B: Backend>(
    hypervisor: &Hypervisor<B>,
    slot: &mut Slot<B>,
    request: PowerRequest,
) -> Next {
    let backend = &hypervisor.backend;
    match request {
        PowerRequest::CpuOn { target, entry, context } => {
            let answer = match slot.vm.vcpus.get(target.0) {
                Some(vcpu) => {
                    let answer = vcpu.turn_on(entry, context);
                    if answer == PowerAnswer::Success {
                        backend.kick(vcpu.home());
                    }
                    answer
                }
                None => PowerAnswer::InvalidParameters,
            };
            slot.vcpu.answer(answer);
            Next::Reconsider
        }
        PowerRequest::CpuOff => {
            slot.vcpu.handle().turn_off();
            Next::Leave
        }
        PowerRequest::CpuSuspend { resume } => {
            slot.vcpu.answer(PowerAnswer::Success);
            slot.resume = resume;
            Next::Block
        }
        PowerRequest::SystemSuspend { entry, context } => {
            if slot.vm.others_are_off(slot.vcpu.handle().id()) {
                slot.vcpu.answer(PowerAnswer::Success);
                slot.resume = Some((entry, context));
                Next::Block
            } else {
                slot.vcpu.answer(PowerAnswer::Denied);
                Next::Resume
            }
        }
        PowerRequest::SystemOff => stop(backend, slot, Transition::Off),
        PowerRequest::SystemReset => stop(backend, slot, Transition::Reset),
        PowerRequest::SystemCrash => {
            warn!("vm \"{}\": the guest reports a crash", slot.vm.config.name);
            stop(backend, slot, Transition::Crash)
        }
    }
}

fn stop<B: Backend>(backend: &B, slot: &Slot<B>, transition: Transition) -> Next {
    slot.vm.request(backend, transition);
    Next::Leave
}

/// Reports a guest that cannot go on and stops it, and it alone.
fn die<B: Backend>(
    hypervisor: &Hypervisor<B>,
    recorder: Option<&Recorder>,
    slot: &mut Slot<B>,
    reason: &Fatal,
) {
    /// Exits before the last that a report shows.
    const EXITS: usize = 8;
    let raw = slot.vcpu.raw_exit();
    let mut registers = String::new();
    // Writing to a string fails only with the memory that the report would need.
    let _ = slot.vcpu.report(&mut registers);
    for event in recorder.iter().flat_map(|recorder| recorder.last(slot.source, EXITS)) {
        let ago = hypervisor.backend.now().0.saturating_sub(event.time.0);
        let (kind, cause, address) = (event.kind.name(), event.cause, event.address);
        let _ = write!(
            registers,
            "\n  {ago} ticks before: {kind}, cause {cause:#x}, address {address:#x}"
        );
    }
    error!(
        "vm \"{}\": vcpu {}: {reason}; cause {:#x}, detail {:#x}, address {:#x}\n{registers}",
        slot.vm.config.name,
        slot.vcpu.handle().id().0,
        raw.cause,
        raw.detail,
        raw.address,
    );
    slot.vm.request(&hypervisor.backend, Transition::Crash);
}
