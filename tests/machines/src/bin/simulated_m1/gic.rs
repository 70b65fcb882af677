//! The emulator's GICv3, from which FIQ and IRQ come. Nobody acknowledges anything: lines are made pending and enabled.

use machines::m1::AFFINITIES;

const GICD: usize = 0x0800_0000;
const GICR: usize = 0x080a_0000;
const GICR_STRIDE: usize = 0x2_0000;
const SGI_FRAME: usize = 0x1_0000;

const GICD_CTLR: usize = 0x0;
/// Both affinity routings, and all three groups.
const GICD_CTLR_ALL: u32 = 0x37;
const IGROUPR: usize = 0x80;
const ISENABLER: usize = 0x100;
const ICENABLER: usize = 0x180;
const ISPENDR: usize = 0x200;
const ICPENDR: usize = 0x280;
const GICD_IROUTER: usize = 0x6000;
const GICR_WAKER: usize = 0x14;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

/// Fast IPI, on FIQ.
pub(crate) const FAST_IPI: u32 = 0;
/// What the AIC signals to a CPU, on IRQ.
pub(crate) const AIC_LINE: u32 = 1;
/// The guest's virtual timer, on FIQ.
pub(crate) const VIRTUAL_TIMER: u32 = 27;
/// The guest's physical timer, on FIQ.
pub(crate) const PHYSICAL_TIMER: u32 = 30;
/// The serial port.
pub(crate) const UART: u32 = 33;
/// Maintenance interrupt, on IRQ.
const MAINTENANCE: u32 = 25;
const HYPERVISOR_TIMER: u32 = 26;
const HYPERVISOR_VIRTUAL_TIMER: u32 = 28;

pub(crate) fn read(address: usize) -> u32 {
    // SAFETY: EL3 has no MMU; the callers know what device is there.
    unsafe { (address as *const u32).read_volatile() }
}

pub(crate) fn write(address: usize, value: u32) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// The frame with the private interrupts of a CPU.
const fn private(cpu: usize) -> usize {
    GICR + cpu * GICR_STRIDE + SGI_FRAME
}

/// Sets up the distributor; on the first CPU.
pub(crate) fn start_distributor() {
    write(GICD + GICD_CTLR, GICD_CTLR_ALL);
    let word = 4 * (UART as usize / 32);
    write(GICD + IGROUPR + word, 1 << (UART % 32));
}

/// Sets up what a CPU has; on that CPU.
pub(crate) fn start_cpu(cpu: usize) {
    let frame = GICR + cpu * GICR_STRIDE;
    write(frame + GICR_WAKER, read(frame + GICR_WAKER) & !WAKER_PROCESSOR_SLEEP);
    while read(frame + GICR_WAKER) & WAKER_CHILDREN_ASLEEP != 0 {}
    let frame = private(cpu);
    write(frame + IGROUPR, 1 << AIC_LINE | 1 << MAINTENANCE);
    let enabled = [FAST_IPI, AIC_LINE, MAINTENANCE, HYPERVISOR_TIMER, HYPERVISOR_VIRTUAL_TIMER];
    write(frame + ISENABLER, enabled.into_iter().fold(0, |all, line| all | 1 << line));
    // SAFETY: registers of the CPU interface: system registers on at all levels, all priorities, groups 0 and 1.
    unsafe {
        core::arch::asm!(
            "msr s3_6_c12_c12_5, {sre}", // ICC_SRE_EL3
            "isb",
            "msr s3_4_c12_c9_5, {sre}", // ICC_SRE_EL2
            "msr s3_0_c12_c12_5, {sre}", // ICC_SRE_EL1
            "isb",
            "msr s3_0_c4_c6_0, {mask}", // ICC_PMR_EL1
            "msr s3_0_c12_c12_6, {on}", // ICC_IGRPEN0_EL1
            "msr s3_6_c12_c12_7, {both}", // ICC_IGRPEN1_EL3
            "isb",
            sre = in(reg) 0xfu64,
            mask = in(reg) 0xffu64,
            on = in(reg) 1u64,
            both = in(reg) 3u64,
            options(nostack),
        );
    }
}

/// Raises a private line of a CPU until it is put down.
pub(crate) fn raise(cpu: usize, line: u32) {
    write(private(cpu) + ISPENDR, 1 << line);
}

/// Puts it down.
pub(crate) fn put_down(cpu: usize, line: u32) {
    write(private(cpu) + ICPENDR, 1 << line);
}

/// Whether it is up.
pub(crate) fn is_up(cpu: usize, line: u32) -> bool {
    read(private(cpu) + ISPENDR) >> line & 1 != 0
}

/// Lets a private line of a CPU through, or not.
pub(crate) fn enable(cpu: usize, line: u32, on: bool) {
    write(private(cpu) + if on { ISENABLER } else { ICENABLER }, 1 << line);
}

/// Whether it is let through.
pub(crate) fn is_enabled(cpu: usize, line: u32) -> bool {
    read(private(cpu) + ISENABLER) >> line & 1 != 0
}

/// Lets the serial port's interrupt through to a CPU, or to none.
pub(crate) fn route_uart(cpu: Option<usize>) {
    let word = 4 * (UART as usize / 32);
    match cpu.filter(|cpu| *cpu < AFFINITIES.len()) {
        Some(cpu) => {
            // The emulator's own affinity is the number.
            write(GICD + GICD_IROUTER + 8 * UART as usize, cpu as u32);
            write(GICD + ISENABLER + word, 1 << (UART % 32));
        }
        None => write(GICD + ICENABLER + word, 1 << (UART % 32)),
    }
}
