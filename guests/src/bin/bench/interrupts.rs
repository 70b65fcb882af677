//! Interrupts: to the sender, to another CPU, by the timer, and their ends.

use core::sync::atomic::{AtomicU64, Ordering};

use guests::aarch64::gic::{self, Target};
use guests::aarch64::timer::Timer;
use guests::aarch64::{cpu, exception, smp};

use super::counter::{nanoseconds, now, row, sample};

/// The SGI that is sent.
const SGI: u32 = 5;
/// SGIs that are pending at once: as many as every implementation has list registers.
const PENDING: u32 = 4;
/// Ticks to a deadline, enough for whatever arming costs.
const AHEAD: u64 = 50_000;

/// When the last interrupt was entered and ended; 0: not yet.
static ENTERED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
/// How the other CPU waits, or that it stops.
static WAIT: AtomicU64 = AtomicU64::new(0);
const STOP: u64 = 0;
const SPIN: u64 = 1;
const IDLE: u64 = 2;

fn on_sgi() {
    let taken = gic::acknowledge();
    gic::end(taken);
    ENDED.store(now(), Ordering::Release);
}

fn on_timer() {
    let entered = now();
    let taken = gic::acknowledge();
    Timer::Virtual.set_control(0);
    gic::end(taken);
    ENTERED.store(entered, Ordering::Release);
}

fn prepare(handler: fn()) {
    exception::set_interrupt_handler(handler);
    gic::enable(SGI);
    gic::enable(Timer::Virtual.interrupt());
    cpu::unmask_interrupts();
}

/// Lets other CPUs go on where they share a thread of the emulator.
fn give_way() {
    // SAFETY: a hint, which no hypervisor traps.
    unsafe { core::arch::asm!("yield", options(nostack, nomem)) };
}

/// Rows of one CPU.
pub(crate) fn alone() {
    prepare(on_sgi);
    sample("sgi-self", || {
        ENDED.store(0, Ordering::Relaxed);
        let start = now();
        gic::send(SGI, Target::This);
        while ENDED.load(Ordering::Acquire) == 0 {}
        now() - start
    });
    exception::set_interrupt_handler(on_timer);
    sample("timer", || {
        ENTERED.store(0, Ordering::Relaxed);
        let deadline = Timer::Virtual.arm(AHEAD);
        while ENTERED.load(Ordering::Acquire) == 0 {}
        ENTERED.load(Ordering::Relaxed) - deadline
    });
    sample("timer-wfi", || {
        ENTERED.store(0, Ordering::Relaxed);
        let deadline = Timer::Virtual.arm(AHEAD);
        while ENTERED.load(Ordering::Acquire) == 0 {
            cpu::wait_for_interrupt();
        }
        ENTERED.load(Ordering::Relaxed) - deadline
    });
    cpu::mask_interrupts();
    for sgi in 0..PENDING {
        gic::enable(sgi);
    }
    sample("eoi", || {
        for sgi in 0..PENDING {
            gic::send(sgi, Target::This);
        }
        let start = now();
        for _ in 0..PENDING {
            let taken = gic::acknowledge();
            gic::end(taken);
        }
        (now() - start) / u64::from(PENDING)
    });
}

/// Makes another CPU ready for interrupts and has it do `job`.
fn with_other(job: fn(u64) -> u64) -> Option<usize> {
    let other = smp::others().next()?;
    assert!(smp::start(other), "the other CPU starts");
    READY.store(0, Ordering::Release);
    smp::begin(other, job, 0);
    while READY.load(Ordering::Acquire) == 0 {
        give_way();
    }
    Some(other)
}

/// The other CPU can take interrupts.
static READY: AtomicU64 = AtomicU64::new(0);

fn become_ready() {
    cpu::mask_interrupts();
    gic::reset_cpu();
    prepare(on_sgi);
    READY.store(1, Ordering::Release);
}

/// Idles until `done`; an interrupt between the question and WFI is not missed.
fn idle_until(done: impl Fn() -> bool) {
    loop {
        cpu::mask_interrupts();
        if done() {
            cpu::unmask_interrupts();
            return;
        }
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
    }
}

/// Waits for interrupts, one way or the other.
fn wait(_: u64) -> u64 {
    become_ready();
    loop {
        match WAIT.load(Ordering::Acquire) {
            STOP => break,
            IDLE => idle_until(|| WAIT.load(Ordering::Acquire) != IDLE),
            _ => give_way(),
        }
    }
    cpu::mask_interrupts();
    0
}

/// Sends an SGI and gives the time until the other CPU has ended it.
fn send(other: usize) -> u64 {
    ENDED.store(0, Ordering::Release);
    let start = now();
    gic::send(SGI, Target::Cpus(1 << other));
    while ENDED.load(Ordering::Acquire) == 0 {
        give_way();
    }
    ENDED.load(Ordering::Relaxed) - start
}

/// Rows of two CPUs.
pub(crate) fn between() {
    for (name, how) in [("ipi", SPIN), ("ipi-wfi", IDLE)] {
        WAIT.store(how, Ordering::Release);
        let Some(other) = with_other(wait) else { return };
        sample(name, || send(other));
        WAIT.store(STOP, Ordering::Release);
        send(other);
        smp::finish(other);
    }
}

/// How often the turn has gone from one CPU to the other.
static TURN: AtomicU64 = AtomicU64::new(0);
/// Turns before counting, and in all.
const FIRST: u64 = 16;
const TURNS: u64 = FIRST + 64;

/// Takes every other turn until there are `end`.
fn play(parity: u64, other: usize, end: u64) {
    loop {
        let mine = || {
            let turn = TURN.load(Ordering::Acquire);
            turn >= end || turn % 2 == parity
        };
        idle_until(mine);
        let turn = TURN.load(Ordering::Acquire);
        if turn >= end {
            return;
        }
        TURN.store(turn + 1, Ordering::Release);
        gic::send(SGI, Target::Cpus(1 << other));
    }
}

fn opponent(_: u64) -> u64 {
    become_ready();
    play(1, 0, TURNS);
    cpu::mask_interrupts();
    0
}

/// Two virtual CPUs on one host CPU take turns: SGI, WFI, switch, interrupt.
pub(crate) fn switch() {
    prepare(on_sgi);
    let Some(other) = with_other(opponent) else { return };
    play(0, other, FIRST);
    let start = now();
    play(0, other, TURNS);
    row("vcpu-switch", nanoseconds(now() - start, TURNS - FIRST));
    smp::finish(other);
}
