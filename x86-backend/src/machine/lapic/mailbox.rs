//! What others may do to a local APIC while its processor runs: no lock, only
//! atomics that the owner collects before the guest goes on.

use super::message::{Delivery, Destination, Message};
use super::vectors::{VectorSet, bit};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Interface in use, as IA32_APIC_BASE selects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Globally disabled.
    Disabled,
    /// Memory-mapped registers.
    XApic,
    /// Registers as MSRs.
    X2Apic,
}

/// What decides whether a message concerns this APIC; the owner publishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Routing {
    pub(super) mode: Mode,
    /// SVR bit 8.
    pub(super) enabled: bool,
    /// DFR selects the cluster model.
    pub(super) cluster: bool,
    /// LDR bits 31:24 (xAPIC only).
    pub(super) logical_id: u8,
    /// Task priority, for lowest-priority delivery.
    pub(super) priority: u8,
}

const ROUTING_XAPIC: u32 = 1 << 0;
const ROUTING_X2APIC: u32 = 1 << 1;
const ROUTING_ENABLED: u32 = 1 << 2;
const ROUTING_CLUSTER: u32 = 1 << 3;
const ROUTING_PRIORITY_SHIFT: u32 = 16;
const ROUTING_LOGICAL_SHIFT: u32 = 24;

impl Routing {
    fn pack(self) -> u32 {
        let mode = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => ROUTING_XAPIC,
            Mode::X2Apic => ROUTING_X2APIC,
        };
        let enabled = if self.enabled { ROUTING_ENABLED } else { 0 };
        let cluster = if self.cluster { ROUTING_CLUSTER } else { 0 };
        mode | enabled
            | cluster
            | u32::from(self.priority) << ROUTING_PRIORITY_SHIFT
            | u32::from(self.logical_id) << ROUTING_LOGICAL_SHIFT
    }

    fn unpack(bits: u32) -> Self {
        let mode = match (bits & ROUTING_XAPIC != 0, bits & ROUTING_X2APIC != 0) {
            (_, true) => Mode::X2Apic,
            (true, false) => Mode::XApic,
            (false, false) => Mode::Disabled,
        };
        let [_, _, priority, logical_id] = bits.to_le_bytes();
        Routing {
            mode,
            enabled: bits & ROUTING_ENABLED != 0,
            cluster: bits & ROUTING_CLUSTER != 0,
            logical_id,
            priority,
        }
    }
}

/// Non-maskable interrupt, INIT and start-up that wait for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Signals {
    pub(super) nmi: bool,
    pub(super) init: bool,
    pub(super) start_up: Option<u8>,
}

const SIGNAL_NMI: u32 = 1 << 0;
const SIGNAL_INIT: u32 = 1 << 1;
const SIGNAL_START_UP: u32 = 1 << 2;
const SIGNAL_VECTOR_SHIFT: u32 = 8;
const SIGNAL_VECTOR_MASK: u32 = 0xff << SIGNAL_VECTOR_SHIFT;

/// The shared part of one local APIC.
#[derive(Debug)]
pub struct Mailbox {
    id: u32,
    routing: AtomicU32,
    /// Set after anything was posted; lets the owner look at one word only.
    posted: AtomicBool,
    requests: [AtomicU64; 4],
    level: [AtomicU64; 4],
    signals: AtomicU32,
}

impl Mailbox {
    pub(super) fn new(id: u32, routing: Routing) -> Self {
        Mailbox {
            id,
            routing: AtomicU32::new(routing.pack()),
            posted: AtomicBool::new(false),
            requests: Default::default(),
            level: Default::default(),
            signals: AtomicU32::new(0),
        }
    }

    /// APIC identifier of the owner.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether something was posted that the owner has not collected. A
    /// processor must look once more before it goes idle.
    pub fn is_posted(&self) -> bool {
        self.posted.load(Ordering::Acquire)
    }

    pub(super) fn publish(&self, routing: Routing) {
        self.routing.store(routing.pack(), Ordering::Release);
    }

    pub(super) fn routing(&self) -> Routing {
        Routing::unpack(self.routing.load(Ordering::Acquire))
    }

    /// Whether a message to `destination` concerns the owner (SDM 11.6.2).
    pub(super) fn matches(&self, destination: Destination) -> bool {
        let routing = self.routing();
        if routing.mode == Mode::Disabled {
            return false;
        }
        match destination {
            Destination::All => true,
            Destination::AllBut(id) => id != self.id,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(mask) => match routing.mode {
                Mode::X2Apic => {
                    let own = x2apic_logical_id(self.id);
                    own >> 16 == mask >> 16 && own & mask & 0xffff != 0
                }
                _ if routing.cluster => {
                    let [mask, ..] = mask.to_le_bytes();
                    let cluster = mask >> 4;
                    (cluster == 0xf || cluster == routing.logical_id >> 4)
                        && mask & routing.logical_id & 0xf != 0
                }
                _ => mask & u32::from(routing.logical_id) != 0,
            },
        }
    }

    /// Leaves what `message` asks of the owner. False if the owner takes no
    /// such message now, which real hardware would drop, too.
    pub(super) fn post(&self, message: &Message) -> bool {
        let vector = message.vector;
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if !self.routing().enabled {
                    return false;
                }
                let place = usize::from(vector >> 6);
                let (Some(level), Some(request)) =
                    (self.level.get(place), self.requests.get(place))
                else {
                    return false;
                };
                if message.level {
                    level.fetch_or(bit(vector), Ordering::Relaxed);
                } else {
                    level.fetch_and(!bit(vector), Ordering::Relaxed);
                }
                request.fetch_or(bit(vector), Ordering::Release);
            }
            Delivery::Nmi => {
                self.signals.fetch_or(SIGNAL_NMI, Ordering::Release);
            }
            // INIT undoes a start-up that came before it.
            Delivery::Init => self.update_signals(|signals| {
                (signals | SIGNAL_INIT) & !(SIGNAL_START_UP | SIGNAL_VECTOR_MASK)
            }),
            // The first of two start-up messages counts.
            Delivery::StartUp => self.update_signals(|signals| {
                if signals & SIGNAL_START_UP != 0 {
                    signals
                } else {
                    signals | SIGNAL_START_UP | u32::from(vector) << SIGNAL_VECTOR_SHIFT
                }
            }),
            Delivery::Smi | Delivery::External => return false,
        }
        self.posted.store(true, Ordering::Release);
        true
    }

    fn update_signals(&self, change: impl Fn(u32) -> u32) {
        // The closure always gives a value, so the update cannot fail.
        let _ = self.signals.fetch_update(Ordering::AcqRel, Ordering::Acquire, |s| Some(change(s)));
    }

    /// Moves posted requests into `irr` and `tmr`; returns the signals.
    pub(super) fn collect(&self, irr: &mut VectorSet, tmr: &mut VectorSet) -> Signals {
        if !self.posted.load(Ordering::Relaxed) || !self.posted.swap(false, Ordering::AcqRel) {
            return Signals::default();
        }
        for (place, (request, level)) in self.requests.iter().zip(&self.level).enumerate() {
            if request.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let new = request.swap(0, Ordering::Acquire);
            let new_level = level.load(Ordering::Relaxed) & new;
            if let (Some(irr), Some(tmr)) = (irr.word_mut(place), tmr.word_mut(place)) {
                *irr |= new;
                *tmr = (*tmr & !new) | new_level;
            }
        }
        let signals = self.signals.swap(0, Ordering::AcqRel);
        let [_, vector, ..] = signals.to_le_bytes();
        Signals {
            nmi: signals & SIGNAL_NMI != 0,
            init: signals & SIGNAL_INIT != 0,
            start_up: (signals & SIGNAL_START_UP != 0).then_some(vector),
        }
    }

    /// Forgets everything posted.
    pub(super) fn clear(&self) {
        self.collect(&mut VectorSet::default(), &mut VectorSet::default());
    }
}

/// The read-only LDR of x2APIC mode: cluster in bits 31:16, one bit of the
/// low 16 (SDM 11.12.10.2).
pub(super) const fn x2apic_logical_id(id: u32) -> u32 {
    ((id >> 4) << 16) | 1u32.wrapping_shl(id & 0xf)
}
