//! What each register of a local APIC reads, and what a write to it does.

use super::mailbox::{Mode, x2apic_logical_id};
use super::register::*;
use super::timer::TimerMode;
use super::{Delivery, Destination, Effect, LocalApic, Message};

impl LocalApic {
    pub(super) fn read_register(&mut self, register: Register, now: u64) -> u64 {
        let low = match register {
            Register::Id => match self.base.mode {
                Mode::X2Apic => self.id(),
                _ => self.id() << 24,
            },
            Register::Version => VERSION,
            Register::TaskPriority => self.task_priority.into(),
            Register::ArbitrationPriority | Register::ProcessorPriority => {
                self.processor_priority().into()
            }
            Register::EndOfInterrupt | Register::RemoteRead | Register::SelfIpi => 0,
            Register::LogicalDestination => match self.base.mode {
                Mode::X2Apic => x2apic_logical_id(self.id()),
                _ => self.logical_destination,
            },
            Register::DestinationFormat => self.destination_format,
            Register::SpuriousVector => self.spurious,
            Register::InService(index) => self.in_service.register(index),
            Register::TriggerMode(index) => {
                self.collect();
                self.trigger_mode.register(index)
            }
            Register::Request(index) => {
                self.collect();
                self.requests.register(index)
            }
            Register::ErrorStatus => self.latched_errors,
            Register::CommandLow => match self.base.mode {
                Mode::X2Apic => return self.command,
                _ => (self.command & 0xffff_ffff) as u32,
            },
            Register::CommandHigh => (self.command >> 32) as u32,
            Register::Lvt(entry) => self.lvt(entry),
            Register::InitialCount => self.timer.initial(),
            Register::CurrentCount => {
                self.advance(now);
                match self.timer_mode() {
                    TimerMode::Deadline => 0,
                    _ => self.timer.current(now),
                }
            }
            Register::DivideConfiguration => self.timer.divide(),
        };
        low.into()
    }

    pub(super) fn write_register(&mut self, register: Register, value: u64, now: u64) -> Effect {
        let low = (value & 0xffff_ffff) as u32;
        let [byte, ..] = low.to_le_bytes();
        match register {
            Register::TaskPriority => {
                self.task_priority = byte;
                self.publish();
            }
            Register::EndOfInterrupt => return self.end_of_interrupt(),
            Register::LogicalDestination => {
                self.logical_destination = low & 0xff00_0000;
                self.publish();
            }
            Register::DestinationFormat => {
                self.destination_format = low | !DFR_MODEL;
                self.publish();
            }
            Register::SpuriousVector => {
                self.spurious = low & (SVR_VECTOR | SVR_ENABLED | SVR_FOCUS);
                if self.spurious & SVR_ENABLED == 0 {
                    self.advance(now);
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
                self.publish();
                return Effect::Timer;
            }
            Register::ErrorStatus => {
                self.latched_errors = core::mem::take(&mut self.errors);
            }
            Register::CommandLow => {
                self.command = match self.base.mode {
                    Mode::X2Apic => value,
                    _ => (self.command & !0xffff_ffff) | (value & ICR_LOW_DEFINED & !ICR_STATUS),
                };
                return self.send();
            }
            Register::CommandHigh => {
                self.command = (self.command & 0xffff_ffff) | u64::from(low & 0xff00_0000) << 32;
            }
            Register::Lvt(entry) => return self.write_lvt(entry, low, now),
            Register::InitialCount => {
                if self.timer_mode() == TimerMode::Deadline {
                    return Effect::None;
                }
                self.advance(now);
                self.timer.start(low, self.timer_mode(), now);
                return Effect::Timer;
            }
            Register::DivideConfiguration => {
                self.advance(now);
                self.timer.set_divide(low, now);
                return Effect::Timer;
            }
            Register::SelfIpi => {
                if byte < FIRST_LEGAL_VECTOR {
                    self.report_error(ESR_SEND_ILLEGAL_VECTOR);
                } else {
                    self.request_if_enabled(byte);
                }
            }
            Register::Id
            | Register::Version
            | Register::ArbitrationPriority
            | Register::ProcessorPriority
            | Register::RemoteRead
            | Register::InService(_)
            | Register::TriggerMode(_)
            | Register::Request(_)
            | Register::CurrentCount => {}
        }
        Effect::None
    }

    fn write_lvt(&mut self, entry: Lvt, value: u32, now: u64) -> Effect {
        // What expired so far expired under the old entry.
        self.advance(now);
        let old_mode = self.timer_mode();
        let mut value = value & entry.writable();
        if self.spurious & SVR_ENABLED == 0 {
            value |= LVT_MASKED;
        }
        if let Some(slot) = self.lvt.get_mut(entry as usize) {
            *slot = value;
        }
        if entry != Lvt::Timer {
            return Effect::None;
        }
        let new_mode = self.timer_mode();
        // Entering or leaving TSC-deadline mode disarms (SDM 11.5.4.1).
        if (old_mode == TimerMode::Deadline) != (new_mode == TimerMode::Deadline) {
            self.timer.disarm();
        }
        Effect::Timer
    }

    fn request_if_enabled(&mut self, vector: u8) {
        if self.spurious & SVR_ENABLED != 0 {
            self.request(vector);
        }
    }

    /// Carries out the interrupt command register (SDM 11.6.1).
    fn send(&mut self) -> Effect {
        let command = self.command;
        let Some(delivery) = Delivery::from_bits(command >> 8) else {
            return Effect::None;
        };
        // INIT de-assert only synchronised arbitration on old parts.
        let deassert = command & ICR_LEVEL != 0 && command & ICR_ASSERT == 0;
        if delivery == Delivery::Init && deassert {
            return Effect::None;
        }
        let [vector, ..] = command.to_le_bytes();
        let has_vector = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        if has_vector && vector < FIRST_LEGAL_VECTOR {
            self.report_error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let logical = command & ICR_LOGICAL != 0;
        let field = (command >> ICR_DESTINATION_SHIFT) as u32;
        let destination = match command >> ICR_SHORTHAND_SHIFT & 0b11 {
            0 => match self.base.mode {
                Mode::X2Apic => Destination::from_32_bits(field, logical),
                _ => Destination::from_8_bits((field >> 24) as u8, logical),
            },
            1 => {
                // Only a vector can be sent to oneself.
                if has_vector {
                    self.request_if_enabled(vector);
                }
                return Effect::None;
            }
            2 => Destination::All,
            _ => Destination::AllBut(self.id()),
        };
        Effect::Send(Message { destination, delivery, vector, level: false })
    }
}
