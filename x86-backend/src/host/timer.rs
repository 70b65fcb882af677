//! Time: the calibrated time-stamp counter, and on each processor a timer that
//! ends idling, or a guest's run, at the earlier of two deadlines.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use bunshin::address::Instant;
use x86_64::instructions::port::Port;

use super::apic;

/// Ticks of the time-stamp counter per second.
static TSC_FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// Ticks of the local APIC's timer per second, with divisor 1.
static APIC_FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// Frequency of the i8254 (1.193182 MHz).
const PIT_FREQUENCY: u64 = 1_193_182;
/// Ticks of one calibration run, about 50 ms: as long as the counter allows, so
/// that what disturbs a run weighs little.
const PIT_TICKS: u16 = 59_660;
/// Calibration runs, of which the shortest is believed: whatever disturbs a
/// run makes it longer.
const RUNS: u32 = 4;
/// Polls after which the i8254 is taken for missing.
const PIT_PATIENCE: u64 = 50_000_000;

/// Ports of the i8254 and of its gate.
mod port {
    pub(super) const CHANNEL_2: u16 = 0x42;
    pub(super) const COMMAND: u16 = 0x43;
    pub(super) const GATE: u16 = 0x61;
}
/// Command: channel 2, low then high byte, mode 0 (interrupt on terminal count).
const COMMAND_ONE_SHOT: u8 = 0b1011_0000;
/// Gate of channel 2.
const GATE_ENABLE: u8 = 1 << 0;
/// Speaker.
const GATE_SPEAKER: u8 = 1 << 1;
/// Output of channel 2.
const GATE_OUTPUT: u8 = 1 << 5;

/// Ticks since the processor started.
#[inline]
pub(crate) fn now() -> Instant {
    // SAFETY: every processor in 64-bit mode has the instruction, and CR4.TSD is clear.
    Instant(unsafe { core::arch::x86_64::_rdtsc() })
}

/// Ticks of [`now`] per second.
pub(crate) fn frequency() -> u64 {
    TSC_FREQUENCY.load(Ordering::Relaxed)
}

/// Nanoseconds of `ticks`.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    scale(ticks, 1_000_000_000, frequency())
}

/// Ticks of `nanoseconds`.
pub(crate) fn ticks(nanoseconds: u64) -> u64 {
    scale(nanoseconds, frequency(), 1_000_000_000)
}

fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product / u128::from(denominator.max(1))).unwrap_or(u64::MAX)
}

/// Waits for `microseconds`.
pub(super) fn delay(microseconds: u64) {
    let ticks = frequency() / 1_000_000 * microseconds;
    let start = now().0;
    while now().0.wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Measures the counters; once, on the first processor, with its local APIC
/// enabled. False if there is nothing to measure them with.
pub(super) fn calibrate() -> bool {
    let best = (0..RUNS).filter_map(|_| measure()).min_by_key(|(tsc, _)| *tsc);
    let (tsc, apic) = match best {
        Some((tsc, apic)) => (
            tsc * PIT_FREQUENCY / u64::from(PIT_TICKS),
            apic * PIT_FREQUENCY / u64::from(PIT_TICKS),
        ),
        None => match crystal() {
            Some(rates) => rates,
            None => return false,
        },
    };
    TSC_FREQUENCY.store(tsc, Ordering::Relaxed);
    APIC_FREQUENCY.store(apic.max(1), Ordering::Relaxed);
    tsc != 0
}

/// Ticks of the time-stamp counter and of the local APIC in one run of the i8254.
fn measure() -> Option<(u64, u64)> {
    let mut gate = Port::<u8>::new(port::GATE);
    let [low, high] = PIT_TICKS.to_le_bytes();
    apic::start_counter(u32::MAX);
    // SAFETY: channel 2 belongs to whoever makes sounds, which is nobody here.
    unsafe {
        let before = gate.read() & !(GATE_ENABLE | GATE_SPEAKER);
        gate.write(before);
        Port::new(port::COMMAND).write(COMMAND_ONE_SHOT);
        Port::new(port::CHANNEL_2).write(low);
        Port::new(port::CHANNEL_2).write(high);
        gate.write(before | GATE_ENABLE);
    }
    let (start, apic_start) = (now().0, apic::counter());
    let mut polls = 0u64;
    // SAFETY: reading the port changes nothing.
    while unsafe { gate.read() } & GATE_OUTPUT == 0 {
        polls += 1;
        if polls > PIT_PATIENCE {
            return None;
        }
    }
    let (end, apic_end) = (now().0, apic::counter());
    apic::start_counter(0);
    // A gate whose output is stuck at one says nothing.
    (polls > 2).then(|| (end.wrapping_sub(start), u64::from(apic_start.wrapping_sub(apic_end))))
}

/// The rates that CPUID tells (leaf 15h), for machines without an i8254.
fn crystal() -> Option<(u64, u64)> {
    const LEAF: u32 = 0x15;
    if core::arch::x86_64::__cpuid(0).eax < LEAF {
        return None;
    }
    let leaf = core::arch::x86_64::__cpuid(LEAF);
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    let crystal = u64::from(leaf.ecx);
    Some((crystal * u64::from(leaf.ebx) / u64::from(leaf.eax), crystal))
}

/// The timer of one processor: two deadlines, of which the earlier counts. Setting them touches no
/// hardware; what watches for them is chosen on the way into a guest or into idling.
pub(crate) struct Timer {
    /// Deadline of the core: the end of a slice, or a sleeper's timer.
    core: Cell<u64>,
    /// Deadline of the virtual CPU that is loaded.
    guest: Cell<u64>,
    /// Deadline in the local APIC.
    armed: Cell<u64>,
}

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

impl Timer {
    pub(super) const fn new() -> Self {
        Timer { core: Cell::new(NEVER), guest: Cell::new(NEVER), armed: Cell::new(NEVER) }
    }

    /// Sets the core's deadline.
    pub(crate) fn set_core(&self, deadline: Option<Instant>) {
        self.core.set(deadline.map_or(NEVER, |instant| instant.0));
    }

    /// Sets the deadline of the virtual CPU that is loaded.
    #[inline]
    pub(crate) fn set_guest(&self, deadline: Option<Instant>) {
        self.guest.set(deadline.map_or(NEVER, |instant| instant.0));
    }

    /// The earlier deadline, in ticks of [`now`]; [`NEVER`] for none.
    #[inline]
    pub(crate) fn deadline(&self) -> u64 {
        self.core.get().min(self.guest.get())
    }

    /// The interrupt came.
    pub(super) fn expired(&self) {
        self.armed.set(NEVER);
        self.take_core();
    }

    /// Whether the core's deadline has passed, which is told once.
    pub(crate) fn take_core(&self) -> bool {
        let passed = self.core.get() <= now().0;
        if passed {
            self.core.set(NEVER);
        }
        passed
    }

    /// Has the local APIC interrupt at the deadline.
    #[inline]
    pub(crate) fn arm(&self) {
        let deadline = self.deadline();
        if deadline == self.armed.get() {
            return;
        }
        self.armed.set(deadline);
        if deadline == NEVER {
            apic::disarm_timer();
        } else {
            apic::arm_timer(deadline, |ticks| {
                scale(ticks, APIC_FREQUENCY.load(Ordering::Relaxed), frequency())
            });
        }
    }

    /// Has the local APIC not interrupt: something else watches for the deadline.
    #[inline]
    pub(crate) fn disarm(&self) {
        if self.armed.get() != NEVER {
            self.armed.set(NEVER);
            apic::disarm_timer();
        }
    }
}
