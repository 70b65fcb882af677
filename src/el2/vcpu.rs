//! A virtual CPU on AArch64: its registers, and running it until the core is
//! needed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering;

use bunshin::address::{GuestAddress, Instant};
use bunshin::backend;
use bunshin::exit::{Completion, Exit, Fatal, PowerAnswer, RawExit};
use bunshin::statistics::ExitKind;
use bunshin::vcpu::VcpuHandle;
use gic::{Effects, Line, VcpuIndex, Vgic};
use traps::exception::ProgramState;
use traps::syndrome::{ExceptionClass, Syndrome};

use crate::el2::aborts::device_access;
use crate::el2::context::Registers;
use crate::el2::emulation::Emulation;
use crate::el2::guest_state::GuestState;
use crate::el2::host::host;
use crate::el2::interrupts::{Interrupts, Outcome};
use crate::el2::machine::{self, Machine};
use crate::el2::percpu::{self, Asks};
use crate::el2::registers::{read_cause, read_register, synchronize, write_register};
use crate::el2::traps_control::TrapControls;

/// Runs the guest until it exits and gives the kind of vector of its exit; see `switch.S`.
///
/// # Safety
/// The registers are those of the virtual CPU whose state is loaded on this CPU, and its stage 2 keeps the guest from
/// all memory of ours.
#[inline(always)]
unsafe fn enter_guest(registers: *mut Registers) -> u64 {
    let vector;
    // SAFETY: the block keeps the stack and says which registers it changes: all that it may name. What the guest does
    // meanwhile is the caller's promise.
    unsafe {
        asm!(
            "bl enter_guest",
            inlateout("x0") registers => vector,
            lateout("x1") _, lateout("x2") _, lateout("x3") _, lateout("x4") _, lateout("x5") _,
            lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
            lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _,
            lateout("x15") _, lateout("x16") _, lateout("x17") _, lateout("x18") _,
            lateout("x20") _, lateout("x21") _, lateout("x22") _, lateout("x23") _,
            lateout("x24") _, lateout("x25") _, lateout("x26") _, lateout("x27") _,
            lateout("x28") _, lateout("x30") _,
        );
    }
    vector
}

/// Kinds of vectors; the others are interrupts.
const SYNCHRONOUS: u64 = 0;
const SERROR: u64 = 3;

/// The registers that tell of an exit's cause tell of none: an interrupt leaves in them what an
/// earlier exit was, of another virtual machine perhaps.
fn forget_cause() {
    write_register!("esr_el2", 0);
    write_register!("far_el2", 0);
    write_register!("hpfar_el2", 0);
}

/// Leaves the guest for the core's sake.
fn leave_for_host() -> Left {
    forget_cause();
    Left::Host
}

/// What this backend leaves of an exit.
pub(crate) enum Left {
    /// Nothing: the guest goes on.
    Nothing,
    /// The core has to look around.
    Host,
    /// The guest waits for an interrupt.
    Idle,
    /// The guest spins.
    SpinHint,
    /// The core has to answer what is [kept](El2Vcpu::keep).
    Kept,
}

/// A virtual CPU.
pub(crate) struct El2Vcpu {
    pub(crate) registers: Registers,
    pub(crate) machine: Arc<Machine>,
    pub(crate) index: VcpuIndex,
    /// An instruction of several accesses that is being emulated.
    pub(crate) emulation: Option<Emulation>,
    handle: Arc<VcpuHandle>,
    state: Box<GuestState>,
    controller: gic::host::CpuInterfaceState,
    pub(crate) controls: TrapControls,
    /// The exit of [`Left::Kept`].
    kept: Exit,
    loaded: bool,
    /// `HCR_EL2.E2H` of this machine: the guest's registers have their second names.
    pub(crate) e2h: bool,
    /// The guest has the system registers of a GICv3.
    pub(crate) gicv3: bool,
    /// Since when this virtual CPU has been able to run without running, for stolen time.
    stolen_since: Option<u64>,
    /// Where the flush of its memory goes on; 0 when none is under way.
    pub(crate) flushed: u64,
    /// No other virtual CPU lives on the host CPU that it is loaded on.
    alone: bool,
    /// It waits for an interrupt of its own accord.
    pub(crate) waits: bool,
}

impl El2Vcpu {
    /// A virtual CPU that is off.
    pub(crate) fn new(machine: Arc<Machine>, handle: Arc<VcpuHandle>) -> Self {
        let index = machine::index(handle.id().0);
        El2Vcpu {
            registers: Registers::starting(0, 0),
            index,
            emulation: None,
            handle,
            state: Box::new(GuestState::at_reset()),
            controller: gic::host::CpuInterfaceState::default(),
            controls: TrapControls::new(&host().features),
            machine,
            kept: Exit::HostInterrupt,
            loaded: false,
            e2h: host().features.e2h,
            gicv3: host().is_gicv3(),
            stolen_since: None,
            flushed: 0,
            alone: false,
            waits: false,
        }
    }

    /// Runs `change` on the interrupt controller, brings this virtual CPU's
    /// list registers up to date and kicks the others that it concerns.
    #[inline(always)]
    pub(crate) fn change_interrupts<R>(
        &mut self,
        change: impl FnOnce(&mut Vgic) -> (R, Effects),
    ) -> R {
        let mut vgic = self.machine.vgic.lock();
        let (result, mut effects) = change(&mut vgic);
        effects.merge(percpu::this().interface().update(&mut vgic, self.index));
        drop(vgic);
        self.machine.kick(effects.others(self.index));
        result
    }

    /// The guest's program counter. Only while loaded.
    #[inline(always)]
    pub(crate) fn pc(&self) -> u64 {
        read_register!("elr_el2")
    }

    /// The guest's PSTATE. Only while loaded.
    #[inline(always)]
    pub(crate) fn state(&self) -> ProgramState {
        ProgramState::new(read_register!("spsr_el2"))
    }

    /// Has the guest go on at `pc` with `state`. Only while loaded.
    #[inline(always)]
    pub(crate) fn go_on_at(&mut self, pc: u64, state: ProgramState) {
        write_register!("elr_el2", pc);
        write_register!("spsr_el2", state.bits());
    }

    /// Moves past the instruction that exited.
    #[inline(always)]
    pub(crate) fn skip(&mut self, length: u64) {
        self.skip_from(self.state(), length);
    }

    /// The same where the guest's PSTATE is known.
    #[inline(always)]
    pub(crate) fn skip_from(&mut self, state: ProgramState, length: u64) {
        let (pc, state) = state.skip_instruction(self.pc(), length);
        self.go_on_at(pc, state);
    }

    /// Keeps what the core has to answer, if that is more than a word.
    #[inline]
    pub(crate) fn keep(&mut self, exit: Option<Exit>) -> Left {
        match exit {
            None => Left::Nothing,
            Some(Exit::HostInterrupt) => Left::Host,
            Some(Exit::Idle) => Left::Idle,
            Some(Exit::SpinHint) => Left::SpinHint,
            Some(exit) => {
                self.kept = exit;
                Left::Kept
            }
        }
    }

    /// What is kept.
    #[inline(always)]
    fn kept_exit(&self) -> Exit {
        match self.kept {
            // So that what is known of every access is known of this one, too.
            Exit::Io(access) => device_access(access.address, access.width, access.operation),
            other => other,
        }
    }

    /// What a part of this backend has left, in the core's terms.
    pub(crate) fn exit_of(&self, left: Left) -> Option<Exit> {
        match left {
            Left::Nothing => None,
            Left::Host => Some(Exit::HostInterrupt),
            Left::Idle => Some(Exit::Idle),
            Left::SpinHint => Some(Exit::SpinHint),
            Left::Kept => Some(self.kept),
        }
    }

    /// Exits that are not on any hot path.
    #[cold]
    fn rare_exit(&mut self, syndrome: Syndrome) -> Left {
        let exit = self.rare(syndrome);
        self.keep(exit)
    }

    /// Takes in what others have changed of its interrupts.
    #[inline(always)]
    fn refresh_interrupts(&mut self) {
        let mut vgic = self.machine.vgic.lock();
        let effects = percpu::this().interface().update(&mut vgic, self.index);
        drop(vgic);
        if effects != Effects::NONE {
            self.machine.kick(effects.others(self.index));
        }
    }

    /// A physical interrupt came while the guest ran.
    #[inline(always)]
    fn physical_interrupt(&mut self) -> Left {
        match self.serve_interrupt() {
            Outcome::Wake => {
                self.handle.clear_wake();
                self.refresh_interrupts();
                // It may be for another that lives on this CPU.
                if self.alone { Left::Nothing } else { leave_for_host() }
            }
            Outcome::Host => leave_for_host(),
            Outcome::Private(_) | Outcome::Maintenance | Outcome::Nothing => Left::Nothing,
        }
    }

    /// Serves whatever is pending, while the guest does not run.
    #[inline(never)]
    fn drain_physical_interrupts(&mut self) {
        while self.serve_interrupt() != Outcome::Nothing {}
    }

    /// Takes one physical interrupt and gives the guest what is its own.
    #[inline(always)]
    fn serve_interrupt(&mut self) -> Outcome {
        let outcome = Interrupts::acknowledge();
        match outcome {
            Outcome::Private(intid) => {
                let line = Line::Ppi(self.index, intid);
                self.handle.exits.count(ExitKind::HostInterrupt);
                self.change_interrupts(|vgic| ((), vgic.inject_linked(line)));
            }
            Outcome::Maintenance => {
                self.handle.exits.count(ExitKind::InterruptController);
                let index = self.index;
                self.change_interrupts(|vgic| {
                    ((), vgic.maintenance(index, &mut percpu::this().interface()))
                });
            }
            Outcome::Wake | Outcome::Host | Outcome::Nothing => {}
        }
        outcome
    }

    /// The host's counter without the time for which the machine stood still.
    fn counter(&self) -> u64 {
        let offset = self.machine.counter_offset.load(Ordering::Relaxed);
        read_register!("cntpct_el0").wrapping_sub(offset)
    }

    /// Adds the time since this virtual CPU could have run to what was stolen from it.
    fn account_stolen_time(&mut self) {
        let now = self.counter();
        let since = if self.waits {
            // Its own timer woke it.
            let offset = self.machine.counter_offset.load(Ordering::Relaxed);
            backend::Vcpu::wake_deadline(self)
                .map(|due| due.0.wrapping_sub(offset))
                .filter(|due| *due <= now)
        } else {
            self.stolen_since
        };
        if let Some(since) = since {
            self.machine.stolen_time.add(self.index.get(), now.wrapping_sub(since));
        }
        self.stolen_since = None;
        self.waits = false;
    }

    /// The guest's priority mask.
    fn priority_mask(&self) -> u8 {
        if self.loaded {
            percpu::this().interface().priority_mask()
        } else {
            host().saved_priority_mask(&self.controller)
        }
    }

    /// Private interrupts of the host that belong to this virtual CPU while it is loaded.
    pub(crate) fn private_lines(&self) -> impl Iterator<Item = (Line, gic::IntId)> + use<> {
        let index = self.index;
        host().interrupts.guest_private().map(move |(number, physical)| {
            (Line::Ppi(index, gic::IntId::new(number)), gic::IntId::new(physical))
        })
    }
}

impl backend::Vcpu for El2Vcpu {
    fn load(&mut self, trap_idle: bool) {
        self.alone = !trap_idle;
        let host = host();
        self.controls.load(trap_idle);
        write_register!("cntvoff_el2", self.machine.counter_offset.load(Ordering::Relaxed));
        let mpidr = self.machine.mpidrs.get(self.index.get()).copied().unwrap_or(0);
        write_register!("vmpidr_el2", crate::el2::traps_control::vmpidr(mpidr));
        write_register!("vpidr_el2", read_register!("midr_el1"));
        {
            let mut translation = self.machine.ram.translation.write();
            host.load_stage2(percpu::this().cpu, &mut translation);
        }
        self.go_on_at(self.registers.pc, ProgramState::new(self.registers.pstate));
        forget_cause();
        percpu::this().interface().restore(&self.controller);
        {
            let mut vgic = self.machine.vgic.lock();
            vgic.loaded(self.index);
            for (line, intid) in self.private_lines() {
                if vgic.is_physical_active(line) {
                    percpu::this().interface().set_active(intid);
                }
            }
            let effects = percpu::this().interface().fill(&mut vgic, self.index);
            drop(vgic);
            self.machine.kick(effects.others(self.index));
        }
        self.state.restore(&host.features);
        self.account_stolen_time();
        synchronize();
        self.loaded = true;
        percpu::this().loaded.set(true);
    }

    fn save(&mut self) {
        let host = host();
        self.registers.pc = self.pc();
        self.registers.pstate = self.state().bits();
        self.state.save(&host.features);
        {
            let mut vgic = self.machine.vgic.lock();
            let effects = vgic.fold(self.index, &mut percpu::this().interface());
            vgic.unloaded(self.index);
            for (line, intid) in self.private_lines() {
                if vgic.is_physical_active(line) {
                    percpu::this().interface().clear_active(intid);
                }
            }
            drop(vgic);
            self.machine.kick(effects.others(self.index));
        }
        percpu::this().interface().save(&mut self.controller);
        host.leave_stage2();
        self.stolen_since = (!self.waits).then(|| self.counter());
        self.loaded = false;
        percpu::this().loaded.set(false);
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        // A kick that comes later makes the guest exit, and is answered then.
        if self.handle.take_wake() {
            self.refresh_interrupts();
        }
        loop {
            if percpu::this().is_asked() {
                match self.asked() {
                    Left::Host => return Exit::HostInterrupt,
                    Left::Kept => return self.kept_exit(),
                    Left::Nothing | Left::Idle | Left::SpinHint => {}
                }
            }
            // SAFETY: the registers are this virtual CPU's, whose EL1 state,
            // stage 2 and traps `load` has put into this CPU. The guest can
            // reach nothing of ours: stage 2 maps only its own memory.
            let vector = unsafe { enter_guest(&raw mut self.registers) };
            let left = match vector {
                SYNCHRONOUS => {
                    let syndrome = Syndrome::new(read_cause!("esr_el2"));
                    match syndrome.class() {
                        ExceptionClass::HVC64 => self.call(),
                        ExceptionClass::DATA_ABORT_LOWER => {
                            let abort = syndrome.data_abort();
                            if abort.is_plain() {
                                // Nearly all that the core sees, and so it stays in registers.
                                if let Some(access) = self.plain_access(abort) {
                                    return access;
                                }
                                Left::Nothing
                            } else {
                                self.rare_data_abort(abort)
                            }
                        }
                        ExceptionClass::SYSTEM_REGISTER => {
                            self.handle.exits.count(ExitKind::Register);
                            self.system_register(syndrome)
                        }
                        _ => self.rare_exit(syndrome),
                    }
                }
                SERROR => self.system_error(),
                _ => self.physical_interrupt(),
            };
            match left {
                Left::Nothing => {}
                Left::Host => return Exit::HostInterrupt,
                Left::Idle => return Exit::Idle,
                Left::SpinHint => return Exit::SpinHint,
                Left::Kept => return self.kept_exit(),
            }
        }
    }

    #[inline(always)]
    fn complete(&mut self, _: Completion, value: u64) {
        self.finish_access(value);
    }

    fn fault(&mut self, _: Completion) {
        self.fault_access();
    }

    fn repeat(&mut self, _: Completion) {
        self.abandon_emulation();
    }

    fn fault_access(&mut self) {
        self.abandon_emulation();
        self.inject_external_abort();
    }

    fn refuse_call(&mut self) {
        self.registers.set(0, psci::NOT_SUPPORTED);
    }

    fn answer(&mut self, answer: PowerAnswer) {
        self.answer_power(answer);
    }

    fn start(&mut self, entry: GuestAddress, context: u64) {
        self.registers = Registers::starting(entry.0, context);
        *self.state = GuestState::at_reset();
        self.emulation = None;
        self.controller = gic::host::CpuInterfaceState::default();
        self.stolen_since = None;
        self.flushed = 0;
        self.controls.reset();
    }

    fn interrupt_pending(&mut self) -> bool {
        let index = self.index;
        if self.loaded {
            // What the host has to say may be an interrupt of this guest.
            self.drain_physical_interrupts();
            self.resample_private_lines();
            let mask = self.priority_mask();
            let pending = self.change_interrupts(|vgic| {
                let effects = vgic.fold(index, &mut percpu::this().interface());
                (vgic.has_deliverable(index, mask), effects)
            });
            if pending {
                self.waits = false;
            }
            pending
        } else {
            let mask = self.priority_mask();
            let pending = self.machine.vgic.lock().has_deliverable(index, mask);
            if pending && self.waits {
                // From now on it is the host that keeps it waiting.
                self.waits = false;
                self.stolen_since = Some(self.counter());
            }
            pending
        }
    }

    fn wake_deadline(&self) -> Option<Instant> {
        let offset = self.machine.counter_offset.load(Ordering::Relaxed);
        let (virtual_timer, physical_timer) = self.state.timers.armed();
        let virtual_timer = virtual_timer.map(|due| due.wrapping_add(offset));
        [virtual_timer, physical_timer].into_iter().flatten().min().map(Instant)
    }

    #[inline(always)]
    fn raw_exit(&self) -> RawExit {
        RawExit {
            cause: read_cause!("esr_el2"),
            detail: read_cause!("far_el2"),
            address: read_cause!("hpfar_el2"),
        }
    }

    fn report(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut registers = self.registers;
        if self.loaded {
            registers.pc = self.pc();
            registers.pstate = self.state().bits();
        }
        writeln!(out, "{registers}")?;
        let el1 = &self.state.el1;
        if self.loaded {
            let class = Syndrome::new(self.raw_exit().cause).class();
            writeln!(out, "  exit: {}", class.name())?;
        } else {
            writeln!(
                out,
                "  sctlr_el1 {:x}  vbar_el1 {:x}  elr_el1 {:x}  esr_el1 {:x}  far_el1 {:x}",
                el1.sctlr, el1.vbar, el1.elr, el1.esr, el1.far
            )?;
        }
        Ok(())
    }

    fn handle(&self) -> &Arc<VcpuHandle> {
        &self.handle
    }
}

impl El2Vcpu {
    /// Does what is asked before the guest goes on.
    #[cold]
    fn asked(&mut self) -> Left {
        let reconsider = percpu::this().take_asks().contains(Asks::RECONSIDER);
        if self.emulation.is_some() {
            let access = self.continue_emulation();
            if access.is_some() {
                if reconsider {
                    percpu::this().ask(Asks::RECONSIDER);
                }
                return self.keep(access);
            }
        }
        if reconsider { Left::Host } else { Left::Nothing }
    }

    /// A physical SError arrived while the guest ran: it may be the guest's
    /// doing, so the guest gets it.
    #[cold]
    fn system_error(&mut self) -> Left {
        self.controls.raise_virtual_serror();
        Left::Nothing
    }

    /// What a guest that cannot go on leaves behind.
    pub(crate) fn fatal(&mut self, reason: Fatal) -> Option<Exit> {
        Some(Exit::Fatal(reason))
    }
}
