//! Messages on the interrupt bus: from the IOAPIC, from devices that signal by
//! message, and between processors.

/// How a local APIC handles a message (SDM 11.6.1, ICR delivery mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The vector, to every processor that matches.
    Fixed,
    /// The vector, to the one matching processor of lowest priority.
    LowestPriority,
    /// System-management interrupt; this machine has no such mode.
    Smi,
    /// Non-maskable interrupt; the vector does not matter.
    Nmi,
    /// Reset to the state that waits for a start-up message.
    Init,
    /// Start-up at `vector << 12` in real mode.
    StartUp,
    /// Interrupt whose vector the 8259 pair gives.
    External,
}

impl Delivery {
    /// The delivery mode of the three-bit field `bits`; `None` if reserved.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits & 0b111 {
            0 => Some(Delivery::Fixed),
            1 => Some(Delivery::LowestPriority),
            2 => Some(Delivery::Smi),
            4 => Some(Delivery::Nmi),
            5 => Some(Delivery::Init),
            6 => Some(Delivery::StartUp),
            7 => Some(Delivery::External),
            _ => None,
        }
    }
}

/// Which processors a message concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The one with this APIC identifier.
    Physical(u32),
    /// Those that match this logical destination.
    Logical(u32),
    /// All.
    All,
    /// All but the one with this APIC identifier.
    AllBut(u32),
}

impl Destination {
    /// The destination in the 8-bit field of xAPIC and IOAPIC messages, where
    /// physical identifier 0xff means all.
    pub const fn from_8_bits(field: u8, logical: bool) -> Self {
        match (logical, field) {
            (true, _) => Destination::Logical(field as u32),
            (false, 0xff) => Destination::All,
            (false, _) => Destination::Physical(field as u32),
        }
    }

    /// The destination in the 32-bit field of x2APIC messages, where
    /// `0xffff_ffff` means all.
    pub const fn from_32_bits(field: u32, logical: bool) -> Self {
        match (logical, field) {
            (_, u32::MAX) => Destination::All,
            (true, _) => Destination::Logical(field),
            (false, _) => Destination::Physical(field),
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whom it concerns.
    pub destination: Destination,
    /// What they do about it.
    pub delivery: Delivery,
    /// Interrupt vector, or page number of the start-up code.
    pub vector: u8,
    /// Level-triggered: its end of interrupt is told to the IOAPIC.
    pub level: bool,
}

/// Where messages go.
pub trait MessageSink: Send + Sync {
    /// Delivers `message` to the processors that it concerns; whether any
    /// took it.
    fn deliver(&self, message: &Message) -> bool;

    /// Delivers `message`, which is lost if nobody takes it.
    fn send(&self, message: &Message) {
        self.deliver(message);
    }
}
