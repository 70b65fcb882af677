//! The local APIC of a virtual CPU (SDM volume 3, chapter 11): one state
//! machine behind the xAPIC window and the x2APIC registers.
//!
//! A [`LocalApic`] belongs to its virtual CPU and takes no lock. Other
//! processors and devices reach it through its [`Mailbox`] only. Time is the
//! guest's time-stamp counter, handed in by the caller.

mod access;
mod base;
mod bus;
mod interface;
mod mailbox;
mod message;
mod register;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use base::DEFAULT_ADDRESS;
pub use bus::{ApicBus, Wake};
pub use mailbox::{Mailbox, Mode};
pub use message::{Delivery, Destination, Message, MessageSink};
pub use timer::TimerClock;

use super::GeneralProtection;
use alloc::sync::Arc;
use base::ApicBase;
use mailbox::{Routing, Signals};
use register::*;
use timer::{Timer, TimerMode};
use vectors::VectorSet;

/// First MSR of the x2APIC interface.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC interface.
pub const X2APIC_LAST: u32 = 0x8ff;
/// Bytes of the xAPIC window.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Where the task-priority class starts in a priority.
const CLASS: u8 = 0xf0;

/// What the caller has to do after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Tell the IOAPIC that the level-triggered `vector` has ended.
    EndOfInterrupt {
        /// The vector.
        vector: u8,
    },
    /// Send a message on the interrupt bus.
    Send(Message),
    /// [`LocalApic::next_deadline`] may have changed.
    Timer,
}

/// Whether the processor runs instructions at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It does.
    Active,
    /// It waits for a start-up message, as after INIT.
    WaitForSipi,
}

/// What a processor learns from [`LocalApic::take_signal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Reset all registers as INIT does; then look at [`LocalApic::activity`].
    Init,
    /// Start in real mode at the physical address, below 1 MiB.
    StartUp {
        /// CS base of the first instruction; its IP is 0.
        address: u64,
    },
    /// Non-maskable interrupt.
    Nmi,
}

/// The local APIC of one virtual CPU.
#[derive(Debug)]
pub struct LocalApic {
    mailbox: Arc<Mailbox>,
    signals: Signals,
    activity: Activity,
    base: ApicBase,
    address_bits: u32,
    task_priority: u8,
    logical_destination: u32,
    destination_format: u32,
    spurious: u32,
    errors: u32,
    latched_errors: u32,
    command: u64,
    lvt: [u32; Lvt::ALL.len()],
    in_service: VectorSet,
    trigger_mode: VectorSet,
    requests: VectorSet,
    timer: Timer,
}

impl LocalApic {
    /// A local APIC after power-on. `id` is the x2APIC identifier (its low
    /// byte is the xAPIC one), `bootstrap` marks the processor that boots;
    /// the others wait for a start-up message. `address_bits` is the width of
    /// guest-physical addresses.
    pub fn new(id: u32, bootstrap: bool, clock: TimerClock, address_bits: u32) -> Self {
        let routing = Routing {
            mode: Mode::XApic,
            enabled: false,
            cluster: false,
            logical_id: 0,
            priority: 0,
        };
        LocalApic {
            mailbox: Arc::new(Mailbox::new(id, routing)),
            signals: Signals::default(),
            activity: if bootstrap { Activity::Active } else { Activity::WaitForSipi },
            base: ApicBase::new(bootstrap),
            address_bits,
            task_priority: 0,
            logical_destination: 0,
            destination_format: DFR_FLAT,
            spurious: SVR_VECTOR,
            errors: 0,
            latched_errors: 0,
            command: 0,
            lvt: [LVT_MASKED; Lvt::ALL.len()],
            in_service: VectorSet::default(),
            trigger_mode: VectorSet::default(),
            requests: VectorSet::default(),
            timer: Timer::new(clock),
        }
    }

    /// The part that others post to.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// x2APIC identifier.
    pub fn id(&self) -> u32 {
        self.mailbox.id()
    }

    /// Interface in use.
    pub fn mode(&self) -> Mode {
        self.base.mode
    }

    /// Guest-physical address of the xAPIC window; answers only in
    /// [`Mode::XApic`].
    pub fn window(&self) -> u64 {
        self.base.address
    }

    /// Whether the processor runs or waits for a start-up message.
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// Returns to the state after power-on and forgets what was posted.
    pub fn reset(&mut self) {
        self.base = ApicBase::new(self.base.bootstrap);
        self.mailbox.clear();
        self.signals = Signals::default();
        self.activity = if self.base.bootstrap { Activity::Active } else { Activity::WaitForSipi };
        self.reset_registers();
    }

    /// The state after INIT: everything but IA32_APIC_BASE and the identifier.
    fn reset_registers(&mut self) {
        self.task_priority = 0;
        self.logical_destination = 0;
        self.destination_format = DFR_FLAT;
        self.spurious = SVR_VECTOR;
        self.errors = 0;
        self.latched_errors = 0;
        self.command = 0;
        self.lvt = [LVT_MASKED; Lvt::ALL.len()];
        self.in_service = VectorSet::default();
        self.trigger_mode = VectorSet::default();
        self.requests = VectorSet::default();
        self.timer.disarm();
        self.timer.set_divide(0, 0);
        self.publish();
    }

    fn publish(&self) {
        let [.., logical_id] = self.logical_destination.to_le_bytes();
        self.mailbox.publish(Routing {
            mode: self.base.mode,
            enabled: self.spurious & SVR_ENABLED != 0,
            cluster: self.destination_format & DFR_MODEL != DFR_MODEL,
            logical_id,
            priority: self.task_priority,
        });
    }

    /// Takes in what others posted.
    #[inline]
    fn collect(&mut self) {
        if self.mailbox.is_posted() {
            self.collect_posted();
        }
    }

    #[inline(never)]
    fn collect_posted(&mut self) {
        let new = self.mailbox.collect(&mut self.requests, &mut self.trigger_mode);
        if new.init {
            self.signals = Signals { nmi: self.signals.nmi, ..new };
        }
        self.signals.nmi |= new.nmi;
        self.signals.start_up = self.signals.start_up.or(new.start_up);
    }

    /// The next of INIT, start-up and NMI, in this order. Call until it gives
    /// `None` before the guest goes on.
    #[inline]
    pub fn take_signal(&mut self) -> Option<Signal> {
        self.collect();
        if self.signals == Signals::default() {
            return None;
        }
        if core::mem::take(&mut self.signals.init) {
            self.reset_registers();
            self.activity =
                if self.base.bootstrap { Activity::Active } else { Activity::WaitForSipi };
            return Some(Signal::Init);
        }
        // A start-up message to a processor that runs is ignored.
        if let Some(page) = self.signals.start_up.take()
            && self.activity == Activity::WaitForSipi
        {
            self.activity = Activity::Active;
            return Some(Signal::StartUp { address: u64::from(page) << 12 });
        }
        let nmi = core::mem::take(&mut self.signals.nmi);
        (nmi && self.activity == Activity::Active).then_some(Signal::Nmi)
    }

    /// CR8: bits 7:4 of the task priority.
    pub fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Takes over CR8 as the hardware or the guest changed it; bits 7:4 are
    /// ignored.
    pub fn set_cr8(&mut self, value: u8) {
        let priority = value << 4;
        if priority != self.task_priority & CLASS {
            self.task_priority = priority;
            self.publish();
        }
    }

    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0);
        if self.task_priority & CLASS >= in_service & CLASS {
            self.task_priority
        } else {
            in_service & CLASS
        }
    }

    /// The vector to inject as soon as the guest takes interrupts, if one is
    /// above the processor's priority.
    pub fn pending_vector(&mut self) -> Option<u8> {
        self.collect();
        let vector = self.requests.highest()?;
        let deliverable = self.base.mode != Mode::Disabled
            && self.spurious & SVR_ENABLED != 0
            && vector & CLASS > self.processor_priority() & CLASS;
        deliverable.then_some(vector)
    }

    /// The highest vector that waits, even below the processor's priority; the
    /// guest would take it after it lowers its priority.
    pub fn highest_request(&mut self) -> Option<u8> {
        self.collect();
        self.requests.highest()
    }

    /// The processor takes `vector`: request becomes in-service. Returns false,
    /// and changes nothing, if it was not requested.
    pub fn accept(&mut self, vector: u8) -> bool {
        if !self.requests.contains(vector) {
            return false;
        }
        self.requests.remove(vector);
        self.in_service.insert(vector);
        true
    }

    /// Whether an interrupt of the 8259 pair reaches this processor: through
    /// LINT0, or directly past a disabled APIC.
    pub fn takes_external_interrupts(&self) -> bool {
        if self.base.mode == Mode::Disabled {
            return self.base.bootstrap;
        }
        let lint0 = self.lvt(Lvt::Lint0);
        lint0 & LVT_MASKED == 0 && lint0 & LVT_DELIVERY == LVT_DELIVERY_EXTERNAL
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else {
            return Effect::None;
        };
        self.in_service.remove(vector);
        if self.trigger_mode.contains(vector) {
            Effect::EndOfInterrupt { vector }
        } else {
            Effect::None
        }
    }

    fn lvt(&self, entry: Lvt) -> u32 {
        self.lvt.get(entry as usize).copied().unwrap_or(LVT_MASKED)
    }

    /// Requests the vector of an unmasked LVT entry.
    fn fire(&mut self, entry: Lvt) {
        let value = self.lvt(entry);
        if value & LVT_MASKED != 0 {
            return;
        }
        let [vector, ..] = value.to_le_bytes();
        if vector < FIRST_LEGAL_VECTOR {
            // An error entry with an illegal vector must not report itself again.
            if entry != Lvt::Error {
                self.report_error(ESR_RECEIVED_ILLEGAL_VECTOR);
            } else {
                self.errors |= ESR_RECEIVED_ILLEGAL_VECTOR;
            }
            return;
        }
        self.request(vector);
    }

    fn request(&mut self, vector: u8) {
        self.trigger_mode.remove(vector);
        self.requests.insert(vector);
    }

    fn report_error(&mut self, error: u32) {
        self.errors |= error;
        self.fire(Lvt::Error);
    }

    fn timer_mode(&self) -> TimerMode {
        match self.lvt(Lvt::Timer) & LVT_TIMER_MODE {
            LVT_TIMER_PERIODIC => TimerMode::Periodic,
            LVT_TIMER_DEADLINE => TimerMode::Deadline,
            _ => TimerMode::OneShot,
        }
    }

    /// The time-stamp at which [`LocalApic::advance`] has to be called next;
    /// `None` while the timer cannot interrupt.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.lvt(Lvt::Timer) & LVT_MASKED != 0 { None } else { self.timer.expiry() }
    }

    /// Lets the timer count up to time-stamp `now`.
    pub fn advance(&mut self, now: u64) {
        if self.timer.expire(self.timer_mode(), now) {
            self.fire(Lvt::Timer);
        }
    }

    /// Reads IA32_TSC_DEADLINE: 0 unless the timer is armed in that mode.
    pub fn read_deadline(&mut self, now: u64) -> u64 {
        self.advance(now);
        match self.timer_mode() {
            TimerMode::Deadline => self.timer.expiry().unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes IA32_TSC_DEADLINE; ignored in the other timer modes.
    pub fn write_deadline(&mut self, deadline: u64) -> Effect {
        if self.timer_mode() != TimerMode::Deadline {
            return Effect::None;
        }
        self.timer.set_deadline(deadline);
        Effect::Timer
    }

    /// Reads IA32_APIC_BASE.
    pub fn read_base(&self) -> u64 {
        self.base.bits()
    }

    /// Writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`GeneralProtection`] for a reserved bit or an illegal change of mode.
    pub fn write_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let old = self.base;
        self.base = old.write(value, self.address_bits)?;
        if old.mode == self.base.mode {
            return Ok(Effect::None);
        }
        if self.base.mode == Mode::Disabled {
            self.reset_registers();
        }
        self.publish();
        Ok(Effect::Timer)
    }
}
