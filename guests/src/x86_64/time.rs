//! Time by the time-stamp counter, measured against the i8254.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{cpu, port};

/// Frequency of the i8254 in Hz.
pub const PIT_FREQUENCY: u64 = 1_193_182;
/// Data port of the i8254's channel 0.
pub const PIT_CHANNEL_0: u16 = 0x40;
/// Data port of the i8254's channel 2.
pub const PIT_CHANNEL_2: u16 = 0x42;
/// Mode port of the i8254.
pub const PIT_MODE: u16 = 0x43;
/// System control port B: gate and output of channel 2.
pub const CONTROL_B: u16 = 0x61;
/// Its output bit.
pub const CONTROL_B_OUTPUT: u8 = 1 << 5;
/// CPUID leaf of hypervisors with the rate of the counter in kHz.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;

static KHZ: AtomicU64 = AtomicU64::new(1_000_000);

/// Kilohertz of the counter.
pub fn tsc_khz() -> u64 {
    KHZ.load(Ordering::Relaxed)
}

pub(super) fn measure() {
    let told = cpu::has_kvm_interface() && cpu::cpuid(0x4000_0000, 0).eax >= HYPERVISOR_TIMING;
    let khz = match told {
        true => u64::from(cpu::cpuid(HYPERVISOR_TIMING, 0).eax),
        false => measure_by_pit(),
    };
    KHZ.store(khz.max(1), Ordering::Relaxed);
}

/// Kilohertz of the counter as the i8254 sees it.
pub fn measure_by_pit() -> u64 {
    const MILLISECONDS: u64 = 20;
    let start = cpu::tsc();
    pit_wait(MILLISECONDS);
    (cpu::tsc() - start) / MILLISECONDS
}

/// Waits by channel 2 of the i8254, at most 50 ms.
pub fn pit_wait(milliseconds: u64) {
    let count = (PIT_FREQUENCY * milliseconds / 1000).min(0xffff) as u16;
    // Gate on, speaker off; mode 0: the output rises at the end.
    port::write8(CONTROL_B, port::read8(CONTROL_B) & !2 | 1);
    port::write8(PIT_MODE, 0b1011_0000);
    let [low, high] = count.to_le_bytes();
    port::write8(PIT_CHANNEL_2, low);
    port::write8(PIT_CHANNEL_2, high);
    while port::read8(CONTROL_B) & CONTROL_B_OUTPUT == 0 {}
}

/// Ticks of the counter in so many microseconds.
pub fn ticks(microseconds: u64) -> u64 {
    microseconds * tsc_khz() / 1000
}

/// Waits with the counter alone, which no hypervisor sees, for so many microseconds at most.
/// Whether the condition held in that time.
pub fn wait_without_exits(microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let end = cpu::tsc() + ticks(microseconds);
    while !condition() {
        if cpu::tsc() > end {
            return false;
        }
    }
    true
}

/// Waits until `condition` holds, at most so many milliseconds; says whether it came to hold.
/// Interrupts are taken meanwhile.
pub fn wait_for(milliseconds: u64, condition: impl Fn() -> bool) -> bool {
    let end = cpu::tsc() + ticks(milliseconds * 1000);
    loop {
        if condition() {
            return true;
        }
        if cpu::tsc() > end {
            return false;
        }
        cpu::interrupt_window();
        core::hint::spin_loop();
    }
}

/// Waits, taking interrupts.
pub fn pause(milliseconds: u64) {
    wait_for(milliseconds, || false);
}
