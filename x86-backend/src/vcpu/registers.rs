//! Model-specific registers, and the clock page that one of them places.

use x86_backend::machine::GeneralProtection;
use x86_backend::machine::clock::Clock;
use x86_backend::machine::kvm_clock::{self, Factors};
use x86_backend::machine::lapic::{Delivery, Effect, Message, MessageSink};
use x86_backend::machine::msr::{Efer, Place, Read, Register, Write, write_efer};
use x86_backend::state::CR0_PG;

use super::X86Vcpu;
use crate::engine::{Engine, Field};
use crate::host;

/// The local APIC's EOI register.
const X2APIC_EOI: u32 = 0x80b;

/// The field that holds a register, unless it is this virtual CPU's own.
fn field_of(register: Register) -> Option<Field> {
    Some(match register {
        Register::Efer => Field::Efer,
        Register::Star => Field::Star,
        Register::Lstar => Field::Lstar,
        Register::Cstar => Field::Cstar,
        Register::SyscallMask => Field::SyscallMask,
        Register::FsBase => Field::FsBase,
        Register::GsBase => Field::GsBase,
        Register::KernelGsBase => Field::KernelGsBase,
        Register::SysenterCs => Field::SysenterCs,
        Register::SysenterEsp => Field::SysenterEsp,
        Register::SysenterEip => Field::SysenterEip,
        Register::Pat => Field::PageAttributes,
        Register::TscAux => return None,
    })
}

impl<E: Engine> X86Vcpu<E> {
    pub(super) fn read_msr(&mut self, index: u32) -> Result<u64, GeneralProtection> {
        let place = match self.msrs.read(index)? {
            Read::Value(value) => return Ok(value),
            Read::From(place) => place,
        };
        let now = self.tsc();
        Ok(match place {
            Place::Processor(register) => match field_of(register) {
                Some(field) => self.field(field),
                None => self.tsc_aux,
            },
            Place::ApicBase => self.apic.read_base(),
            // A timer that has expired by now has ended the guest's next run, too.
            Place::X2Apic => self.apic.read_msr(index, now)?,
            Place::TscDeadline => self.apic.read_deadline(now),
            Place::Tsc => now,
            Place::KvmWallClock => 0,
            Place::KvmSystemTime => self.system_time.msr(),
            Place::Constant(value) | Place::Stored(value) => value,
        })
    }

    pub(super) fn write_msr(&mut self, index: u32, value: u64) -> Result<(), GeneralProtection> {
        let (place, value) = match self.msrs.write(index, value)? {
            Write::Done => return Ok(()),
            Write::To(place, value) => (place, value),
        };
        let now = self.tsc();
        if place != Place::X2Apic {
            self.events.disturb();
        }
        match place {
            Place::Processor(Register::Efer) => {
                let old = Efer::from_bits_truncate(self.field(Field::Efer));
                let paging = self.field(Field::Cr0) & CR0_PG != 0;
                let new = write_efer(old, value, paging)?;
                self.engine.write(Field::Efer, new.bits());
            }
            Place::Processor(register) => match field_of(register) {
                Some(field) => self.engine.write(field, value),
                None => {
                    self.tsc_aux = value;
                    host::msr::write_tsc_aux(value);
                }
            },
            Place::ApicBase => {
                let effect = self.apic.write_base(value)?;
                self.carry_out(effect);
            }
            Place::X2Apic => {
                let effect = self.apic.write_msr(index, value, now)?;
                // Whoever gets a message is woken. The end of an interrupt lets others in, if any wait.
                let quiet = match effect {
                    Effect::Send(message) => message.delivery != Delivery::StartUp,
                    Effect::None => index == X2APIC_EOI && self.apic.highest_request().is_none(),
                    _ => false,
                };
                if !quiet {
                    self.events.disturb();
                }
                self.carry_out(effect);
                return Ok(());
            }
            Place::TscDeadline => {
                let effect = self.apic.write_deadline(value);
                self.carry_out(effect);
            }
            // Guests share the host's counter; Linux writes it only to repair it.
            Place::Tsc => {}
            Place::KvmWallClock => self.write_wall_clock(value),
            Place::KvmSystemTime => self.write_system_time(value),
            Place::Constant(_) | Place::Stored(_) => {}
        }
        Ok(())
    }

    /// Does what a local APIC asks for.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            // Timers are looked at before the guest goes on.
            Effect::None | Effect::Timer => {}
            Effect::EndOfInterrupt { vector } => self.pc.ioapic.end_of_interrupt(vector),
            Effect::Send(message) if message.delivery == Delivery::StartUp => {
                self.send_start_up(&message);
            }
            Effect::Send(message) => self.pc.apics.send(&message),
        }
    }

    /// Start-up messages turn virtual CPUs on, which is the core's business.
    fn send_start_up(&mut self, message: &Message) {
        for target in self.pc.apics.targets(message.destination) {
            self.startups.push_back((target, message.vector));
        }
    }

    fn write_wall_clock(&mut self, value: u64) {
        let now = self.pc.clock.unix_nanoseconds().saturating_sub(self.pc.clock.nanoseconds());
        // A guest that names no memory of its own gets no clock.
        let _ = kvm_clock::write_wall_clock(&self.pc.ram, value, now);
    }

    fn write_system_time(&mut self, value: u64) {
        self.system_time.set_msr(value);
        let factors = Factors::new(super::timer_clock().tsc_khz);
        // As above.
        let _ = self.system_time.update(&self.pc.ram, self.pc.clock.reference(), factors, true);
    }
}
