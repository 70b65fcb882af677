//! Real mode on processors that run no guest in it: instructions and events that the processor leaves to
//! the hypervisor ([`x86_backend::restricted`]).

use bunshin::address::GuestAddress;
use bunshin::bus::Width;
use bunshin::exit::Exit;
use bunshin::memory::GuestMemory;
use bunshin::statistics::ExitKind;
use x86_backend::event::{self, Event, Source};
use x86_backend::machine::decode::{
    Kind, LONGEST_INSTRUCTION, MemoryOperand, Refused, StringForm, TableName, refused,
};
use x86_backend::machine::registers::Table;
use x86_backend::restricted::interrupt::{CLEARED_FLAGS, Context};
use x86_backend::state::{RDX, RSP, SegmentName};

use super::X86Vcpu;
use crate::engine::{Cause, ControlAccess, Engine, Field, PortAccess, StringAccess};

/// Limit of real-mode segments.
const LIMIT: u32 = 0xffff;
/// Bytes of limit and base of a descriptor table.
const TABLE_BYTES: usize = 6;
/// Bits of a base that counts in part only.
const NARROW_BASE: u64 = 0xff_ffff;
/// Stack-segment fault.
const STACK_FAULT: u8 = 12;
/// The low word of a register.
const WORD: u64 = 0xffff;

/// The vector of a fault.
pub(super) type Fault = u8;

impl<E: Engine> X86Vcpu<E> {
    /// Does what the instruction does that the processor refused.
    pub(super) fn execute_refused(&mut self) -> Option<Exit> {
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let known = self.fetch(&mut bytes);
        // The processor refuses what goes beyond the segment's end, too.
        let start = self.field(Field::Rip);
        let inside = |length| check_limit(SegmentName::Cs, LIMIT, start, length).is_ok();
        let decoded = bytes.get(..known).and_then(refused);
        let decoded = decoded.filter(|(_, length)| inside(u64::from(*length)));
        let Some((instruction, length)) = decoded else {
            self.handle.exits.count(ExitKind::Injected);
            self.raise_fault(event::GENERAL_PROTECTION);
            return None;
        };
        // Whether the next instruction follows, if it does not fault.
        let done = match instruction {
            Refused::Other(kind) => match self.cause_of(kind) {
                Some(cause) => return self.resolve_decoded(cause, length),
                None => self.execute_other(kind).map(|()| true),
            },
            Refused::Port { port, width, input, string } => {
                let port = port.map_or(self.registers.get(RDX) as u16, u16::from);
                let string = string.map(string_access);
                let length = Some(length);
                return self.access_port(PortAccess { port, width, input, string, length });
            }
            Refused::LoadStatusWord(operand) => {
                let mut word = [0; 2];
                match self.read_operand(&operand, &mut word) {
                    Ok(()) => {
                        let word = u16::from_le_bytes(word);
                        let access = ControlAccess::LoadStatusWord(word);
                        return self.resolve_decoded(Cause::ControlRegister(access), length);
                    }
                    Err(fault) => Err(fault),
                }
            }
            Refused::Interrupt(vector) => {
                let next = (self.field(Field::Rip) as u16).wrapping_add(length.into());
                self.enter_handler(vector, next).map(|()| false)
            }
            Refused::LoadTable { table, operand, narrow } => {
                self.load_table(table, &operand, narrow).map(|()| true)
            }
            Refused::StoreTable { table, operand } => {
                self.store_table(table, &operand).map(|()| true)
            }
        };
        self.handle.exits.count(ExitKind::Other);
        match done {
            Ok(next) if next => self.advance(length),
            Ok(_) => {}
            Err(fault) => self.raise_fault(fault),
        }
        None
    }

    /// Goes on as if the processor had said `cause` of an instruction of this length.
    fn resolve_decoded(&mut self, cause: Cause, length: u8) -> Option<Exit> {
        self.decoded_length = Some(length);
        let exit = self.resolve(cause);
        self.decoded_length = None;
        exit
    }

    /// What other processors would have said of the instruction.
    fn cause_of(&mut self, kind: Kind) -> Option<Cause> {
        Some(match kind {
            Kind::Hlt => Cause::Halt,
            Kind::ReadMsr => Cause::ReadMsr,
            Kind::WriteMsr => Cause::WriteMsr,
            Kind::SetExtendedControl => Cause::SetExtendedControl,
            Kind::CacheControl => Cause::CacheControl,
            Kind::ReadPerformanceCounter => Cause::Forbidden,
            Kind::ClearTaskSwitched => Cause::ControlRegister(ControlAccess::ClearTaskSwitched),
            Kind::LoadStatusWord(Some(register)) => {
                let word = register.extract(self.registers.get(register.number)) as u16;
                Cause::ControlRegister(ControlAccess::LoadStatusWord(word))
            }
            Kind::ReadControl { control, register } => {
                let register = register.number;
                Cause::ControlRegister(ControlAccess::Read { control, register })
            }
            Kind::WriteControl { control, register } => {
                let register = register.number;
                Cause::ControlRegister(ControlAccess::Write { control, register })
            }
            _ => return None,
        })
    }

    /// Instructions that exit nowhere else.
    fn execute_other(&mut self, kind: Kind) -> Result<(), Fault> {
        match kind {
            // Nothing is cached of addresses that are not translated.
            Kind::InvalidatePage => Ok(()),
            Kind::DebugRegister { debug, register, write: true } => {
                let value = register.extract(self.registers.get(register.number));
                match self.engine.real_mode() {
                    Some(engine) => engine.set_debug(debug, value),
                    None => return Err(event::GENERAL_PROTECTION),
                }
                Ok(())
            }
            Kind::DebugRegister { debug, register, write: false } => {
                let value = self.engine.real_mode().map_or(0, |engine| engine.debug(debug));
                self.set_register(register.number, Width::Word, value);
                Ok(())
            }
            // It is the fault that the processor says.
            _ => Err(event::GENERAL_PROTECTION),
        }
    }

    /// Linear address of an operand of `size` bytes.
    fn operand(&self, operand: &MemoryOperand, size: usize) -> Result<u64, Fault> {
        let segment = SegmentName::from_number(operand.segment());
        let offset = operand.offset(|number| self.registers.get(number));
        check_limit(segment, LIMIT, offset.into(), size as u64)?;
        Ok(self.segment_base(segment).wrapping_add(offset.into()))
    }

    fn read_operand(&self, operand: &MemoryOperand, bytes: &mut [u8]) -> Result<(), Fault> {
        let address = self.operand(operand, bytes.len())?;
        if self.pc.ram.read(GuestAddress(address), bytes).is_err() {
            // Nobody answers.
            bytes.fill(u8::MAX);
        }
        Ok(())
    }

    fn load_table(
        &mut self,
        name: TableName,
        operand: &MemoryOperand,
        narrow: bool,
    ) -> Result<(), Fault> {
        let mut bytes = [0; TABLE_BYTES];
        self.read_operand(operand, &mut bytes)?;
        let [low, high, base @ ..] = bytes;
        let base = u64::from(u32::from_le_bytes(base));
        let table = Table {
            base: if narrow { base & NARROW_BASE } else { base },
            limit: u16::from_le_bytes([low, high]),
        };
        if let Some(engine) = self.engine.real_mode() {
            engine.set_table(name, table);
        }
        Ok(())
    }

    fn store_table(&mut self, name: TableName, operand: &MemoryOperand) -> Result<(), Fault> {
        let address = self.operand(operand, TABLE_BYTES)?;
        let Some(table) = self.engine.real_mode().map(|engine| engine.table(name)) else {
            return Err(event::GENERAL_PROTECTION);
        };
        let [l0, l1] = table.limit.to_le_bytes();
        let [b0, b1, b2, b3] = (table.base as u32).to_le_bytes();
        // Where there is no memory, nobody takes it.
        let _ = self.pc.ram.write(GuestAddress(address), &[l0, l1, b0, b1, b2, b3]);
        Ok(())
    }

    /// Has the guest go on with `event`, by hardware or, in real mode that hardware does not have,
    /// by what hardware would do.
    #[inline]
    pub(super) fn deliver(&mut self, event: Event) {
        if self.engine.real_mode().is_none() {
            self.engine.inject(event);
        } else {
            self.deliver_in_real_mode(event);
        }
    }

    fn deliver_in_real_mode(&mut self, event: Event) {
        let mut next = Some(event);
        // At the latest the fault of a double fault is the end.
        while let Some(event) = next {
            match self.enter_handler(event.vector, self.field(Field::Rip) as u16) {
                Ok(()) => {
                    if event.source == Source::Nmi
                        && let Some(engine) = self.engine.real_mode()
                    {
                        engine.block_nmi();
                    }
                    return;
                }
                Err(fault) => {
                    let first = (event.source == Source::Exception).then_some(event);
                    next = Event::fault(fault).after(first);
                }
            }
        }
        self.events.shut_down();
    }

    /// Goes to the handler of `vector`, which is to return to `ip`.
    fn enter_handler(&mut self, vector: u8, ip: u16) -> Result<(), Fault> {
        let flags = self.field(Field::Rflags);
        let stack = self.segment_base(SegmentName::Ss);
        let cs = self.engine.segment(SegmentName::Cs).selector;
        let rsp = self.registers.get(RSP);
        let Some(engine) = self.engine.real_mode() else { return Err(event::GENERAL_PROTECTION) };
        let table = engine.table(TableName::Idtr);
        let context = Context { table, stack, sp: rsp as u16, flags: flags as u16, cs, ip };
        let handler = context.deliver(vector, &*self.pc.ram)?;
        engine.load_code(handler.cs);
        self.registers.set(RSP, rsp & !WORD | u64::from(handler.sp));
        self.engine.write(Field::Rip, handler.ip.into());
        self.engine.write(Field::Rflags, flags & !CLEARED_FLAGS);
        self.engine.clear_shadow();
        Ok(())
    }
}

/// Whether `size` bytes at `offset` lie in a segment of real mode with this limit.
///
/// # Errors
/// The fault if they do not.
pub(super) fn check_limit(
    segment: SegmentName,
    limit: u32,
    offset: u64,
    size: u64,
) -> Result<(), Fault> {
    let last = offset.saturating_add(size).saturating_sub(1);
    match segment {
        _ if last <= u64::from(limit) => Ok(()),
        SegmentName::Ss => Err(STACK_FAULT),
        _ => Err(event::GENERAL_PROTECTION),
    }
}

fn string_access(form: StringForm) -> StringAccess {
    StringAccess {
        repeat: form.repeat,
        address_bits: form.address_bits,
        segment: SegmentName::from_number(form.segment),
    }
}
