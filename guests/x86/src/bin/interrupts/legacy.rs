//! The 8259 pair and the i8254, which interrupts through it.

use core::sync::atomic::{AtomicBool, Ordering};

use guests::tap::{Stop, Verdict};
use guests::x86_64::console::COM1_IRQ;
use guests::x86_64::exception;
use guests::x86_64::time::{PIT_CHANNEL_0, PIT_MODE, pit_wait, wait_for, wait_without_exits};
use guests::x86_64::{apic, cpu, port, smp};
use guests::{check, check_eq};

use crate::guest::{LOW, PATIENCE, serial_interrupt};

const PIC_COMMAND: u16 = 0x20;
const PIC_DATA: u16 = 0x21;

/// ICW4: 8086 mode, without and with automatic end of interrupt.
const BY_COMMAND: u8 = 1;
const AUTOMATIC: u8 = 3;

const PIC_BASE: u8 = 0x90;
const PIC_TIMER: u8 = PIC_BASE;
const PIC_SERIAL: u8 = PIC_BASE + COM1_IRQ;

/// Whether COM1's interrupt came inside the timer's handler.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Inside the first one's handler, whose end is an exit, interrupts are let in.
fn wait_for_other(vector: u8) {
    if vector == PIC_TIMER {
        cpu::enable_interrupts();
        let came = wait_without_exits(1000 * PATIENCE, || exception::count(PIC_SERIAL) == 1);
        cpu::disable_interrupts();
        INSIDE.store(came, Ordering::Release);
    }
}

/// Has the 8259 let these inputs through, and no others.
fn open(inputs: u8, end: u8) {
    // ICW1 to ICW4: edge, cascade on 2; then the mask.
    for (port, value) in [
        (PIC_COMMAND, 0x11),
        (PIC_DATA, PIC_BASE),
        (PIC_DATA, 4),
        (PIC_DATA, end),
        (PIC_DATA, !inputs),
    ] {
        port::write8(port, value);
    }
    cpu::write_msr(apic::LVT_LINT0, apic::EXTINT);
}

fn close() {
    port::write8(PIC_DATA, 0xff);
    cpu::write_msr(apic::LVT_LINT0, apic::MASKED);
}

fn end_by_command(_: u8) {
    const END: u8 = 0x20;
    port::write8(PIC_COMMAND, END);
}

pub(crate) fn one_interrupt() -> Verdict {
    open(1 << COM1_IRQ, BY_COMMAND);
    exception::set_handler(end_by_command);
    serial_interrupt(true);
    let came = wait_for(PATIENCE, || exception::count(PIC_SERIAL) > 0);
    serial_interrupt(false);
    close();
    check!(came, "no interrupt through the 8259");
    Ok(())
}

/// Has the timer's channel 0 interrupt soon, and once: mode 0.
fn start_timer() {
    for (port, value) in [(PIT_MODE, 0x30), (PIT_CHANNEL_0, 0), (PIT_CHANNEL_0, 1)] {
        port::write8(port, value);
    }
}

pub(crate) fn one_after_the_other() -> Verdict {
    open(1 | 1 << COM1_IRQ, AUTOMATIC);
    INSIDE.store(false, Ordering::Release);
    exception::set_handler(wait_for_other);
    start_timer();
    serial_interrupt(true);
    pit_wait(5);
    let early = exception::count(PIC_TIMER) + exception::count(PIC_SERIAL);
    cpu::enable_interrupts();
    wait_without_exits(1000 * PATIENCE, || exception::count(PIC_TIMER) == 1);
    cpu::disable_interrupts();
    serial_interrupt(false);
    close();
    check_eq!(early, 0, "interrupts with the flag clear");
    check_eq!(exception::count(PIC_TIMER), 1, "interrupts of the timer");
    check!(INSIDE.load(Ordering::Acquire), "no interrupt of COM1 inside its handler");
    Ok(())
}

fn start_timer_later() {
    wait_without_exits(2000, || false);
    start_timer();
}

/// The first CPU takes the timer's interrupts, and finds out that another has programmed it.
pub(crate) fn timer_by_another() -> Verdict {
    if smp::count() == 1 {
        return Err(Stop::Skip("one CPU"));
    }
    check!(smp::start(1), "CPU 1 does not start");
    open(1, AUTOMATIC);
    for (number, state) in [(1, "running"), (2, "halted")] {
        // It comes where the other does not.
        cpu::write_msr(apic::DIVIDE, apic::DIVIDE_BY_1);
        cpu::write_msr(apic::LVT_TIMER, LOW.into());
        cpu::write_msr(apic::INITIAL, 1_000_000 * PATIENCE);
        smp::run(1, start_timer_later);
        let came = || exception::count(PIC_TIMER) + exception::count(LOW) >= number;
        if state == "halted" {
            while !came() {
                cpu::halt();
            }
        } else {
            cpu::enable_interrupts();
            wait_without_exits(2000 * PATIENCE, came);
            cpu::disable_interrupts();
        }
        check_eq!(exception::count(LOW), 0, "interrupts in place of the timer's, {state}");
        check_eq!(exception::count(PIC_TIMER), number, "interrupts of the timer, {state}");
        check!(wait_for(PATIENCE, || smp::is_idle(1)), "CPU 1 is stuck");
    }
    cpu::write_msr(apic::INITIAL, 0);
    close();
    smp::stop(1);
    Ok(())
}
