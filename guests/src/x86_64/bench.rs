//! The benchmark's part for PCs: its own rows, and how this architecture sends, waits and arms.

use core::arch::asm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{apic, boot, cpu, exception, ioapic, mmio, port, power, smp, start};
use crate::bench::{Entry, on_device, repeat, sample, taken};

/// Vector of messages, of the timer, and of devices.
const MESSAGE: u8 = 0x50;
const TIMER: u8 = 0x60;
const DEVICE: u8 = 0x70;
/// A number that is no hypercall of anybody.
const UNKNOWN: u64 = 0x9999;
/// Line status and scratch register of COM1.
const LINE_STATUS: u16 = 0x3fd;
const SCRATCH: u16 = 0x3ff;
/// Ticks in a second, as the emulator counts. A rate that the guest measures is not as exact.
const FREQUENCY: u64 = 1_000_000_000;
/// `MSR_KVM_SYSTEM_TIME_NEW`, and its bit that turns the clock on.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const SYSTEM_TIME_ON: u64 = 1;
/// Windows of virtio devices and their pins, as the hypervisor's ACPI tables say in a language that this guest does not
/// know.
const VIRTIO: u64 = 0xc000_1000;
const VIRTIO_SIZE: u64 = 0x1000;
const VIRTIO_FIRST_PIN: u32 = 5;
const VIRTIO_WINDOWS: u32 = 19;

pub(crate) use super::quiesce;
pub(crate) use cpu::tsc as now;

/// Ticks in a second.
pub(crate) fn frequency() -> u64 {
    FREQUENCY
}

/// The time-stamp counter, which a reset does not set back.
pub(crate) fn host_time() -> u64 {
    now()
}

/// `pvclock_vcpu_time_info` of KVM.
#[repr(C, align(64))]
struct SystemTime([u32; 8]);

static mut CLOCK: SystemTime = SystemTime([0; 8]);

/// When this machine was entered. Its paravirtual clock was zero when it was made or reset.
pub(crate) fn entry() -> Entry {
    let host = start::time();
    let machine = cpu::has_kvm_interface().then(|| {
        cpu::write_msr(SYSTEM_TIME, &raw const CLOCK as u64 | SYSTEM_TIME_ON);
        // SAFETY: only the hypervisor writes there, and only during a write of the register.
        let words = unsafe { (&raw const CLOCK.0).read_volatile() };
        cpu::write_msr(SYSTEM_TIME, 0);
        // The ticks at which the nanoseconds in the next two words were counted: none.
        host - (u64::from(words[2]) | u64::from(words[3]) << 32)
    });
    Entry { machine, host }
}

/// The value of `name=value` in the command line.
pub(crate) fn option(name: &str) -> Option<&'static str> {
    boot::option(name)
}

/// First address of memory that nobody has used.
pub(crate) fn free_memory() -> u64 {
    boot::free_memory().start
}

/// Number of CPUs.
pub(crate) fn cpus() -> usize {
    smp::count()
}

/// Restarts the machine.
pub(crate) fn reset() -> ! {
    power::reset()
}

/// Switches the machine off.
pub(crate) fn off() -> ! {
    power::off()
}

/// Operations that exit and return, each in a loop.
pub(crate) fn operations() {
    if cpu::has_kvm_interface() {
        repeat("hypercall", || {
            // SAFETY: a hypercall that does not exist changes RAX (Linux, Documentation/virt/kvm/x86/hypercalls.rst).
            unsafe { asm!("vmmcall", inout("rax") UNKNOWN => _, options(nostack)) };
        });
    }
    repeat("cpuid", || {
        cpu::cpuid(0, 0);
    });
    repeat("msr-read", || {
        cpu::read_msr(apic::BASE);
    });
    repeat("apic-read", || {
        cpu::read_msr(apic::VERSION);
    });
    repeat("apic-write", || cpu::write_msr(apic::ESR, 0));
    repeat("port-read", || {
        port::read8(LINE_STATUS);
    });
    repeat("port-write", || port::write8(SCRATCH, 0));
    let (index, data) = ioapic::registers();
    mmio::write32(index, ioapic::VERSION);
    repeat("device-read", || {
        mmio::read32(data);
    });
    repeat("device-write", || mmio::write32(index, ioapic::VERSION));
}

/// Ticks that the end of the last interrupt took.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Interrupts that are ended, which is a write of a register here.
pub(crate) fn end_of_interrupt() {
    exception::set_handler(|_| {
        let start = now();
        apic::end_of_interrupt();
        ENDED.store(now() - start, Ordering::Relaxed);
    });
    sample("eoi", || {
        send_self();
        cpu::interrupt_window();
        ENDED.load(Ordering::Relaxed)
    });
}

fn on_interrupt(vector: u8) {
    let entered = now();
    if vector == DEVICE {
        on_device();
    }
    taken(entered);
}

/// Makes this CPU take messages.
pub(crate) fn take_messages() {
    exception::set_handler(on_interrupt);
    unmask();
}

/// Makes this CPU take interrupts of its timer.
pub(crate) fn take_timer() {
    exception::set_handler(on_interrupt);
    let mode = if has_deadline() { apic::BY_DEADLINE } else { 0 };
    cpu::write_msr(apic::DIVIDE, apic::DIVIDE_BY_1);
    cpu::write_msr(apic::LVT_TIMER, mode | u64::from(TIMER));
    unmask();
}

/// Makes this CPU take a device's interrupt.
pub(crate) fn take_device(interrupt: u32) {
    exception::set_handler(on_interrupt);
    let target = u64::from(apic::id()) << 56;
    ioapic::set_entry(interrupt, target | ioapic::LEVEL | u64::from(DEVICE));
    unmask();
}

/// Takes no interrupts.
pub(crate) fn mask() {
    cpu::disable_interrupts();
}

/// Takes interrupts.
pub(crate) fn unmask() {
    cpu::enable_interrupts();
}

/// Waits for an interrupt, which is taken.
pub(crate) fn wait() {
    cpu::halt();
}

/// Lets other CPUs go on where they share a thread of the emulator.
pub(crate) fn give_way() {
    spin_loop();
}

/// Sends a message to this CPU.
pub(crate) fn send_self() {
    apic::send_self(MESSAGE);
}

/// Sends a message to another CPU.
pub(crate) fn send(cpu: usize) {
    apic::send(smp::apic_id(cpu), MESSAGE.into());
}

fn has_deadline() -> bool {
    cpu::cpuid(1, 0).ecx & cpu::TSC_DEADLINE != 0
}

/// Has the timer interrupt in so many ticks, and says when that is. Where the timer only counts, it counts the same
/// ticks, from a moment a few instructions later.
pub(crate) fn arm(ticks: u64) -> u64 {
    let deadline = now() + ticks;
    match has_deadline() {
        true => cpu::write_msr(apic::DEADLINE, deadline),
        false => cpu::write_msr(apic::INITIAL, ticks),
    }
    deadline
}

/// Has another CPU do `job`, and says which.
pub(crate) fn begin(job: fn()) -> Option<usize> {
    const OTHER: usize = 1;
    if cpus() <= OTHER {
        return None;
    }
    if smp::starts(OTHER) == 0 {
        assert!(smp::start(OTHER), "the other CPU starts");
    }
    smp::run(OTHER, job);
    Some(OTHER)
}

/// Waits until it has done its job.
pub(crate) fn finish(cpu: usize) {
    while !smp::is_idle(cpu) {
        give_way();
    }
}

/// Registers and interrupts of virtio devices, of those that are there and of those that are not.
pub(crate) fn virtio_windows() -> impl Iterator<Item = (u64, u32)> {
    let windows = if cpu::has_kvm_interface() { VIRTIO_WINDOWS } else { 0 };
    (0..windows).map(|number| (VIRTIO + u64::from(number) * VIRTIO_SIZE, VIRTIO_FIRST_PIN + number))
}
