//! Interrupts: to the sender, to another CPU, by the timer.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{arch, nanoseconds, row, sample};

/// Ticks to a deadline, enough for whatever arming costs.
const AHEAD: u64 = 50_000;
/// Ticks in which another CPU has gone back to its wait.
const SETTLE: u64 = 10_000;

/// When the last interrupt was taken; 0: not yet.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// How the other CPU waits, or that it stops.
static WAIT: AtomicU64 = AtomicU64::new(0);
const STOP: u64 = 0;
const SPIN: u64 = 1;
const IDLE: u64 = 2;

/// The interrupt that is waited for came at this time.
pub(crate) fn taken(at: u64) {
    TAKEN.store(at, Ordering::Release);
}

/// When the last interrupt came; 0: not yet.
fn last() -> u64 {
    TAKEN.load(Ordering::Acquire)
}

/// Forgets the last interrupt.
pub(super) fn forget() {
    TAKEN.store(0, Ordering::Release);
}

/// Whether the interrupt came.
pub(super) fn came() -> bool {
    last() != 0
}

/// Idles until `done`; an interrupt between the question and the wait is not missed.
pub(super) fn idle_until(done: impl Fn() -> bool) {
    loop {
        arch::mask();
        if done() {
            arch::unmask();
            return;
        }
        arch::wait();
        arch::unmask();
    }
}

/// Spins for some ticks in which others go on.
pub(super) fn give_way_for(ticks: u64) {
    let end = arch::now() + ticks;
    while arch::now() < end {
        arch::give_way();
    }
}

/// Rows of one CPU.
pub(super) fn alone() {
    arch::take_messages();
    sample("ipi-self", || {
        forget();
        let start = arch::now();
        arch::send_self();
        while !came() {}
        last() - start
    });
    arch::take_timer();
    sample("timer", || {
        forget();
        let deadline = arch::arm(AHEAD);
        while !came() {}
        last() - deadline
    });
    sample("timer-idle", || {
        forget();
        let deadline = arch::arm(AHEAD);
        idle_until(came);
        last() - deadline
    });
    arch::mask();
}

/// The other CPU can take interrupts.
static READY: AtomicU64 = AtomicU64::new(0);

/// Makes another CPU ready for interrupts and has it do `job`.
fn with_other(job: fn()) -> Option<usize> {
    READY.store(0, Ordering::Release);
    let other = arch::begin(job)?;
    while READY.load(Ordering::Acquire) == 0 {
        arch::give_way();
    }
    Some(other)
}

fn become_ready() {
    arch::take_messages();
    READY.store(1, Ordering::Release);
}

/// Waits for interrupts, one way or the other.
fn wait() {
    become_ready();
    loop {
        match WAIT.load(Ordering::Acquire) {
            STOP => break,
            IDLE => idle_until(|| WAIT.load(Ordering::Acquire) != IDLE),
            _ => arch::give_way(),
        }
    }
    arch::mask();
}

/// Sends a message and gives the time until the other CPU has taken it.
fn send(other: usize) -> u64 {
    give_way_for(SETTLE);
    forget();
    let start = arch::now();
    arch::send(other);
    while !came() {
        arch::give_way();
    }
    last() - start
}

/// Rows of two CPUs.
pub(super) fn between() {
    for (name, how) in [("ipi", SPIN), ("ipi-idle", IDLE)] {
        WAIT.store(how, Ordering::Release);
        let Some(other) = with_other(wait) else { return };
        sample(name, || send(other));
        WAIT.store(STOP, Ordering::Release);
        // It may idle.
        arch::send(other);
        arch::finish(other);
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
        arch::send(other);
    }
}

fn opponent() {
    become_ready();
    play(1, 0, TURNS);
    arch::mask();
}

/// Two virtual CPUs on one host CPU take turns: message, idling, switch, interrupt.
pub(super) fn switch() {
    arch::take_messages();
    let Some(other) = with_other(opponent) else { return };
    play(0, other, FIRST);
    let start = arch::now();
    play(0, other, TURNS);
    row("vcpu-switch", nanoseconds(arch::now() - start, TURNS - FIRST));
    arch::finish(other);
}
