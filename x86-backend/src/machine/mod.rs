//! The guest's PC: local APICs, IOAPIC, legacy devices, CPUID and MSR policy,
//! firmware tables and boot protocols. No code in here touches the host, so all
//! of it is safe and runs under `cargo test`.
//!
//! Lock order: a device, then the interrupt controller that its line leads to
//! ([`ioapic`], [`pic`]); the local APICs take no lock ([`lapic::Mailbox`]).

pub mod acpi;
pub mod clock;
pub mod cpuid;
pub mod decode;
pub mod ioapic;
pub mod kvm_clock;
pub mod lapic;
pub mod layout;
pub mod load;
pub mod msr;
pub mod pic;
pub mod pit;
pub mod power;
pub mod registers;
pub mod rtc;
#[cfg(test)]
mod tests;
pub mod uart16550;

/// The access raises a general-protection exception with error code 0 in the
/// guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("general-protection exception")]
pub struct GeneralProtection;
