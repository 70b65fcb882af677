//! Multiple APIC description table: CPUs and interrupt controllers (ACPI 6.5, 5.2.12).

use super::AcpiError;
use super::table::{Table, field_u16, field_u32, field_u64};
use crate::PhysicalAddress;
use alloc::vec::Vec;

pub(super) const SIGNATURE: &[u8; 4] = b"APIC";
const LOCAL_APIC_ADDRESS: usize = 36;
const FLAGS: usize = 40;
const ENTRIES: usize = 44;
const PCAT_COMPAT: u32 = 1 << 0;

const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const INTERRUPT_OVERRIDE: u8 = 2;
const LOCAL_APIC_ADDRESS_OVERRIDE: u8 = 5;
const LOCAL_X2APIC: u8 = 9;

const CPU_ENABLED: u32 = 1 << 0;
const CPU_ONLINE_CAPABLE: u32 = 1 << 1;
/// The number that stands for all CPUs in an 8-bit entry.
const BROADCAST: u8 = 0xff;

/// Whether a CPU is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuState {
    /// It may be started.
    Enabled,
    /// It may be added while the machine runs, but isn't there now.
    OnlineCapable,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApic {
    /// Number of its local APIC. From 255 on only an x2APIC can be addressed.
    pub apic_id: u32,
    /// Its number in other tables.
    pub acpi_uid: u32,
    /// Whether it is there.
    pub state: CpuState,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its number.
    pub id: u8,
    /// Its registers.
    pub address: PhysicalAddress,
    /// Number of its first input among all.
    pub first_gsi: u32,
}

/// When an input is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Polarity {
    /// As the bus does: high on ISA.
    Bus,
    /// While high, or at a rising edge.
    High,
    /// While low, or at a falling edge.
    Low,
}

/// How an input is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignalMode {
    /// As the bus does: by edge on ISA.
    Bus,
    /// By edge.
    Edge,
    /// By level.
    Level,
}

/// An ISA interrupt that isn't at the input of its number, or differs from the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptOverride {
    /// The ISA interrupt.
    pub isa_irq: u8,
    /// The input that it arrives at.
    pub gsi: u32,
    /// When it is active.
    pub polarity: Polarity,
    /// How it is signalled.
    pub mode: SignalMode,
}

/// CPUs and interrupt controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Madt {
    /// Where every CPU sees its own local APIC in xAPIC mode.
    pub local_apic_address: PhysicalAddress,
    /// There is a pair of 8259s, too, which must be masked.
    pub has_8259: bool,
    /// The CPUs that are or may be there, each once.
    pub cpus: Vec<LocalApic>,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// Exceptions from ISA's interrupts.
    pub overrides: Vec<InterruptOverride>,
}

impl Madt {
    /// Reads the entries; those of unknown kinds are skipped, as the specification asks.
    pub(super) fn parse(table: &Table) -> Result<Self, AcpiError> {
        let bytes = table.bytes();
        let field = |offset| field_u32(bytes, offset).ok_or_else(|| table.too_short());
        let mut madt = Self {
            local_apic_address: PhysicalAddress::new(field(LOCAL_APIC_ADDRESS)?.into()),
            has_8259: field(FLAGS)? & PCAT_COMPAT != 0,
            cpus: Vec::new(),
            io_apics: Vec::new(),
            overrides: Vec::new(),
        };
        let mut rest = bytes.get(ENTRIES..).unwrap_or_default();
        while let &[kind, length, ..] = rest {
            // An entry has at least its own first two bytes, so each round gets on.
            let (entry, tail) = rest
                .split_at_checked(length.into())
                .filter(|_| length >= 2)
                .ok_or_else(|| table.too_short())?;
            rest = tail;
            madt.entry(kind, entry).ok_or_else(|| table.too_short())?;
        }
        // Firmware may list a CPU in both forms. Sorting keeps this from being quadratic.
        madt.cpus.sort_by_key(|cpu| cpu.apic_id);
        madt.cpus.dedup_by_key(|cpu| cpu.apic_id);
        Ok(madt)
    }

    /// Adds an entry; `None` if it is too short for its kind.
    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            LOCAL_APIC => {
                let (&uid, &apic_id) = (entry.get(2)?, entry.get(3)?);
                let flags = field_u32(entry, 4)?;
                if apic_id != BROADCAST {
                    self.cpu(apic_id.into(), uid.into(), flags);
                }
            }
            LOCAL_X2APIC => {
                self.cpu(field_u32(entry, 4)?, field_u32(entry, 12)?, field_u32(entry, 8)?);
            }
            IO_APIC => self.io_apics.push(IoApic {
                id: *entry.get(2)?,
                address: PhysicalAddress::new(field_u32(entry, 4)?.into()),
                first_gsi: field_u32(entry, 8)?,
            }),
            INTERRUPT_OVERRIDE => {
                let flags = field_u16(entry, 8)?;
                self.overrides.push(InterruptOverride {
                    isa_irq: *entry.get(3)?,
                    gsi: field_u32(entry, 4)?,
                    polarity: match flags & 3 {
                        1 => Polarity::High,
                        3 => Polarity::Low,
                        _ => Polarity::Bus,
                    },
                    mode: match (flags >> 2) & 3 {
                        1 => SignalMode::Edge,
                        3 => SignalMode::Level,
                        _ => SignalMode::Bus,
                    },
                });
            }
            LOCAL_APIC_ADDRESS_OVERRIDE => {
                self.local_apic_address = PhysicalAddress::new(field_u64(entry, 4)?);
            }
            _ => {}
        }
        Some(())
    }

    fn cpu(&mut self, apic_id: u32, acpi_uid: u32, flags: u32) {
        let state = if flags & CPU_ENABLED != 0 {
            CpuState::Enabled
        } else if flags & CPU_ONLINE_CAPABLE != 0 {
            CpuState::OnlineCapable
        } else {
            return;
        };
        self.cpus.push(LocalApic { apic_id, acpi_uid, state });
    }
}
