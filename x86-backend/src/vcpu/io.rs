//! Accesses to ports and to memory that is not RAM.

use bunshin::address::GuestAddress;
use bunshin::bus::{Space, Width};
use bunshin::exit::{Completion, Exit, IoAccess, Operation};
use bunshin::statistics::ExitKind;
use x86_backend::event;
use x86_backend::state::{RAX, RCX, RDI, RFLAGS_DF, RSI, SegmentName};

use super::X86Vcpu;
use crate::engine::{Engine, Field, NestedFault, PortAccess, StringAccess};

/// Bytes of `IN` and `OUT` without prefixes, in the form with DX.
const PORT_LENGTH: u8 = 1;

/// What the core's answer finishes.
#[derive(Debug, Clone, Copy)]
pub(super) enum PendingAccess {
    /// Nothing is under way.
    None,
    /// `IN` and `OUT`.
    Port { input: bool, length: Option<u8> },
    /// One element of `INS` or `OUTS`.
    String { input: bool, access: StringAccess, length: Option<u8> },
}

impl<E: Engine> X86Vcpu<E> {
    pub(super) fn access_port(&mut self, port: PortAccess) -> Option<Exit> {
        if let Some(access) = port.string {
            return self.access_port_string(port, access);
        }
        self.access = PendingAccess::Port { input: port.input, length: port.length };
        let operation = if port.input {
            Operation::Read
        } else {
            Operation::Write(self.registers.get(RAX) & port.width.mask())
        };
        Some(io(Space::Port, u64::from(port.port), port.width, operation))
    }

    fn access_port_string(&mut self, port: PortAccess, access: StringAccess) -> Option<Exit> {
        let mask = address_mask(access.address_bits);
        if access.repeat && self.registers.get(RCX) & mask == 0 {
            self.finish_string_instruction(port.length);
            self.handle.exits.count(ExitKind::Io);
            return None;
        }
        let operation = if port.input {
            Operation::Read
        } else {
            let linear = self.string_address(access, RSI);
            let mut bytes = [0; 8];
            let size = port.width.bytes() as usize;
            let read = bytes
                .get_mut(..size)
                .is_some_and(|bytes| self.paging().read(&self.pc.ram, linear, bytes) == size);
            if !read {
                self.raise_fault(event::GENERAL_PROTECTION);
                return None;
            }
            Operation::Write(u64::from_le_bytes(bytes))
        };
        self.access = PendingAccess::String { input: port.input, access, length: port.length };
        Some(io(Space::Port, u64::from(port.port), port.width, operation))
    }

    /// Linear address of the element that `register` points to.
    fn string_address(&self, access: StringAccess, register: u8) -> u64 {
        let segment = if register == RDI { SegmentName::Es } else { access.segment };
        let offset = self.registers.get(register) & address_mask(access.address_bits);
        self.segment_base(segment).wrapping_add(offset)
    }

    fn finish_string_instruction(&mut self, length: Option<u8>) {
        match length {
            Some(length) => self.advance(length),
            None => self.skip(PORT_LENGTH),
        }
    }

    /// Moves a string register on by one element.
    fn step(&mut self, register: u8, by: u64, mask: u64) {
        let old = self.registers.get(register);
        let new = old.wrapping_add(by) & mask;
        // 32-bit addresses clear the high half, 16-bit ones keep the rest.
        let kept = if mask == 0xffff { old & !mask } else { 0 };
        self.registers.set(register, kept | new);
    }

    /// Finishes what [`PendingAccess`] says with the core's answer.
    pub(super) fn finish_access(&mut self, completion: Completion, value: u64) {
        match core::mem::replace(&mut self.access, PendingAccess::None) {
            PendingAccess::None => {}
            PendingAccess::Port { input, length } => {
                if input {
                    self.set_register(RAX, completion.width, value);
                }
                match length {
                    Some(length) => self.advance(length),
                    None => self.skip(PORT_LENGTH),
                }
            }
            PendingAccess::String { input, access, length } => {
                self.finish_string(input, access, length, completion.width, value);
            }
        }
    }

    fn finish_string(
        &mut self,
        input: bool,
        access: StringAccess,
        length: Option<u8>,
        width: Width,
        value: u64,
    ) {
        if input {
            let linear = self.string_address(access, RDI);
            let bytes = value.to_le_bytes();
            let element = bytes.get(..width.bytes() as usize).unwrap_or_default();
            if !self.paging().write(&self.pc.ram, linear, element) {
                self.raise_fault(event::GENERAL_PROTECTION);
                return;
            }
        }
        let mask = address_mask(access.address_bits);
        let by = if self.field(Field::Rflags) & RFLAGS_DF == 0 {
            width.bytes()
        } else {
            width.bytes().wrapping_neg()
        };
        self.step(if input { RDI } else { RSI }, by, mask);
        if access.repeat {
            self.step(RCX, u64::MAX, mask);
            // The instruction is executed anew for the next element.
            if self.registers.get(RCX) & mask != 0 {
                return;
            }
        }
        self.finish_string_instruction(length);
    }

    /// Writes a value of `width` to a register as instructions do: narrow ones
    /// keep the rest, 32 bits clear the high half.
    pub(super) fn set_register(&mut self, number: u8, width: Width, value: u64) {
        let value = value & width.mask();
        let kept = match width {
            Width::Byte | Width::Half => self.registers.get(number) & !width.mask(),
            Width::Word | Width::Double => 0,
        };
        self.registers.set(number, kept | value);
    }

    pub(super) fn access_memory(&mut self, fault: NestedFault) -> Option<Exit> {
        Some(Exit::UndecodedIo { address: GuestAddress(fault.address) })
    }
}

fn address_mask(bits: u32) -> u64 {
    match bits {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn io(space: Space, address: u64, width: Width, operation: Operation) -> Exit {
    // The rest of the completion is kept in `PendingAccess`.
    let completion =
        Completion { register: RAX, width, sign_extend: false, wide: false, length: 0 };
    Exit::Io(IoAccess { space, address, width, operation, completion })
}
