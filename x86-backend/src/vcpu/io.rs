//! Accesses to ports and to memory that is not RAM.

use bunshin::address::GuestAddress;
use bunshin::bus::{Device, Space, Width};
use bunshin::exit::{Completion, Exit, FaultAccess, IoAccess, Operation};
use bunshin::statistics::ExitKind;
use x86_backend::event;
use x86_backend::machine::decode::{
    Access, LONGEST_INSTRUCTION, MemoryInstruction, Operation as Instruction, Outcome,
    memory_instruction,
};
use x86_backend::machine::ioapic;
use x86_backend::machine::lapic::{self, Mode};
use x86_backend::state::{CR0_PE, RAX, RCX, RDI, RFLAGS_DF, RSI, SegmentName};

use super::X86Vcpu;
use super::real_mode::check_limit;
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
    /// An instruction with an operand in device memory.
    Memory(MemoryAccess),
}

/// An instruction with an operand in device memory, on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryAccess {
    instruction: MemoryInstruction,
    /// Guest-physical address of the operand.
    address: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The operand is being read.
    Read,
    /// The operand is being written; then registers change like this.
    Write(Outcome),
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
        let (segment, register) =
            if port.input { (SegmentName::Es, RDI) } else { (access.segment, RSI) };
        let offset = self.registers.get(register) & mask;
        // The exit comes before the processor looks at the segment (SDM 26.1.1).
        if self.field(Field::Cr0) & CR0_PE == 0 {
            let limit = self.engine.segment(segment).limit;
            if let Err(fault) = check_limit(segment, limit, offset, port.width.bytes()) {
                self.raise_fault(fault);
                return None;
            }
        }
        let operation = if port.input {
            Operation::Read
        } else {
            let linear = self.segment_base(segment).wrapping_add(offset);
            let mut bytes = [0; 8];
            let size = port.width.bytes() as usize;
            let read = bytes
                .get_mut(..size)
                .is_some_and(|bytes| self.paging().read(&*self.pc.ram, linear, bytes) == size);
            if !read {
                self.raise_fault(event::GENERAL_PROTECTION);
                return None;
            }
            Operation::Write(u64::from_le_bytes(bytes))
        };
        self.access = PendingAccess::String { input: port.input, access, length: port.length };
        Some(io(Space::Port, u64::from(port.port), port.width, operation))
    }

    fn finish_string_instruction(&mut self, length: Option<u8>) {
        match length {
            Some(length) => self.advance(length),
            None => self.skip(PORT_LENGTH),
        }
    }

    /// Adds to the part of a register that addresses of this size use.
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
            PendingAccess::Memory(access) => {
                self.deferred = self.finish_memory(access, value);
                self.events.disturb();
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
            let offset = self.registers.get(RDI) & address_mask(access.address_bits);
            let linear = self.segment_base(SegmentName::Es).wrapping_add(offset);
            let bytes = value.to_le_bytes();
            let element = bytes.get(..width.bytes() as usize).unwrap_or_default();
            if !self.paging().write(&*self.pc.ram, linear, element) {
                self.raise_fault(event::GENERAL_PROTECTION);
                return;
            }
        }
        self.step_string(if input { RDI } else { RSI }, access.address_bits, width);
        // Unless it was the last, the instruction is executed anew for the next element.
        if !access.repeat || self.count_down(access.address_bits) {
            self.finish_string_instruction(length);
        }
    }

    /// Moves a string register on by one element.
    fn step_string(&mut self, register: u8, address_bits: u32, width: Width) {
        let by = if self.field(Field::Rflags) & RFLAGS_DF == 0 {
            width.bytes()
        } else {
            width.bytes().wrapping_neg()
        };
        self.step(register, by, address_mask(address_bits));
    }

    /// Counts one element of a repeated instruction; true after the last.
    fn count_down(&mut self, address_bits: u32) -> bool {
        let mask = address_mask(address_bits);
        self.step(RCX, u64::MAX, mask);
        self.registers.get(RCX) & mask == 0
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

    /// An access to memory that the second stage refused: a device's register,
    /// or nothing at all.
    pub(super) fn access_memory(&mut self, fault: NestedFault) -> Option<Exit> {
        let address = GuestAddress(fault.address);
        if fault.execute || self.pc.ram.contains(fault.address) {
            let access = match fault {
                NestedFault { execute: true, .. } => FaultAccess::Execute,
                NestedFault { write: true, .. } => FaultAccess::Write,
                NestedFault { .. } => FaultAccess::Read,
            };
            return Some(Exit::MemoryFault { address, access });
        }
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let known = self.fetch(&mut bytes);
        let size = self.code_size();
        let decoded = bytes.get(..known).and_then(|bytes| memory_instruction(bytes, size));
        let Some(instruction) = decoded else { return Some(Exit::UndecodedIo { address }) };
        let nothing = Outcome { register: None, rflags: self.field(Field::Rflags), write: None };
        let start = if instruction.operation == Instruction::Copy && fault.write {
            match self.read_string_source(&instruction) {
                Some(value) => Access::Write(value),
                None => return Some(Exit::UndecodedIo { address }),
            }
        } else {
            instruction.start(|number| self.registers.get(number))
        };
        let access = |phase| MemoryAccess { instruction, address: fault.address, phase };
        match start {
            Access::Read => self.reach(access(Phase::Read), Operation::Read),
            Access::Write(value) => {
                self.reach(access(Phase::Write(nothing)), Operation::Write(value))
            }
        }
    }

    /// Reads or writes a device's register: at once where it is an interrupt
    /// controller's, or by way of the core.
    fn reach(&mut self, access: MemoryAccess, operation: Operation) -> Option<Exit> {
        let width = access.instruction.width;
        match self.reach_interrupt_controller(access.address, width, operation) {
            Some(value) => {
                self.handle.exits.count(ExitKind::InterruptController);
                self.finish_memory(access, value)
            }
            None => {
                self.access = PendingAccess::Memory(access);
                Some(io(Space::Memory, access.address, width, operation))
            }
        }
    }

    /// The value read, or 0 after a write; `None` if the address is none of an
    /// interrupt controller's.
    fn reach_interrupt_controller(
        &mut self,
        address: u64,
        width: Width,
        operation: Operation,
    ) -> Option<u64> {
        let local = address.wrapping_sub(self.apic.window());
        if local < lapic::WINDOW_SIZE && self.apic.mode() == Mode::XApic {
            self.events.disturb();
            let now = self.tsc();
            return Some(match operation {
                Operation::Read => self.apic.read_window(local, width, now),
                Operation::Write(value) => {
                    let effect = self.apic.write_window(local, width, value, now);
                    self.carry_out(effect);
                    0
                }
            });
        }
        let offset = address.wrapping_sub(ioapic::ADDRESS);
        if offset < ioapic::WINDOW_SIZE {
            let ioapic = &self.pc.ioapic;
            return Some(match operation {
                Operation::Read => ioapic.read(offset, width).unwrap_or(width.mask()),
                Operation::Write(value) => {
                    // It takes every write.
                    let _ = ioapic.write(offset, width, value);
                    0
                }
            });
        }
        None
    }

    /// Goes on with an instruction whose access was answered; its next access
    /// for the core, if it has one.
    fn finish_memory(&mut self, access: MemoryAccess, value: u64) -> Option<Exit> {
        let instruction = access.instruction;
        let outcome = match access.phase {
            Phase::Write(outcome) => outcome,
            Phase::Read if instruction.operation == Instruction::Copy => {
                return self.finish_copy_from_device(access, value);
            }
            Phase::Read => {
                let outcome = instruction.after_read(
                    value,
                    |number| self.registers.get(number),
                    self.field(Field::Rflags),
                );
                if let Some(write) = outcome.write {
                    let access = MemoryAccess { phase: Phase::Write(outcome), ..access };
                    return self.reach(access, Operation::Write(write));
                }
                outcome
            }
        };
        if let Some((number, value)) = outcome.register {
            self.registers.set(number, value);
        }
        self.engine.write(Field::Rflags, outcome.rflags);
        self.finish_memory_instruction(&instruction);
        None
    }

    fn finish_memory_instruction(&mut self, instruction: &MemoryInstruction) {
        let Some(form) = instruction.string else { return self.advance(instruction.length) };
        let source = !matches!(instruction.operation, Instruction::Store(_));
        let destination = !matches!(instruction.operation, Instruction::Load { .. });
        if source {
            self.step_string(RSI, form.address_bits, instruction.width);
        }
        if destination {
            self.step_string(RDI, form.address_bits, instruction.width);
        }
        if !form.repeat || self.count_down(form.address_bits) {
            self.advance(instruction.length);
        }
    }

    /// The element that a string instruction copies to a device.
    fn read_string_source(&self, instruction: &MemoryInstruction) -> Option<u64> {
        let form = instruction.string?;
        let offset = self.registers.get(RSI) & address_mask(form.address_bits);
        let base = self.segment_base(SegmentName::from_number(form.segment));
        let mut bytes = [0; 8];
        let element = bytes.get_mut(..instruction.width.bytes() as usize)?;
        let size = element.len();
        let read = self.paging().read(&*self.pc.ram, base.wrapping_add(offset), element);
        (read == size).then_some(u64::from_le_bytes(bytes))
    }

    fn finish_copy_from_device(&mut self, access: MemoryAccess, value: u64) -> Option<Exit> {
        let instruction = access.instruction;
        let bits = instruction.string.map_or(64, |form| form.address_bits);
        let offset = self.registers.get(RDI) & address_mask(bits);
        let linear = self.segment_base(SegmentName::Es).wrapping_add(offset);
        let bytes = value.to_le_bytes();
        let element = bytes.get(..instruction.width.bytes() as usize).unwrap_or_default();
        if self.paging().write(&*self.pc.ram, linear, element) {
            self.finish_memory_instruction(&instruction);
            None
        } else {
            Some(Exit::UndecodedIo { address: GuestAddress(access.address) })
        }
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
