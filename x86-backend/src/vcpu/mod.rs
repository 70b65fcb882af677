//! A virtual CPU: the same for both vendors, generic over the [`Engine`] that
//! runs it.
#![deny(clippy::arithmetic_side_effects)]

mod events;
mod exits;
mod io;
mod memory;
mod real_mode;
mod registers;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt::{self, Write};

use bunshin::address::{GuestAddress, Instant, VcpuId};
use bunshin::backend::Vcpu;
use bunshin::exit::{Completion, Exit, PowerAnswer, PowerRequest, RawExit};
use bunshin::vcpu::VcpuHandle;
use x86_backend::event::{self, Event};
use x86_backend::machine::kvm_clock::SystemTime;
use x86_backend::machine::lapic::{
    Delivery, Destination, LocalApic, Message, MessageSink, TimerClock,
};
use x86_backend::machine::msr::Bank;
use x86_backend::machine::power::PowerCommand;
use x86_backend::machine::registers::InitialState;
use x86_backend::state::{RAX, RBX, RDX, RSI, RSP, Registers, SegmentName};

use crate::engine::{Engine, Field};
use crate::host::{self, FpuState, PerCpu, timer};
use crate::vm::Pc;
use io::PendingAccess;

/// What `VMCALL` returns for a call that does not exist, in the ABI whose
/// signature the guest finds in CPUID (KVM_ENOSYS, -1000).
const UNKNOWN_CALL: u64 = -1000i64 as u64;

/// One virtual CPU.
pub(crate) struct X86Vcpu<E: Engine> {
    handle: Arc<VcpuHandle>,
    pc: Arc<Pc>,
    engine: E,
    registers: Registers,
    fpu: FpuState,
    apic: LocalApic,
    msrs: Bank,
    tsc_aux: u64,
    loaded: bool,
    /// It has its host CPU for itself by the user's will.
    pinned: bool,
    /// The guest waits in `HLT`, of which the core has not heard yet.
    halted: bool,
    /// What waits to be delivered.
    events: events::Events,
    /// The access that the core is answering.
    access: PendingAccess,
    /// The next access of an instruction that the core has answered in part.
    deferred: Option<Exit>,
    /// Start-up messages that this virtual CPU sent and the core must carry out.
    startups: VecDeque<(usize, u8)>,
    /// The one that the core is answering.
    startup: Option<(usize, u8)>,
    /// The clock page in guest memory.
    system_time: SystemTime,
    /// The state of the second-stage tables that it last ran with.
    tables: u64,
    /// Length of the instruction that is being executed, where hardware knows less of it than we do.
    decoded_length: Option<u8>,
}

impl<E: Engine> X86Vcpu<E> {
    /// A virtual CPU of `pc` that is off. `apic` is its local APIC; `pinned` says that
    /// the user gives it a host CPU for itself.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn new(
        handle: Arc<VcpuHandle>,
        pc: Arc<Pc>,
        apic: LocalApic,
        pinned: bool,
    ) -> Result<Self, &'static str> {
        let engine = E::new(pc.ram.root())?;
        let fpu = FpuState::new().ok_or("no memory for floating-point state")?;
        let msrs = Bank::new(pc.cpuid.vendor(), host::address_bits());
        Ok(X86Vcpu {
            handle,
            pc,
            engine,
            registers: Registers::default(),
            fpu,
            apic,
            msrs,
            tsc_aux: 0,
            loaded: false,
            pinned,
            halted: false,
            events: events::Events::default(),
            access: PendingAccess::None,
            deferred: None,
            startups: VecDeque::new(),
            startup: None,
            system_time: SystemTime::default(),
            tables: 0,
            decoded_length: None,
        })
    }

    /// A local APIC for virtual CPU number `id`.
    pub(crate) fn local_apic(id: u32) -> LocalApic {
        LocalApic::new(id, id == 0, timer_clock(), host::address_bits())
    }

    /// The guest's time-stamp counter: the host's, but for the time for which the machine stood
    /// still.
    fn tsc(&self) -> u64 {
        timer::now().0.wrapping_sub(self.pc.clock.stood_still())
    }

    /// What RDX tells after a reset.
    fn signature(&self) -> u32 {
        self.cpuid(1, 0).eax
    }

    /// Puts the registers into `state`, everything else into that after INIT.
    fn reset_processor(&mut self, state: &InitialState) {
        self.engine.start(state);
        self.registers = Registers::default();
        for (number, value) in [
            (RAX, state.rax),
            (RBX, state.rbx),
            (RDX, state.rdx),
            (RSI, state.rsi),
            (RSP, state.rsp),
        ] {
            self.registers.set(number, value);
        }
        self.halted = false;
        self.events = events::Events::default();
        self.access = PendingAccess::None;
        self.deferred = None;
        self.startups.clear();
        self.startup = None;
    }

    /// Raises an exception in the guest.
    fn raise(&mut self, event: Event) {
        self.events.raise(event);
    }

    fn raise_fault(&mut self, vector: u8) {
        self.raise(Event::fault(vector));
    }

    fn field(&self, field: Field) -> u64 {
        self.engine.read(field)
    }
}

/// The rates of every virtual machine's local APIC timers.
pub(crate) fn timer_clock() -> TimerClock {
    let tsc_khz = u32::try_from(timer::frequency() / 1000).unwrap_or(u32::MAX);
    TimerClock { tsc_khz, bus_khz: BUS_KHZ }
}

/// Frequency of the clock that local APIC timers divide, in kHz.
pub(crate) const BUS_KHZ: u32 = 1_000_000;

impl<E: Engine> Vcpu for X86Vcpu<E> {
    fn load(&mut self, trap_idle: bool) {
        self.engine.load();
        // Who has a host CPU for itself by the user's will waits in hardware. AMD-V then ends HLT
        // with every interrupt of the host, as a system-management interrupt may on a PC; so do
        // emulators of VT-x. Others are not told that the instruction does that.
        self.engine.trap_idle(trap_idle || !self.pinned, trap_idle);
        // It waited without the core's knowing, which now has others to run meanwhile.
        self.halted = trap_idle && self.engine.take_halt();
        self.engine.set_tsc_offset(self.pc.clock.stood_still().wrapping_neg());
        self.fpu.load();
        host::msr::write_tsc_aux(self.tsc_aux);
        self.loaded = true;
        self.events.disturb();
    }

    fn save(&mut self) {
        self.loaded = false;
        PerCpu::current().timer.set_guest(None);
        self.fpu.save();
        self.engine.unload();
    }

    fn run(&mut self) -> Exit {
        loop {
            // Taken before the state is read that a waker changes: the next waker kicks again.
            let woken = self.handle.take_wake();
            if let Some(exit) = self.prepare(woken) {
                return exit;
            }
            let cause = match self.pc.ram.shootdown() {
                None => self.engine.run(&mut self.registers),
                Some(shootdown) => {
                    let tables = shootdown.enter(self.handle.id().0);
                    if core::mem::replace(&mut self.tables, tables) != tables {
                        self.engine.forget_tables();
                    }
                    let cause = self.engine.run(&mut self.registers);
                    shootdown.leave(self.handle.id().0);
                    cause
                }
            };
            self.after_exit();
            if !cause.is_quiet() {
                self.events.disturb();
            }
            if let Some(exit) = self.resolve(cause) {
                return exit;
            }
        }
    }

    fn complete(&mut self, completion: Completion, value: u64) {
        self.finish_access(completion, value);
    }

    fn fault(&mut self, completion: Completion) {
        // Nobody answers on a PC's bus: the data lines read as ones.
        self.finish_access(completion, completion.width.mask());
    }

    fn repeat(&mut self, _: Completion) {
        self.access = PendingAccess::None;
    }

    fn fault_access(&mut self) {
        self.access = PendingAccess::None;
        self.raise_fault(event::GENERAL_PROTECTION);
    }

    fn refuse_call(&mut self) {
        self.registers.set(RAX, UNKNOWN_CALL);
    }

    fn answer(&mut self, answer: PowerAnswer) {
        // A start-up message to a processor that runs goes to its local APIC, which knows whether
        // it waits for one.
        self.events.disturb();
        if let Some((target, page)) = self.startup.take()
            && answer == PowerAnswer::AlreadyOn
        {
            self.pc.apics.send(&start_up(target, page));
        }
    }

    fn start(&mut self, entry: GuestAddress, _: u64) {
        self.fpu.reset();
        self.msrs.reset();
        self.tsc_aux = 0;
        self.system_time = SystemTime::default();
        self.apic.reset();
        if self.handle.id() == VcpuId(0) {
            let Some(launch) = self.pc.launch() else { return };
            self.reset_processor(&launch);
        } else {
            self.reset_processor(&InitialState::reset(self.signature()));
            let page = u8::try_from(entry.0 >> 12).unwrap_or(0);
            self.pc.apics.send(&start_up(self.handle.id().0, page));
        }
    }

    fn interrupt_pending(&mut self) -> bool {
        self.events.disturb();
        self.wakes()
    }

    fn wake_deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn raw_exit(&self) -> RawExit {
        self.engine.raw()
    }

    fn report(&self, out: &mut dyn Write) -> fmt::Result {
        self.write_report(out)
    }

    fn handle(&self) -> &Arc<VcpuHandle> {
        &self.handle
    }
}

impl<E: Engine> X86Vcpu<E> {
    fn next_deadline(&self) -> Option<Instant> {
        let apic =
            self.apic.next_deadline().map(|tsc| tsc.wrapping_add(self.pc.clock.stood_still()));
        let pit = self.legacy_deadline();
        apic.into_iter().chain(pit).min().map(Instant)
    }

    /// When the i8254 is due: the business of the first virtual CPU.
    fn legacy_deadline(&self) -> Option<u64> {
        if self.handle.id() != VcpuId(0) {
            return None;
        }
        self.pc.pit.next_deadline().map(|due| self.pc.clock.ticks_at(due))
    }

    /// The next power request that this virtual CPU makes.
    fn power_request(&mut self) -> Option<PowerRequest> {
        if let Some((target, page)) = self.startups.pop_front() {
            self.startup = Some((target, page));
            return Some(PowerRequest::CpuOn {
                target: VcpuId(target),
                entry: GuestAddress(u64::from(page) << 12),
                context: 0,
            });
        }
        self.pc.take_power().map(|command| match command {
            PowerCommand::Off => PowerRequest::SystemOff,
            PowerCommand::Reset => PowerRequest::SystemReset,
        })
    }

    fn write_report(&self, out: &mut dyn Write) -> fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        writeln!(
            out,
            "rip {:016x} rflags {:08x} cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x}",
            self.field(Field::Rip),
            self.field(Field::Rflags),
            self.field(Field::Cr0),
            self.field(Field::Cr2),
            self.field(Field::Cr3),
            self.field(Field::Cr4),
            self.field(Field::Efer),
        )?;
        for (place, (name, value)) in NAMES.iter().zip(self.registers.0).enumerate() {
            let end = if place % 4 == 3 { '\n' } else { ' ' };
            write!(out, "{name} {value:016x}{end}")?;
        }
        for name in SegmentName::ALL {
            let segment = self.engine.segment(name);
            writeln!(
                out,
                "{name:?}: {:04x} base {:016x} limit {:08x} attributes {:03x}",
                segment.selector,
                segment.base,
                segment.limit,
                segment.attributes.bits(),
            )?;
        }
        Ok(())
    }
}

fn start_up(target: usize, page: u8) -> Message {
    Message {
        destination: Destination::Physical(u32::try_from(target).unwrap_or(u32::MAX)),
        delivery: Delivery::StartUp,
        vector: page,
        level: false,
    }
}
