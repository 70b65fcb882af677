//! Interrupts and exceptions on their way into the guest, in the order that
//! hardware gives them: what was interrupted first, then exceptions, then the
//! non-maskable interrupt, then the local APIC.

use bunshin::address::Instant;
use bunshin::exit::{Exit, PowerRequest};
use x86_backend::event::{Event, Source};
use x86_backend::machine::lapic::{Activity, Signal};
use x86_backend::machine::registers::InitialState;
use x86_backend::state::RFLAGS_IF;

use super::X86Vcpu;
use crate::engine::{Engine, Field};
use crate::host::{PerCpu, timer};

/// What waits to be delivered.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// An event whose delivery an exit interrupted.
    interrupted: Option<Event>,
    /// An exception that an emulated instruction raised.
    exception: Option<Event>,
    /// Exceptions came so thick that the processor shuts down.
    shutdown: bool,
    nmi: NmiState,
    /// Signals that a check for idleness has already taken from the APIC.
    signal: Option<Signal>,
    /// The last window was in vain: no more until something else happens.
    window_in_vain: bool,
    /// Nothing waited when the guest was entered last, so that it goes on at once after an exit that
    /// makes nothing wait. Whoever brings something from outside wakes the virtual CPU; deadlines that
    /// pass interrupt the host.
    calm: bool,
}

/// The non-maskable interrupt.
#[derive(Debug, Default)]
struct NmiState {
    pending: bool,
    blocking: Blocking,
    /// Runs in a row that were cut short so that one that waits is delivered.
    short_runs: u32,
}

/// What holds back the next non-maskable interrupt.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Blocking {
    #[default]
    None,
    /// The handler of the one before runs.
    Handler,
    /// Its IRET, the instruction at this address, comes next.
    Return { iret: u64 },
}

impl NmiState {
    /// Nanoseconds of the first run that is cut short.
    const SHORT_RUN: u64 = 10_000;
    /// Each is twice as long as the one before, so that the guest gets on, but for this many at most.
    const DOUBLINGS: u32 = 7;

    /// How long the guest may run at most, in nanoseconds, where hardware tells of the IRET that comes,
    /// and not when it has been executed, nor of the end of a shadow or of what is delivered before.
    fn longest_run(&mut self) -> Option<u64> {
        if !self.pending || self.blocking == Blocking::Handler {
            self.short_runs = 0;
            return None;
        }
        let doublings = self.short_runs.min(Self::DOUBLINGS);
        self.short_runs = doublings.saturating_add(1);
        Some(Self::SHORT_RUN.wrapping_shl(doublings))
    }
}

impl Events {
    /// Something may wait for the guest now: it is looked before the guest goes on.
    #[inline]
    pub(super) fn disturb(&mut self) {
        self.calm = false;
    }

    /// Raises an exception, on top of what is being delivered.
    pub(super) fn raise(&mut self, event: Event) {
        self.disturb();
        let first = self.exception.take().or(self.interrupted);
        match event.after(first.filter(|first| first.source == Source::Exception)) {
            Some(event) => {
                self.exception = Some(event);
                // An exception during the delivery of an exception replaces it; an interrupt is
                // delivered afterwards.
                if self.interrupted.is_some_and(|event| event.source == Source::Exception) {
                    self.interrupted = None;
                }
            }
            None => self.shutdown = true,
        }
    }

    /// The processor finds no way to go on.
    pub(super) fn shut_down(&mut self) {
        self.disturb();
        self.shutdown = true;
    }
}

impl<E: Engine> X86Vcpu<E> {
    /// Everything to be done before the guest runs on; an exit when it does not. `woken` says that
    /// somebody has brought something for it. That is needed only for real mode that is virtual-8086
    /// mode on Bochs: elsewhere the waker's interrupt ends the run, after which it is looked anyway.
    #[inline]
    pub(super) fn prepare(&mut self, woken: bool) -> Option<Exit> {
        if self.events.calm && !woken && !self.pc.has_power_command() {
            return None;
        }
        self.look()
    }

    /// As [`X86Vcpu::prepare`], where something may wait.
    #[inline(never)]
    fn look(&mut self) -> Option<Exit> {
        self.events.disturb();
        if self.deferred.is_some() {
            return self.deferred.take();
        }
        if let Some(request) = self.power_request() {
            return Some(Exit::Power(request));
        }
        self.advance_timers();
        while let Some(signal) = self.events.signal.take().or_else(|| self.apic.take_signal()) {
            if let Some(exit) = self.take_signal(signal) {
                return Some(exit);
            }
        }
        // It stays on as the core sees it: a start-up message that arrives on the way to being off
        // would find nobody.
        if self.apic.activity() == Activity::WaitForSipi || core::mem::take(&mut self.halted) {
            return Some(Exit::Idle);
        }
        let nothing_waits = self.inject();
        if self.events.shutdown {
            return Some(self.shut_down());
        }
        self.engine.set_task_priority(self.apic.cr8());
        let deadline = self.next_deadline().into_iter().chain(self.nmi_deadline()).min();
        PerCpu::current().timer.set_guest(deadline);
        self.events.calm = nothing_waits;
        None
    }

    fn advance_timers(&mut self) {
        let now = self.tsc();
        self.apic.advance(now);
        if self.handle.id().0 == 0 {
            self.pc.pit.poll();
        }
    }

    /// When the guest has to stop for a non-maskable interrupt.
    fn nmi_deadline(&mut self) -> Option<Instant> {
        if E::HAS_NMI_WINDOW {
            return None;
        }
        let run = self.events.nmi.longest_run()?;
        Some(Instant(timer::now().0.saturating_add(timer::ticks(run))))
    }

    fn take_signal(&mut self, signal: Signal) -> Option<Exit> {
        match signal {
            // The first processor starts at the reset vector, where this machine has no firmware.
            Signal::Init if self.apic.activity() == Activity::Active => {
                return Some(Exit::Power(PowerRequest::SystemReset));
            }
            Signal::Init => self.reset_processor(&InitialState::reset(self.signature())),
            Signal::StartUp { address } => {
                self.reset_processor(&InitialState::start_up(self.signature(), address));
            }
            Signal::Nmi => self.events.nmi.pending = true,
        }
        None
    }

    fn takes_interrupts(&self) -> bool {
        self.field(Field::Rflags) & RFLAGS_IF != 0 && !self.engine.in_shadow()
    }

    /// Delivers what can be delivered, and sees to it that the rest is as soon as it can; true if
    /// there was nothing.
    fn inject(&mut self) -> bool {
        let injected = if let Some(event) = self.events.exception.take() {
            self.begin(event);
            true
        } else if let Some(event) = self.events.interrupted.take() {
            self.begin(event);
            true
        } else if self.events.nmi.pending
            && self.events.nmi.blocking == Blocking::None
            && !self.engine.in_shadow()
        {
            self.events.nmi.pending = false;
            self.events.nmi.blocking = Blocking::Handler;
            self.deliver(Event::nmi());
            self.engine.want_nmi_window(true);
            true
        } else {
            false
        };
        if self.events.nmi.pending && E::HAS_NMI_WINDOW {
            self.engine.want_nmi_window(true);
        }
        let external = self.external_waits();
        let vector = self.apic.pending_vector();
        if !external && vector.is_none() {
            let held = self.want_task_priority_window();
            return !(injected || held || self.events.nmi.pending);
        }
        if !injected && self.takes_interrupts() {
            let vector = if external {
                Some(self.pc.pic.acknowledge())
            } else {
                vector.filter(|vector| self.apic.accept(*vector))
            };
            if let Some(vector) = vector {
                self.begin(Event::external(vector));
            }
            // The pair may have another one, of which its output tells nothing new.
            if self.apic.pending_vector().is_none() && !(external && self.external_waits()) {
                self.engine.want_interrupt_window(None);
                // An exit that breaks the delivery off says so.
                let held = self.apic.highest_request().is_some();
                let Events { exception, nmi, .. } = &self.events;
                return !(external || held || nmi.pending || exception.is_some());
            }
        }
        // Whatever waits goes in as soon as the guest lets it.
        self.engine.want_interrupt_window(Some(0xf));
        false
    }

    /// Has the guest go on with `event`.
    fn begin(&mut self, event: Event) {
        self.deliver(event);
        // Its handler comes before the IRET that was about to end the blocking, and ends that as well.
        if let Blocking::Return { .. } = self.events.nmi.blocking {
            self.events.nmi.blocking = Blocking::Handler;
            self.engine.want_nmi_window(true);
        }
    }

    /// An interrupt that the task priority holds back goes in when the guest
    /// lowers that, which it does without an exit. Whether there is one.
    fn want_task_priority_window(&mut self) -> bool {
        let held = self.apic.highest_request().map(|vector| vector >> 4);
        let class = held.filter(|class| *class <= self.apic.cr8() && !self.events.window_in_vain);
        self.engine.want_interrupt_window(class);
        held.is_some()
    }

    /// Takes over what an exit left in hardware.
    #[inline]
    pub(super) fn after_exit(&mut self) {
        self.apic.set_cr8(self.engine.task_priority());
        // Whatever ended the run may have done so before the IRET.
        if let Blocking::Return { iret } = self.events.nmi.blocking
            && iret != self.field(Field::Rip)
        {
            self.events.nmi.blocking = Blocking::None;
        }
        self.events.interrupted = self.engine.interrupted();
        if let Some(Event { source, .. }) = self.events.interrupted {
            self.events.disturb();
            if source == Source::Nmi {
                self.events.nmi.blocking = Blocking::Handler;
            }
        }
        self.events.window_in_vain = false;
    }

    /// The guest takes interrupts now.
    pub(super) fn window_opened(&mut self) {
        self.engine.want_interrupt_window(None);
        self.events.window_in_vain = true;
    }

    /// The guest takes non-maskable interrupts.
    pub(super) fn nmi_window_opened(&mut self) {
        self.engine.want_nmi_window(false);
        self.events.nmi.blocking = Blocking::None;
        // Some processors open it in the shadow of STI (SDM 26.2): it holds none back there.
        self.engine.clear_shadow();
    }

    /// The guest does so after the IRET that comes now.
    pub(super) fn nmi_returns(&mut self) {
        self.engine.want_nmi_window(false);
        self.events.nmi.blocking = Blocking::Return { iret: self.field(Field::Rip) };
    }

    /// Whether something waits that ends an idle instruction.
    pub(super) fn wakes(&mut self) -> bool {
        self.advance_timers();
        if self.events.signal.is_none() {
            self.events.signal = self.apic.take_signal();
        }
        if self.loaded {
            PerCpu::current().timer.set_guest(self.next_deadline());
        }
        let nmi = &self.events.nmi;
        if self.events.signal.is_some() || (nmi.pending && nmi.blocking == Blocking::None) {
            return true;
        }
        self.field(Field::Rflags) & RFLAGS_IF != 0
            && (self.apic.pending_vector().is_some() || self.external_waits())
    }

    /// Whether the 8259 pair has an interrupt that the local APIC lets through.
    fn external_waits(&self) -> bool {
        self.pc.external_pending() && self.apic.takes_external_interrupts()
    }
}
