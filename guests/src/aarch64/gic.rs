//! The interrupt controller, version 2 or 3, through one interface.
//!
//! Interrupts are in group 0 on GICv2 and in group 1 on GICv3, as operating
//! systems use them on the `virt` machine.

use super::machine::{Gic, machine};
use super::{cpu, mmio, smp};
use crate::{mrs, msr};

/// Distributor registers (IHI 0048 4.3, IHI 0069 12.9).
pub mod gicd {
    /// Control.
    pub const CTLR: u64 = 0x000;
    /// Type.
    pub const TYPER: u64 = 0x004;
    /// Implementer.
    pub const IIDR: u64 = 0x008;
    /// Group, a bit an interrupt.
    pub const IGROUPR: u64 = 0x080;
    /// Set enable.
    pub const ISENABLER: u64 = 0x100;
    /// Clear enable.
    pub const ICENABLER: u64 = 0x180;
    /// Set pending.
    pub const ISPENDR: u64 = 0x200;
    /// Clear pending.
    pub const ICPENDR: u64 = 0x280;
    /// Set active.
    pub const ISACTIVER: u64 = 0x300;
    /// Clear active.
    pub const ICACTIVER: u64 = 0x380;
    /// Priority, a byte an interrupt.
    pub const IPRIORITYR: u64 = 0x400;
    /// GICv2 targets, a byte an interrupt.
    pub const ITARGETSR: u64 = 0x800;
    /// Configuration, two bits an interrupt.
    pub const ICFGR: u64 = 0xc00;
    /// GICv2 software-generated interrupt.
    pub const SGIR: u64 = 0xf00;
    /// GICv2 clear pending SGI, a byte an interrupt with a bit a source.
    pub const CPENDSGIR: u64 = 0xf10;
    /// GICv2 set pending SGI.
    pub const SPENDSGIR: u64 = 0xf20;
    /// GICv3 routing, 8 bytes an interrupt.
    pub const IROUTER: u64 = 0x6000;
    /// Peripheral identification 2 of GICv3.
    pub const PIDR2: u64 = 0xffe8;
    /// Peripheral identification 2 of GICv2.
    pub const ICPIDR2: u64 = 0xfe8;
}

/// CPU interface registers of GICv2 (IHI 0048 4.4).
pub mod gicc {
    /// Control.
    pub const CTLR: u64 = 0x00;
    /// Priority mask.
    pub const PMR: u64 = 0x04;
    /// Binary point.
    pub const BPR: u64 = 0x08;
    /// Acknowledge.
    pub const IAR: u64 = 0x0c;
    /// End of interrupt.
    pub const EOIR: u64 = 0x10;
    /// Running priority.
    pub const RPR: u64 = 0x14;
    /// Highest pending interrupt.
    pub const HPPIR: u64 = 0x18;
    /// Active priorities, 4 words, and then those of group 1 at 0xe0.
    pub const APR: u64 = 0xd0;
    /// Implementer.
    pub const IIDR: u64 = 0xfc;
    /// Deactivate.
    pub const DIR: u64 = 0x1000;
}

/// Redistributor registers of GICv3 (IHI 0069 12.10, 12.11).
pub mod gicr {
    /// Type, 64 bits.
    pub const TYPER: u64 = 0x0008;
    /// Wake-up.
    pub const WAKER: u64 = 0x0014;
    /// Offset of the frame of SGIs and PPIs.
    pub const SGI_FRAME: u64 = 0x1_0000;
    /// `TYPER.VLPIS`: two more frames follow.
    pub const TYPER_VLPIS: u64 = 1 << 1;
    /// `TYPER.Last`.
    pub const TYPER_LAST: u64 = 1 << 4;
    /// `WAKER.ProcessorSleep`.
    pub const PROCESSOR_SLEEP: u32 = 1 << 1;
    /// `WAKER.ChildrenAsleep`.
    pub const CHILDREN_ASLEEP: u32 = 1 << 2;
}

/// `INTID` that says that there is nothing to acknowledge.
pub const SPURIOUS: u32 = 1023;
/// First shared interrupt.
pub const FIRST_SPI: u32 = 32;
/// Priority of every interrupt before a test.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

const GICD_ENABLE_GROUP0: u32 = 1 << 0;
const GICD_ENABLE_GROUP1: u32 = 1 << 1;
const GICD_ARE: u32 = 1 << 4;
const GICD_RWP: u32 = 1 << 31;
const GICC_ENABLE: u32 = 1 << 0;
const GICC_EOI_MODE: u32 = 1 << 9;
const ICC_EOI_MODE: u64 = 1 << 1;
const INTID: u32 = 0x3ff;

/// What the CPU interface handed over: an interrupt, and on GICv2 the sender of an SGI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledge(pub u32);

impl Acknowledge {
    /// The interrupt.
    pub const fn interrupt(self) -> u32 {
        self.0 & INTID
    }

    /// Number of the CPU interface that sent an SGI; 0 on GICv3.
    pub const fn source(self) -> u32 {
        self.0 >> 10 & 7
    }

    /// Whether there was nothing to acknowledge.
    pub const fn is_spurious(self) -> bool {
        self.interrupt() == SPURIOUS
    }
}

/// To whom an SGI goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// CPUs, as a mask of their numbers.
    Cpus(u32),
    /// All but the sender.
    Others,
    /// The sender.
    This,
}

/// Base of the distributor.
pub fn distributor() -> u64 {
    match machine().gic {
        Gic::V2 { distributor, .. } | Gic::V3 { distributor, .. } => distributor,
    }
}

/// Base of a CPU's redistributor; `None` on GICv2.
pub fn redistributor(index: usize) -> Option<u64> {
    let Gic::V3 { redistributors, length, .. } = machine().gic else { return None };
    let affinity = machine().cpus()[index];
    let affinity = affinity & 0xff_ffff | affinity >> 8 & 0xff00_0000;
    let mut frame = redistributors;
    while frame < redistributors + length {
        let kind = mmio::read64(frame + gicr::TYPER);
        if kind >> 32 == affinity {
            return Some(frame);
        }
        if kind & gicr::TYPER_LAST != 0 {
            break;
        }
        frame += if kind & gicr::TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
    }
    panic!("no redistributor has affinity {affinity:#x}");
}

/// Base of the frame whose registers configure an interrupt for this CPU.
fn frame(interrupt: u32) -> u64 {
    if interrupt < FIRST_SPI
        && let Some(base) = redistributor(smp::index())
    {
        return base + gicr::SGI_FRAME;
    }
    distributor()
}

/// Number of interrupts, SGIs and PPIs included.
pub fn interrupts() -> u32 {
    ((mmio::read32(distributor() + gicd::TYPER) & 0x1f) + 1) * 32
}

/// Waits until the distributor has taken the last write.
fn settle() {
    if matches!(machine().gic, Gic::V3 { .. }) {
        while mmio::read32(distributor() + gicd::CTLR) & GICD_RWP != 0 {}
    }
}

/// Reads an interrupt's bit in an array of bits.
pub fn bit(array: u64, interrupt: u32) -> bool {
    let word = mmio::read32(frame(interrupt) + array + u64::from(interrupt / 32) * 4);
    word >> (interrupt % 32) & 1 != 0
}

/// Writes one to an interrupt's bit in an array of set or clear bits.
pub fn strike(array: u64, interrupt: u32) {
    mmio::write32(frame(interrupt) + array + u64::from(interrupt / 32) * 4, 1 << (interrupt % 32));
    settle();
}

/// Enables an interrupt.
pub fn enable(interrupt: u32) {
    strike(gicd::ISENABLER, interrupt);
}

/// Disables an interrupt.
pub fn disable(interrupt: u32) {
    strike(gicd::ICENABLER, interrupt);
}

/// Whether an interrupt is pending.
pub fn is_pending(interrupt: u32) -> bool {
    bit(gicd::ISPENDR, interrupt)
}

/// Makes an interrupt pending.
pub fn set_pending(interrupt: u32) {
    strike(gicd::ISPENDR, interrupt);
}

/// Makes an interrupt not pending.
pub fn clear_pending(interrupt: u32) {
    strike(gicd::ICPENDR, interrupt);
}

/// Whether an interrupt is active.
pub fn is_active(interrupt: u32) -> bool {
    bit(gicd::ISACTIVER, interrupt)
}

/// Sets an interrupt's priority; lower is more urgent.
pub fn set_priority(interrupt: u32, priority: u8) {
    mmio::write8(frame(interrupt) + gicd::IPRIORITYR + u64::from(interrupt), priority);
}

/// An interrupt's priority.
pub fn priority(interrupt: u32) -> u8 {
    mmio::read8(frame(interrupt) + gicd::IPRIORITYR + u64::from(interrupt))
}

/// Makes a shared interrupt edge-triggered or level-sensitive.
pub fn set_edge(interrupt: u32, edge: bool) {
    let register = frame(interrupt) + gicd::ICFGR + u64::from(interrupt / 16) * 4;
    let bit = 2 << (interrupt % 16 * 2);
    let old = mmio::read32(register);
    mmio::write32(register, if edge { old | bit } else { old & !bit });
}

/// Routes a shared interrupt to a CPU.
pub fn route(interrupt: u32, index: usize) {
    match machine().gic {
        Gic::V2 { distributor, .. } => {
            let interface = interface(index);
            mmio::write8(distributor + gicd::ITARGETSR + u64::from(interrupt), 1 << interface);
        }
        Gic::V3 { distributor, .. } => {
            let affinity = machine().cpus()[index];
            mmio::write64(distributor + gicd::IROUTER + u64::from(interrupt) * 8, affinity);
        }
    }
    settle();
}

/// Number of a CPU's interface on GICv2. CPU interfaces are numbered as `Aff0` here.
pub fn interface(index: usize) -> u32 {
    (machine().cpus()[index] & 0xff) as u32
}

/// Sends a software-generated interrupt.
pub fn send(interrupt: u32, target: Target) {
    match machine().gic {
        Gic::V2 { distributor, .. } => {
            const OTHERS: u32 = 1 << 24;
            const THIS: u32 = 2 << 24;
            let filter = match target {
                Target::Cpus(mask) => mask << 16,
                Target::Others => OTHERS,
                Target::This => THIS,
            };
            // Earlier stores are to be seen by whoever takes the interrupt.
            super::cache::barrier();
            mmio::write32(distributor + gicd::SGIR, filter | interrupt);
        }
        Gic::V3 { .. } => {
            const OTHERS: u64 = 1 << 40;
            super::cache::barrier();
            let number = u64::from(interrupt) << 24;
            match target {
                Target::Others => msr!("icc_sgi1r_el1", OTHERS | number),
                Target::This => send_to(smp::index(), number),
                Target::Cpus(mask) => {
                    for index in (0..smp::count()).filter(|index| mask >> index & 1 != 0) {
                        send_to(index, number);
                    }
                }
            }
        }
    }
}

fn send_to(index: usize, number: u64) {
    let affinity = machine().cpus()[index];
    let aff0 = affinity & 0xff;
    let range = (aff0 >> 4) << 44;
    let upper = (affinity >> 8 & 0xff) << 16 | (affinity >> 16 & 0xff) << 32 | affinity >> 32 << 48;
    msr!("icc_sgi1r_el1", upper | range | number | 1 << (aff0 & 0xf));
}

fn cpu_interface() -> Option<u64> {
    match machine().gic {
        Gic::V2 { cpu, .. } => Some(cpu),
        Gic::V3 { .. } => None,
    }
}

/// Acknowledges the most urgent pending interrupt.
pub fn acknowledge() -> Acknowledge {
    let value = match cpu_interface() {
        Some(base) => mmio::read32(base + gicc::IAR),
        None => mrs!("icc_iar1_el1") as u32,
    };
    super::cache::barrier();
    Acknowledge(value)
}

/// Acknowledges, for some time, until there is an interrupt.
pub fn wait() -> Acknowledge {
    let mut last = Acknowledge(SPURIOUS);
    super::timer::wait_until(|| {
        last = acknowledge();
        !last.is_spurious()
    });
    last
}

/// Drops the running priority and, in EOI mode 0, deactivates.
pub fn end(acknowledged: Acknowledge) {
    match cpu_interface() {
        Some(base) => mmio::write32(base + gicc::EOIR, acknowledged.0),
        None => msr!("icc_eoir1_el1", u64::from(acknowledged.0)),
    }
}

/// Deactivates in EOI mode 1.
pub fn deactivate(acknowledged: Acknowledge) {
    match cpu_interface() {
        Some(base) => mmio::write32(base + gicc::DIR, acknowledged.0),
        None => msr!("icc_dir_el1", u64::from(acknowledged.0)),
    }
}

/// Sets the priority mask: only more urgent interrupts are signalled.
pub fn set_mask(priority: u8) {
    match cpu_interface() {
        Some(base) => mmio::write32(base + gicc::PMR, u32::from(priority)),
        None => msr!("icc_pmr_el1", u64::from(priority)),
    }
}

/// The priority mask.
pub fn mask() -> u8 {
    match cpu_interface() {
        Some(base) => mmio::read32(base + gicc::PMR) as u8,
        None => mrs!("icc_pmr_el1") as u8,
    }
}

/// Sets the binary point and returns the value that took effect.
pub fn set_binary_point(value: u8) -> u8 {
    match cpu_interface() {
        Some(base) => {
            mmio::write32(base + gicc::BPR, u32::from(value));
            mmio::read32(base + gicc::BPR) as u8
        }
        None => {
            msr!("icc_bpr1_el1", u64::from(value));
            mrs!("icc_bpr1_el1") as u8
        }
    }
}

/// Priority of the most urgent active interrupt.
pub fn running_priority() -> u8 {
    match cpu_interface() {
        Some(base) => mmio::read32(base + gicc::RPR) as u8,
        None => mrs!("icc_rpr_el1") as u8,
    }
}

/// The interrupt that [`acknowledge`] would return.
pub fn highest_pending() -> u32 {
    let value = match cpu_interface() {
        Some(base) => mmio::read32(base + gicc::HPPIR),
        None => mrs!("icc_hppir1_el1") as u32,
    };
    value & INTID
}

/// Chooses whether [`end`] also deactivates (`false`) or not (`true`).
pub fn split_end(split: bool) {
    match cpu_interface() {
        Some(base) => {
            let control = GICC_ENABLE | if split { GICC_EOI_MODE } else { 0 };
            mmio::write32(base + gicc::CTLR, control);
        }
        None => {
            let old = mrs!("icc_ctlr_el1");
            let mode = if split { ICC_EOI_MODE } else { 0 };
            msr!("icc_ctlr_el1", old & !ICC_EOI_MODE | mode);
        }
    }
}

/// Whether an interrupt is signalled to this CPU, taken or masked.
pub fn is_signalled() -> bool {
    const I: u64 = 1 << 7;
    mrs!("isr_el1") & I != 0
}

/// Switches all interrupts of the distributor on or off.
pub fn set_distributor_enabled(enabled: bool) {
    let (always, enable) = match machine().gic {
        Gic::V2 { .. } => (0, GICD_ENABLE_GROUP0),
        Gic::V3 { .. } => (GICD_ARE, GICD_ENABLE_GROUP1),
    };
    mmio::write32(distributor() + gicd::CTLR, always | if enabled { enable } else { 0 });
    settle();
}

/// Quiet shared interrupts, routed to this CPU, at the default priority.
pub fn reset_distributor() {
    let base = distributor();
    set_distributor_enabled(false);
    for word in u64::from(FIRST_SPI / 32)..u64::from(interrupts() / 32) {
        for array in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
            mmio::write32(base + array + word * 4, u32::MAX);
        }
        let group = if cpu_interface().is_some() { 0 } else { u32::MAX };
        mmio::write32(base + gicd::IGROUPR + word * 4, group);
        for quarter in 0..8 {
            let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
            mmio::write32(base + gicd::IPRIORITYR + word * 32 + quarter * 4, priorities);
        }
        for half in 0..2 {
            mmio::write32(base + gicd::ICFGR + word * 8 + half * 4, 0);
        }
    }
    for interrupt in FIRST_SPI..interrupts().min(1020) {
        route(interrupt, smp::index());
    }
    set_distributor_enabled(true);
}

/// Quiet private interrupts and an open CPU interface for this CPU.
pub fn reset_cpu() {
    let base = frame(0);
    if let Some(redistributor) = redistributor(smp::index()) {
        msr!("icc_sre_el1", mrs!("icc_sre_el1") | 1);
        let waker = mmio::read32(redistributor + gicr::WAKER);
        mmio::write32(redistributor + gicr::WAKER, waker & !gicr::PROCESSOR_SLEEP);
        while mmio::read32(redistributor + gicr::WAKER) & gicr::CHILDREN_ASLEEP != 0 {}
        mmio::write32(base + gicd::IGROUPR, u32::MAX);
    } else {
        for word in 0..4 {
            mmio::write32(base + gicd::CPENDSGIR + word * 4, u32::MAX);
        }
        mmio::write32(base + gicd::IGROUPR, 0);
    }
    for array in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
        mmio::write32(base + array, u32::MAX);
    }
    for quarter in 0..8 {
        let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
        mmio::write32(base + gicd::IPRIORITYR + quarter * 4, priorities);
    }
    match cpu_interface() {
        Some(base) => {
            for word in 0..8 {
                mmio::write32(base + gicc::APR + word * 4, 0);
            }
        }
        None => msr!("icc_ap1r0_el1", 0),
    }
    split_end(false);
    set_binary_point(0);
    set_mask(0xff);
    match cpu_interface() {
        Some(base) => mmio::write32(base + gicc::CTLR, GICC_ENABLE),
        None => msr!("icc_igrpen1_el1", 1),
    }
    cpu::isb();
}
