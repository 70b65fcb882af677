//! The benchmark's part for AArch64: its own rows, and how this architecture sends, waits and arms.

use core::arch::asm;

use super::machine::{Gic, machine};
use super::timer::Timer;
use super::{console, cpu, exception, gic, mmio, psci, smp, start, timer};
use crate::bench::{Entry, on_device, repeat, sample, taken};

/// A function of the board maker's service, which nobody has.
const UNKNOWN: u64 = 0x8300_0099;
/// A function of the hypervisor's own service that it does not have.
const UNKNOWN_OF_SERVICE: u64 = 0x8600_0099;
/// `UARTIMSC`: no interrupts.
const UARTIMSC: u64 = 0x38;
/// A shared interrupt without a device, and the register of its enable bit.
const UNUSED: u32 = 63;
/// The SGI that is sent.
const SGI: u32 = 5;
/// SGIs that are pending at once: as many as every implementation has list registers.
const PENDING: u32 = 4;

pub(crate) use super::quiesce;

/// Ticks of the virtual counter.
pub(crate) fn now() -> u64 {
    Timer::Virtual.now()
}

/// Ticks in a second.
pub(crate) fn frequency() -> u64 {
    timer::frequency()
}

/// Ticks of the counter that all machines share.
pub(crate) fn host_time() -> u64 {
    Timer::Physical.now()
}

/// When this machine was entered. Its virtual counter starts with it.
pub(crate) fn entry() -> Entry {
    let (machine, host) = start::times();
    Entry { machine: Some(machine), host }
}

/// The value of `name=value` in the command line.
pub(crate) fn option(name: &str) -> Option<&'static str> {
    machine().option(name)
}

/// First address of memory that nobody has used.
pub(crate) fn free_memory() -> u64 {
    machine().free_ram().start
}

/// Number of CPUs.
pub(crate) fn cpus() -> usize {
    smp::count()
}

/// Restarts the machine.
pub(crate) fn reset() -> ! {
    psci::call32(psci::function::SYSTEM_RESET, 0, 0, 0);
    off()
}

/// Switches the machine off.
pub(crate) fn off() -> ! {
    psci::system_off()
}

/// A call with its function in X0.
#[inline(always)]
fn call(function: u64) {
    // SAFETY: a call changes X0 to X17 at most (DEN0028 2.6).
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") function => _, out("x1") _, out("x2") _, out("x3") _, out("x4") _,
            out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            out("x17") _, options(nostack)
        );
    }
}

/// Operations that trap and return, each in a loop.
pub(crate) fn operations() {
    repeat("hypercall", || call(UNKNOWN));
    repeat("hypercall-service", || call(UNKNOWN_OF_SERVICE));
    repeat("psci-version", || call(psci::function::VERSION));
    repeat("id-register", || {
        crate::mrs!("id_aa64pfr0_el1");
    });
    let port = console::base();
    repeat("device-read", || {
        mmio::read32(port + console::FR);
    });
    repeat("device-write", || mmio::write32(port + UARTIMSC, 0));
    let distributor = gic::distributor();
    repeat("distributor-read", || {
        mmio::read32(distributor + gic::gicd::IIDR);
    });
    let enable = distributor + gic::gicd::ISENABLER + u64::from(UNUSED / 32) * 4;
    repeat("distributor-write", || mmio::write32(enable, 1 << (UNUSED % 32)));
    gic::disable(UNUSED);
    if let Gic::V3 { .. } = machine().gic
        && let Some(own) = gic::redistributor(smp::index())
    {
        let enable = own + gic::gicr::SGI_FRAME + gic::gicd::ISENABLER;
        repeat("redistributor-write", || mmio::write32(enable, 1));
    }
}

/// Interrupts that are acknowledged and ended.
pub(crate) fn end_of_interrupt() {
    for sgi in 0..PENDING {
        gic::enable(sgi);
    }
    sample("eoi", || {
        for sgi in 0..PENDING {
            gic::send(sgi, gic::Target::This);
        }
        let start = now();
        for _ in 0..PENDING {
            let taken = gic::acknowledge();
            gic::end(taken);
        }
        (now() - start) / u64::from(PENDING)
    });
}

/// A message is taken when its interrupt is ended.
fn on_message() {
    let interrupt = gic::acknowledge();
    gic::end(interrupt);
    taken(now());
}

/// The timer's interrupt is taken when the handler is entered.
fn on_timer() {
    let entered = now();
    let interrupt = gic::acknowledge();
    Timer::Virtual.set_control(0);
    gic::end(interrupt);
    taken(entered);
}

fn on_any_device() {
    let interrupt = gic::acknowledge();
    on_device();
    gic::end(interrupt);
    taken(now());
}

/// Makes this CPU take messages.
pub(crate) fn take_messages() {
    if smp::index() != 0 {
        mask();
        gic::reset_cpu();
    }
    exception::set_interrupt_handler(on_message);
    gic::enable(SGI);
    unmask();
}

/// Makes this CPU take interrupts of its timer instead.
pub(crate) fn take_timer() {
    exception::set_interrupt_handler(on_timer);
    gic::enable(Timer::Virtual.interrupt());
    unmask();
}

/// Makes this CPU take a device's interrupt instead.
pub(crate) fn take_device(interrupt: u32) {
    exception::set_interrupt_handler(on_any_device);
    gic::set_edge(interrupt, true);
    gic::route(interrupt, smp::index());
    gic::enable(interrupt);
    unmask();
}

/// Takes no interrupts.
pub(crate) fn mask() {
    cpu::mask_interrupts();
}

/// Takes interrupts.
pub(crate) fn unmask() {
    cpu::unmask_interrupts();
}

/// Waits for an interrupt, which is taken with the next [`unmask`].
pub(crate) fn wait() {
    cpu::wait_for_interrupt();
}

/// Lets other CPUs go on where they share a thread of the emulator.
pub(crate) fn give_way() {
    // SAFETY: a hint, which no hypervisor traps.
    unsafe { asm!("yield", options(nostack, nomem)) };
}

/// Sends a message to this CPU.
pub(crate) fn send_self() {
    gic::send(SGI, gic::Target::This);
}

/// Sends a message to another CPU.
pub(crate) fn send(cpu: usize) {
    gic::send(SGI, gic::Target::Cpus(1 << cpu));
}

/// Has the timer interrupt in so many ticks, and says when that is.
pub(crate) fn arm(ticks: u64) -> u64 {
    Timer::Virtual.arm(ticks)
}

fn perform(job: u64) -> u64 {
    // SAFETY: `begin` passes a function of this type.
    let job: fn() = unsafe { core::mem::transmute(job) };
    job();
    0
}

/// Has another CPU do `job`, and says which.
pub(crate) fn begin(job: fn()) -> Option<usize> {
    let other = smp::others().next()?;
    assert!(smp::start(other), "the other CPU starts");
    smp::begin(other, perform, job as usize as u64);
    Some(other)
}

/// Waits until it has done its job.
pub(crate) fn finish(cpu: usize) {
    smp::finish(cpu);
}

/// Registers and interrupts of virtio devices, of those that are there and of those that are not.
pub(crate) fn virtio_windows() -> impl Iterator<Item = (u64, u32)> {
    machine().virtio().map(|(base, spi)| (base, gic::FIRST_SPI + spi))
}
