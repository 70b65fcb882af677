//! Events that the hypervisor has a processor deliver to its guest, and how
//! AMD-V (APM 15.20) and VT-x (SDM 26.8.3) write them down, which is the same
//! but for the instruction length.

/// Debug exception.
pub const DEBUG: u8 = 1;
/// Breakpoint.
pub const BREAKPOINT: u8 = 3;
/// Overflow.
pub const OVERFLOW: u8 = 4;
/// Undefined opcode.
pub const UNDEFINED: u8 = 6;
/// Double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// General protection.
pub const GENERAL_PROTECTION: u8 = 13;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;
/// Alignment check.
pub const ALIGNMENT_CHECK: u8 = 17;
/// Machine check.
pub const MACHINE_CHECK: u8 = 18;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An interrupt from the interrupt controller.
    External,
    /// The non-maskable interrupt.
    Nmi,
    /// A fault, trap or abort that the processor found.
    Exception,
    /// `INT n`.
    Interrupt,
    /// `INT1`.
    PrivilegedException,
    /// `INT3` or `INTO`.
    SoftwareException,
}

impl Source {
    const fn code(self) -> u64 {
        match self {
            Source::External => 0,
            Source::Nmi => 2,
            Source::Exception => 3,
            Source::Interrupt => 4,
            Source::PrivilegedException => 5,
            Source::SoftwareException => 6,
        }
    }

    const fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Source::External),
            2 => Some(Source::Nmi),
            3 => Some(Source::Exception),
            4 => Some(Source::Interrupt),
            5 => Some(Source::PrivilegedException),
            6 => Some(Source::SoftwareException),
            _ => None,
        }
    }

    /// Whether an instruction asked for the event, so that running it once
    /// more raises the event once more.
    pub const fn is_software(self) -> bool {
        matches!(self, Source::Interrupt | Source::PrivilegedException | Source::SoftwareException)
    }
}

/// An event to be delivered, or whose delivery an exit interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// Origin.
    pub source: Source,
    /// Error code that goes on the stack.
    pub error: Option<u32>,
}

const TYPE_SHIFT: u32 = 8;
const TYPE_MASK: u64 = 0b111;
const ERROR_VALID: u64 = 1 << 11;
const VALID: u64 = 1 << 31;
const ERROR_SHIFT: u32 = 32;

impl Event {
    /// An interrupt.
    pub const fn external(vector: u8) -> Self {
        Event { vector, source: Source::External, error: None }
    }

    /// The non-maskable interrupt.
    pub const fn nmi() -> Self {
        Event { vector: 2, source: Source::Nmi, error: None }
    }

    /// An exception without error code.
    pub const fn exception(vector: u8) -> Self {
        Event { vector, source: Source::Exception, error: None }
    }

    /// An exception with error code.
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Event { vector, source: Source::Exception, error: Some(error) }
    }

    /// The exception that hardware raises for `vector`, with error code 0
    /// where it has one.
    pub const fn fault(vector: u8) -> Self {
        let error = match vector {
            DOUBLE_FAULT | 10..=PAGE_FAULT | ALIGNMENT_CHECK | 21 | 29 | 30 => Some(0),
            _ => None,
        };
        Event { vector, source: Source::Exception, error }
    }

    /// As the hardware wants it: information in the low half, error code in
    /// the high half.
    pub const fn encode(self) -> u64 {
        let error = match self.error {
            Some(error) => ERROR_VALID | (error as u64) << ERROR_SHIFT,
            None => 0,
        };
        VALID | error | self.source.code() << TYPE_SHIFT | self.vector as u64
    }

    /// What the hardware says; `None` if it says that there is no event.
    pub const fn decode(bits: u64) -> Option<Self> {
        if bits & VALID == 0 {
            return None;
        }
        let Some(source) = Source::from_code(bits >> TYPE_SHIFT & TYPE_MASK) else { return None };
        let error = if bits & ERROR_VALID != 0 { Some((bits >> ERROR_SHIFT) as u32) } else { None };
        Some(Event { vector: bits as u8, source, error })
    }

    /// What the processor delivers when `self` arises while `first` is being
    /// delivered (SDM table 7-5): `None` is a triple fault.
    pub const fn after(self, first: Option<Event>) -> Option<Event> {
        let Some(first) = first else { return Some(self) };
        match (Class::of(first), Class::of(self)) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                Some(Event::with_error(DOUBLE_FAULT, 0))
            }
            _ => Some(self),
        }
    }
}

#[derive(Clone, Copy)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(event: Event) -> Self {
        match (event.source, event.vector) {
            (Source::Exception, 0 | 10..=GENERAL_PROTECTION) => Class::Contributory,
            (Source::Exception, PAGE_FAULT) => Class::PageFault,
            (Source::Exception, DOUBLE_FAULT) => Class::DoubleFault,
            _ => Class::Benign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_read_back_as_they_were_written() {
        for (event, bits) in [
            (Event::external(0x30), 0x8000_0030),
            (Event::nmi(), 0x8000_0202),
            (Event::exception(UNDEFINED), 0x8000_0306),
            (Event::with_error(PAGE_FAULT, 7), 0x7_8000_0b0e),
            (Event::fault(GENERAL_PROTECTION), 0x8000_0b0d),
        ] {
            assert_eq!(event.encode(), bits);
            assert_eq!(Event::decode(bits), Some(event));
            assert_eq!(Event::decode(bits & !VALID), None);
        }
    }

    #[test]
    fn faults_during_delivery_double_and_triple() {
        let (gp, pf) = (Event::fault(GENERAL_PROTECTION), Event::fault(PAGE_FAULT));
        let (df, ud) = (Event::fault(DOUBLE_FAULT), Event::fault(UNDEFINED));
        for (first, second, expected) in [
            (None, gp, Some(gp)),
            (Some(Event::external(32)), gp, Some(gp)),
            (Some(ud), pf, Some(pf)),
            (Some(gp), gp, Some(df)),
            (Some(gp), pf, Some(pf)),
            (Some(pf), gp, Some(df)),
            (Some(pf), pf, Some(df)),
            (Some(df), gp, None),
            (Some(df), pf, None),
            (Some(df), ud, Some(ud)),
        ] {
            assert_eq!(second.after(first), expected, "{first:?} {second:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_hardware_says_is_read(bits in any::<u64>()) {
            if let Some(event) = Event::decode(bits) {
                prop_assert_eq!(Event::decode(event.encode()), Some(event));
            }
        }
    }
}
