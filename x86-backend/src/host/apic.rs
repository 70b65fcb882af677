//! The host's local APIC, as MSRs (x2APIC) where the processor has that mode
//! and in memory elsewhere.

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::registers::model_specific::Msr;

use super::timer;

/// Vector of the timer.
pub(super) const TIMER_VECTOR: u8 = 0x40;
/// Vector of a kick.
pub(super) const KICK_VECTOR: u8 = 0x41;
/// Vector of the console.
pub(super) const CONSOLE_VECTOR: u8 = 0x42;
/// Vector of spurious interrupts.
pub(super) const SPURIOUS_VECTOR: u8 = 0xff;

/// IA32_APIC_BASE (SDM 11.4.4).
const APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6e0;
/// First MSR of the x2APIC registers.
const X2APIC_FIRST: u32 = 0x800;
/// Address of the registers in memory.
const MEMORY_BASE: usize = 0xfee0_0000;

/// CPUID leaf 1 ECX.
const CPUID_X2APIC: u32 = 1 << 21;
const CPUID_TSC_DEADLINE: u32 = 1 << 24;

/// Offsets of the registers in memory (SDM table 11-1).
mod register {
    pub(super) const ID: u32 = 0x20;
    pub(super) const TASK_PRIORITY: u32 = 0x80;
    pub(super) const EOI: u32 = 0xb0;
    pub(super) const SPURIOUS: u32 = 0xf0;
    pub(super) const COMMAND_LOW: u32 = 0x300;
    pub(super) const COMMAND_HIGH: u32 = 0x310;
    pub(super) const LVT_TIMER: u32 = 0x320;
    pub(super) const LVT_LINT0: u32 = 0x350;
    pub(super) const LVT_LINT1: u32 = 0x360;
    pub(super) const LVT_ERROR: u32 = 0x370;
    pub(super) const INITIAL_COUNT: u32 = 0x380;
    pub(super) const CURRENT_COUNT: u32 = 0x390;
    pub(super) const DIVIDE: u32 = 0x3e0;
}

const SPURIOUS_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0b1011;
const COMMAND_INIT: u32 = 5 << 8;
const COMMAND_START_UP: u32 = 6 << 8;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;

static X2APIC: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicBool = AtomicBool::new(false);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: only existing registers are named, in x2APIC mode.
        unsafe { Msr::new(X2APIC_FIRST + (register >> 4)).read() as u32 }
    } else {
        // SAFETY: the registers are mapped at their address; an aligned 32-bit read of an existing one.
        unsafe { ((MEMORY_BASE + register as usize) as *const u32).read_volatile() }
    }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: only existing registers are named, with reserved bits clear; interrupts that
        // result have handlers.
        unsafe { Msr::new(X2APIC_FIRST + (register >> 4)).write(u64::from(value)) }
    } else {
        // SAFETY: as for `read`.
        unsafe { ((MEMORY_BASE + register as usize) as *mut u32).write_volatile(value) }
    }
}

/// Enables the local APIC of the processor that runs this.
pub(super) fn enable() {
    let features = __cpuid(1).ecx;
    let mut base = Msr::new(APIC_BASE);
    X2APIC.store(features & CPUID_X2APIC != 0, Ordering::Relaxed);
    DEADLINE.store(features & CPUID_TSC_DEADLINE != 0, Ordering::Relaxed);
    // SAFETY: every processor in 64-bit mode has the register; the mode bits are set one by one as
    // SDM 11.12.5 asks.
    unsafe {
        let enabled = base.read() | APIC_BASE_ENABLE;
        base.write(enabled);
        if features & CPUID_X2APIC != 0 {
            base.write(enabled | APIC_BASE_X2APIC);
        }
    }
    write(register::TASK_PRIORITY, 0);
    write(register::LVT_LINT0, LVT_MASKED);
    write(register::LVT_LINT1, LVT_MASKED);
    write(register::LVT_ERROR, LVT_MASKED);
    write(register::SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(register::DIVIDE, DIVIDE_BY_1);
    let mode = if DEADLINE.load(Ordering::Relaxed) { LVT_TSC_DEADLINE } else { 0 };
    write(register::LVT_TIMER, mode | u32::from(TIMER_VECTOR));
}

/// The modes in use, for the log.
pub(super) fn describe() -> &'static str {
    match (X2APIC.load(Ordering::Relaxed), DEADLINE.load(Ordering::Relaxed)) {
        (true, true) => "x2APIC, TSC-deadline timer",
        (true, false) => "x2APIC, one-shot timer",
        (false, true) => "xAPIC, TSC-deadline timer",
        (false, false) => "xAPIC, one-shot timer",
    }
}

/// The identifier of the processor that runs this.
pub(super) fn id() -> u32 {
    let id = read(register::ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

/// Ends the interrupt that is being served.
pub(super) fn end_of_interrupt() {
    write(register::EOI, 0);
}

/// Has the timer count down from `count` without an interrupt that matters.
pub(super) fn start_counter(count: u32) {
    write(register::LVT_TIMER, LVT_MASKED | u32::from(TIMER_VECTOR));
    write(register::INITIAL_COUNT, count);
    if count == 0 {
        let mode = if DEADLINE.load(Ordering::Relaxed) { LVT_TSC_DEADLINE } else { 0 };
        write(register::LVT_TIMER, mode | u32::from(TIMER_VECTOR));
    }
}

/// What is left of [`start_counter`].
pub(super) fn counter() -> u32 {
    read(register::CURRENT_COUNT)
}

/// Has the timer interrupt at `deadline`, or at once if that is past, or
/// earlier if it is too far. `convert` turns ticks of the time-stamp counter
/// into ticks of the timer.
pub(super) fn arm_timer(deadline: u64, convert: impl Fn(u64) -> u64) {
    if DEADLINE.load(Ordering::Relaxed) {
        // SAFETY: the processor has the register; the interrupt that results has a handler.
        unsafe { Msr::new(TSC_DEADLINE).write(deadline.max(1)) }
    } else {
        let count = convert(deadline.saturating_sub(timer::now().0));
        write(register::INITIAL_COUNT, u32::try_from(count).unwrap_or(u32::MAX).max(1));
    }
}

/// Stops the timer.
pub(super) fn disarm_timer() {
    if DEADLINE.load(Ordering::Relaxed) {
        // SAFETY: as in `arm_timer`.
        unsafe { Msr::new(TSC_DEADLINE).write(0) }
    } else {
        write(register::INITIAL_COUNT, 0);
    }
}

/// Sends a command to the processor `target`.
fn command(target: u32, command: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        let value = u64::from(target) << 32 | u64::from(command);
        // The write is not ordered after earlier stores (SDM 11.12.3); what the target reads must be.
        core::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: a well-formed command; the interrupt that results has a handler.
        unsafe { Msr::new(X2APIC_FIRST + (register::COMMAND_LOW >> 4)).write(value) }
    } else {
        write(register::COMMAND_HIGH, target << 24);
        write(register::COMMAND_LOW, command);
        while read(register::COMMAND_LOW) & COMMAND_PENDING != 0 {
            core::hint::spin_loop();
        }
    }
}

/// Interrupts the processor with identifier `target`.
pub(crate) fn kick(target: u32) {
    command(target, COMMAND_ASSERT | u32::from(KICK_VECTOR));
}

/// Sends INIT.
pub(super) fn send_init(target: u32) {
    command(target, COMMAND_INIT | COMMAND_ASSERT);
}

/// Has a processor that got INIT start at `page << 12`.
pub(super) fn send_start_up(target: u32, page: u8) {
    command(target, COMMAND_START_UP | COMMAND_ASSERT | u32::from(page));
}
