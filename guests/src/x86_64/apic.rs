//! The local APIC in x2APIC mode: registers are model-specific registers.

use super::cpu::{self, read_msr, write_msr};

/// IA32_APIC_BASE.
pub const BASE: u32 = 0x1b;
/// IA32_APIC_BASE: enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the first processor.
pub const BASE_FIRST: u64 = 1 << 8;

/// Identifier.
pub const ID: u32 = 0x802;
/// Version.
pub const VERSION: u32 = 0x803;
/// Task priority.
pub const TPR: u32 = 0x808;
/// Processor priority.
pub const PPR: u32 = 0x80a;
/// End of interrupt.
pub const EOI: u32 = 0x80b;
/// Spurious interrupt vector, and software enable.
pub const SVR: u32 = 0x80f;
/// In service, first of eight.
pub const ISR: u32 = 0x810;
/// Requested, first of eight.
pub const IRR: u32 = 0x820;
/// Error status.
pub const ESR: u32 = 0x828;
/// Interrupt command.
pub const ICR: u32 = 0x830;
/// Timer.
pub const LVT_TIMER: u32 = 0x832;
/// Pin 0.
pub const LVT_LINT0: u32 = 0x835;
/// Initial count.
pub const INITIAL: u32 = 0x838;
/// Current count.
pub const CURRENT: u32 = 0x839;
/// Divider.
pub const DIVIDE: u32 = 0x83e;
/// Interrupt to this very processor.
pub const SELF: u32 = 0x83f;
/// IA32_TSC_DEADLINE.
pub const DEADLINE: u32 = 0x6e0;

/// Local vector table: masked.
pub const MASKED: u64 = 1 << 16;
/// Timer: periodic.
pub const PERIODIC: u64 = 1 << 17;
/// Timer: by deadline.
pub const BY_DEADLINE: u64 = 2 << 17;
/// Delivery mode of pin 0: the 8259 gives the vector.
pub const EXTINT: u64 = 7 << 8;
/// Divider: by one.
pub const DIVIDE_BY_1: u64 = 0b1011;

/// Interrupt command: non-maskable.
pub const ICR_NMI: u64 = 4 << 8;
/// Interrupt command: INIT, level asserted.
pub const ICR_INIT: u64 = 5 << 8 | 1 << 14;
/// Interrupt command: start-up.
pub const ICR_STARTUP: u64 = 6 << 8 | 1 << 14;
/// Interrupt command: to all but this one.
pub const ICR_OTHERS: u64 = 3 << 18;

/// Vector of spurious interrupts.
pub const SPURIOUS: u8 = 0xff;
const SOFTWARE_ENABLE: u64 = 1 << 8;

/// Puts the local APIC into x2APIC mode with everything masked.
pub fn enable() {
    assert!(cpu::cpuid(1, 0).ecx & cpu::X2APIC != 0, "these guests need a CPU with x2APIC");
    let base = read_msr(BASE) | BASE_ENABLE;
    write_msr(BASE, base);
    write_msr(BASE, base | BASE_X2APIC);
    quiesce();
}

/// Masks everything and ends what is in service.
pub fn quiesce() {
    write_msr(SVR, SOFTWARE_ENABLE | u64::from(SPURIOUS));
    for lvt in [LVT_TIMER, LVT_LINT0] {
        write_msr(lvt, MASKED);
    }
    write_msr(INITIAL, 0);
    write_msr(TPR, 0);
    for _ in 0..256 {
        if (0..8).all(|word| read_msr(ISR + word) == 0) {
            break;
        }
        end_of_interrupt();
    }
    // What is requested still is taken and dropped.
    cpu::interrupt_window();
}

/// Identifier of this processor.
pub fn id() -> u32 {
    read_msr(ID) as u32
}

/// Ends the interrupt with the highest priority.
pub fn end_of_interrupt() {
    write_msr(EOI, 0);
}

/// Whether `vector` is requested (`IRR`) or in service (`ISR`).
pub fn bit(first: u32, vector: u8) -> bool {
    read_msr(first + u32::from(vector) / 32) >> (vector % 32) & 1 != 0
}

/// Sends an interrupt command to the processor with this identifier.
pub fn send(target: u32, command: u64) {
    write_msr(ICR, u64::from(target) << 32 | command);
}

/// Sends an interrupt to this processor.
pub fn send_self(vector: u8) {
    write_msr(SELF, vector.into());
}
