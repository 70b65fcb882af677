//! The register file of a local APIC: numbers, writable bits, and the fields of
//! its registers (SDM table 11-1 and 11.12.1.2).

/// A register, by its number: xAPIC offset / 16, x2APIC MSR - 0x800.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    /// 32 vectors of ISR.
    InService(usize),
    /// 32 vectors of TMR.
    TriggerMode(usize),
    /// 32 vectors of IRR.
    Request(usize),
    ErrorStatus,
    CommandLow,
    CommandHigh,
    Lvt(Lvt),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    SelfIpi,
}

/// An entry of the local vector table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl Lvt {
    pub(super) const ALL: [Lvt; 6] =
        [Lvt::Timer, Lvt::Thermal, Lvt::Performance, Lvt::Lint0, Lvt::Lint1, Lvt::Error];

    /// Bits that software may change.
    pub(super) const fn writable(self) -> u32 {
        match self {
            Lvt::Timer => LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE,
            Lvt::Thermal | Lvt::Performance => LVT_VECTOR | LVT_DELIVERY | LVT_MASKED,
            Lvt::Lint0 | Lvt::Lint1 => {
                LVT_VECTOR | LVT_DELIVERY | LVT_POLARITY | LVT_LEVEL | LVT_MASKED
            }
            Lvt::Error => LVT_VECTOR | LVT_MASKED,
        }
    }
}

/// Interrupt vector of an LVT entry.
pub(super) const LVT_VECTOR: u32 = 0xff;
/// Delivery mode.
pub(super) const LVT_DELIVERY: u32 = 0b111 << 8;
/// Delivery mode: vector from the 8259 pair.
pub(super) const LVT_DELIVERY_EXTERNAL: u32 = 0b111 << 8;
/// Delivery status; read-only.
pub(super) const LVT_STATUS: u32 = 1 << 12;
/// Input polarity.
pub(super) const LVT_POLARITY: u32 = 1 << 13;
/// Remote IRR; read-only.
pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;
/// Level-triggered input.
pub(super) const LVT_LEVEL: u32 = 1 << 15;
/// Masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// Timer mode.
pub(super) const LVT_TIMER_MODE: u32 = 0b11 << 17;
/// Timer mode: periodic.
pub(super) const LVT_TIMER_PERIODIC: u32 = 0b01 << 17;
/// Timer mode: TSC deadline.
pub(super) const LVT_TIMER_DEADLINE: u32 = 0b10 << 17;

/// SVR: spurious vector.
pub(super) const SVR_VECTOR: u32 = 0xff;
/// SVR: APIC enabled by software.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// SVR: focus processor checking.
pub(super) const SVR_FOCUS: u32 = 1 << 9;

/// DFR: flat model in bits 31:28; the rest reads as ones.
pub(super) const DFR_FLAT: u32 = 0xffff_ffff;
/// DFR: the model.
pub(super) const DFR_MODEL: u32 = 0xf << 28;

/// ICR: logical destination.
pub(super) const ICR_LOGICAL: u64 = 1 << 11;
/// ICR: delivery status, idle here; xAPIC only and read-only.
pub(super) const ICR_STATUS: u64 = 1 << 12;
/// ICR: assert, as opposed to de-assert.
pub(super) const ICR_ASSERT: u64 = 1 << 14;
/// ICR: level-triggered.
pub(super) const ICR_LEVEL: u64 = 1 << 15;
/// ICR: destination shorthand.
pub(super) const ICR_SHORTHAND_SHIFT: u32 = 18;
/// ICR: low bits that are not reserved.
pub(super) const ICR_LOW_DEFINED: u64 = 0xff
    | 0b111 << 8
    | ICR_LOGICAL
    | ICR_STATUS
    | ICR_ASSERT
    | ICR_LEVEL
    | 0b11 << ICR_SHORTHAND_SHIFT;
/// ICR: the destination of x2APIC mode.
pub(super) const ICR_DESTINATION_SHIFT: u32 = 32;

/// TDCR: bits that encode the divisor.
pub(super) const TDCR_DEFINED: u32 = 0b1011;

/// ESR: an IPI with a vector below 16 was to be sent.
pub(super) const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// ESR: an LVT entry with a vector below 16 fired.
pub(super) const ESR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
/// ESR: access to a reserved register (xAPIC only).
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Lowest vector that an APIC may deliver.
pub(super) const FIRST_LEGAL_VECTOR: u8 = 16;

/// Version register: integrated APIC, six LVT entries.
pub(super) const VERSION: u32 = 0x14 | 5 << 16;

impl Register {
    /// The register with `number`; `None` if reserved in both interfaces.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        let number = usize::try_from(number).ok()?;
        Some(match number {
            0x02 => Register::Id,
            0x03 => Register::Version,
            0x08 => Register::TaskPriority,
            0x09 => Register::ArbitrationPriority,
            0x0a => Register::ProcessorPriority,
            0x0b => Register::EndOfInterrupt,
            0x0c => Register::RemoteRead,
            0x0d => Register::LogicalDestination,
            0x0e => Register::DestinationFormat,
            0x0f => Register::SpuriousVector,
            0x10..=0x17 => Register::InService(number & 7),
            0x18..=0x1f => Register::TriggerMode(number & 7),
            0x20..=0x27 => Register::Request(number & 7),
            0x28 => Register::ErrorStatus,
            0x30 => Register::CommandLow,
            0x31 => Register::CommandHigh,
            0x32 => Register::Lvt(Lvt::Timer),
            0x33 => Register::Lvt(Lvt::Thermal),
            0x34 => Register::Lvt(Lvt::Performance),
            0x35 => Register::Lvt(Lvt::Lint0),
            0x36 => Register::Lvt(Lvt::Lint1),
            0x37 => Register::Lvt(Lvt::Error),
            0x38 => Register::InitialCount,
            0x39 => Register::CurrentCount,
            0x3e => Register::DivideConfiguration,
            0x3f => Register::SelfIpi,
            _ => return None,
        })
    }

    /// Bits that an x2APIC write may set without a fault; `None` for a
    /// register that cannot be written there.
    pub(super) const fn x2apic_writable(self) -> Option<u64> {
        Some(match self {
            Register::TaskPriority | Register::SelfIpi => 0xff,
            Register::EndOfInterrupt | Register::ErrorStatus => 0,
            Register::SpuriousVector => (SVR_VECTOR | SVR_ENABLED | SVR_FOCUS) as u64,
            Register::CommandLow => {
                (ICR_LOW_DEFINED & !ICR_STATUS) | (u32::MAX as u64) << ICR_DESTINATION_SHIFT
            }
            Register::Lvt(lvt) => (lvt.writable() | LVT_STATUS | LVT_REMOTE_IRR) as u64,
            Register::InitialCount => u32::MAX as u64,
            Register::DivideConfiguration => TDCR_DEFINED as u64,
            _ => return None,
        })
    }

    /// Whether the x2APIC interface shows the register to RDMSR.
    pub(super) const fn x2apic_readable(self) -> bool {
        !matches!(
            self,
            Register::ArbitrationPriority
                | Register::EndOfInterrupt
                | Register::RemoteRead
                | Register::DestinationFormat
                | Register::CommandHigh
                | Register::SelfIpi
        )
    }
}
