//! Registers that keep what was written, and say what the controller is.

use guests::aarch64::gic::{self, FIRST_SPI, gicc, gicd, gicr};
use guests::aarch64::machine::Gic;
use guests::aarch64::{exception, machine, mmio, smp};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, mrs};

/// The first private interrupt that is not software-generated.
const FIRST_PPI: u32 = 16;

pub(super) fn identification() -> Verdict {
    let base = gic::distributor();
    let interrupts = gic::interrupts();
    check!((64..=1024).contains(&interrupts), "{interrupts} interrupts");
    mmio::read32(base + gicd::IIDR);
    match machine().gic {
        Gic::V2 { cpu, .. } => {
            let identification = mmio::read32(base + gicd::ICPIDR2);
            check_eq!(identification >> 4 & 0xf, 2, "GICD_ICPIDR2.ArchRev");
            check_eq!(mmio::read32(cpu + gicc::IIDR) >> 16 & 0xf, 2, "GICC_IIDR architecture");
            let cpus = (mmio::read32(base + gicd::TYPER) >> 5 & 7) + 1;
            check_eq!(cpus as usize, smp::count(), "GICD_TYPER.CPUNumber + 1");
        }
        Gic::V3 { .. } => {
            let revision = mmio::read32(base + gicd::PIDR2) >> 4 & 0xf;
            check!(revision == 3 || revision == 4, "GICD_PIDR2.ArchRev {revision}");
            check_eq!(mrs!("icc_sre_el1") & 1, 1, "ICC_SRE_EL1.SRE");
            let bits = (mrs!("icc_ctlr_el1") >> 8 & 7) + 1;
            check!(bits >= 4, "{bits} bits of priority");
        }
    }
    Ok(())
}

pub(super) fn control() -> Verdict {
    let register = gic::distributor() + gicd::CTLR;
    let on = mmio::read32(register);
    check!(on & 3 != 0, "GICD_CTLR {on:#x} after it was enabled");
    gic::set_distributor_enabled(false);
    check_eq!(mmio::read32(register) & 3, 0, "GICD_CTLR enables after it was disabled");
    let interrupt = FIRST_SPI + 8;
    gic::set_edge(interrupt, true);
    gic::enable(interrupt);
    gic::set_pending(interrupt);
    check!(gic::acknowledge().is_spurious(), "a disabled distributor forwards");
    gic::set_distributor_enabled(true);
    check_eq!(mmio::read32(register), on, "GICD_CTLR");
    let taken = gic::wait();
    check_eq!(taken.interrupt(), interrupt, "acknowledged once enabled");
    gic::end(taken);
    Ok(())
}

/// Sets and clears each interrupt's bit and looks at both arrays and the neighbours.
fn bits(set: u64, clear: u64, first: u32) -> Verdict {
    for interrupt in first..gic::interrupts().min(1020) {
        // The console's and the clock's lines may be high.
        if gic::bit(set, interrupt) {
            continue;
        }
        gic::strike(set, interrupt);
        check!(gic::bit(set, interrupt), "interrupt {interrupt} not set");
        check!(gic::bit(clear, interrupt), "interrupt {interrupt} not in the clear array");
        let beside = interrupt ^ 1;
        check!(!gic::bit(set, beside) || beside < first, "interrupt {beside} set beside");
        gic::strike(clear, interrupt);
        check!(!gic::bit(set, interrupt), "interrupt {interrupt} not cleared");
        check!(!gic::bit(clear, interrupt), "interrupt {interrupt} in the clear array");
    }
    // Zeros change nothing.
    let word = gic::distributor() + u64::from(FIRST_SPI / 8);
    mmio::write32(word + set, 0x0ff0_0000);
    mmio::write32(word + set, 0);
    mmio::write32(word + clear, 0);
    check_eq!(mmio::read32(word + clear) & 0x0ff0_0000, 0x0ff0_0000, "after writing zeros");
    mmio::write32(word + clear, 0x00f0_0000);
    check_eq!(mmio::read32(word + set) & 0x0ff0_0000, 0x0f00_0000, "after clearing half");
    mmio::write32(word + clear, u32::MAX);
    Ok(())
}

pub(super) fn enable_bits() -> Verdict {
    bits(gicd::ISENABLER, gicd::ICENABLER, FIRST_PPI)
}

pub(super) fn pending_bits() -> Verdict {
    bits(gicd::ISPENDR, gicd::ICPENDR, FIRST_PPI)
}

pub(super) fn active_bits() -> Verdict {
    bits(gicd::ISACTIVER, gicd::ICACTIVER, FIRST_PPI)
}

pub(super) fn priorities() -> Verdict {
    let count = gic::interrupts().min(1020);
    gic::set_priority(0, 0xff);
    let implemented = gic::priority(0);
    check!(implemented & 0xf0 == 0xf0, "priority mask {implemented:#x}");
    let wanted = |interrupt: u32| (interrupt * 0x30) as u8 & implemented & 0xf0;
    for interrupt in 0..count {
        gic::set_priority(interrupt, wanted(interrupt));
    }
    for interrupt in 0..count {
        check_eq!(gic::priority(interrupt), wanted(interrupt), "interrupt {interrupt}");
    }
    let word = mmio::read32(gic::distributor() + gicd::IPRIORITYR + u64::from(FIRST_SPI));
    let bytes = [0, 1, 2, 3].map(|i| wanted(FIRST_SPI + i));
    check_eq!(word.to_le_bytes(), bytes, "four priorities as a word");
    Ok(())
}

pub(super) fn configuration() -> Verdict {
    const EDGE: u32 = 0xaaaa_aaaa;
    let base = gic::distributor();
    let register = |interrupt: u32| base + gicd::ICFGR + u64::from(interrupt / 16) * 4;
    for interrupt in (FIRST_SPI..gic::interrupts().min(1020)).step_by(16) {
        for pattern in [0xa0a0_0a0a, 0x0a0a_a0a0, EDGE, 0] {
            mmio::write32(register(interrupt), pattern);
            let found = mmio::read32(register(interrupt)) & EDGE;
            check_eq!(found, pattern, "GICD_ICFGR of {interrupt}");
        }
    }
    let private = gic::redistributor(smp::index()).map_or(base, |base| base + gicr::SGI_FRAME);
    mmio::write32(private + gicd::ICFGR, 0);
    check_eq!(mmio::read32(private + gicd::ICFGR) & EDGE, EDGE, "SGIs are edge-triggered");
    Ok(())
}

pub(super) fn routes() -> Verdict {
    let base = gic::distributor();
    for interrupt in FIRST_SPI..gic::interrupts().min(1020) {
        let index = interrupt as usize % smp::count();
        gic::route(interrupt, index);
    }
    for interrupt in FIRST_SPI..gic::interrupts().min(1020) {
        let index = interrupt as usize % smp::count();
        if machine().gic_version() == 2 {
            if smp::count() > 1 {
                let found = mmio::read8(base + gicd::ITARGETSR + u64::from(interrupt));
                check_eq!(found, 1 << gic::interface(index), "target of {interrupt}");
            }
            continue;
        }
        let register = base + gicd::IROUTER + u64::from(interrupt) * 8;
        let affinity = machine().cpus()[index];
        check_eq!(mmio::read64(register), affinity, "route of {interrupt}");
        // The halves are registers of their own.
        check_eq!(mmio::read32(register), affinity as u32, "low half of {interrupt}");
        check_eq!(mmio::read32(register + 4), (affinity >> 32) as u32, "high half of {interrupt}");
        mmio::write32(register, machine().cpus()[0] as u32);
        mmio::write32(register + 4, (machine().cpus()[0] >> 32) as u32);
        check_eq!(mmio::read64(register), machine().cpus()[0], "route of {interrupt} by halves");
    }
    Ok(())
}

/// Targets of the private interrupts as this CPU sees them.
fn own_targets(_: u64) -> u64 {
    let base = gic::distributor() + gicd::ITARGETSR;
    u64::from(mmio::read32(base)) | u64::from(mmio::read32(base + 28)) << 32
}

pub(super) fn private_targets() -> Verdict {
    if machine().gic_version() != 2 || smp::count() == 1 {
        return Err(Stop::Skip("for GICv2 with several CPUs"));
    }
    check!(smp::start_all(), "not all CPUs started");
    for index in 0..smp::count() {
        let expected = (1 << gic::interface(index)) * 0x0101_0101_0101_0101_u64;
        check_eq!(smp::run(index, own_targets, 0), Some(expected), "CPU {index}");
    }
    Ok(())
}

/// Whether private interrupt 20 of this CPU is enabled, before it is switched over.
fn flip_private(enable: u64) -> u64 {
    let old = gic::bit(gicd::ISENABLER, 20);
    if enable != 0 {
        gic::enable(20)
    } else {
        gic::disable(20)
    }
    u64::from(old)
}

pub(super) fn banked() -> Verdict {
    if smp::count() == 1 {
        return Err(Stop::Skip("one CPU"));
    }
    check!(smp::start_all(), "not all CPUs started");
    for index in 0..smp::count() {
        smp::run(index, flip_private, 0);
    }
    for index in 0..smp::count() {
        check_eq!(smp::run(index, flip_private, 1), Some(0), "CPU {index} sees another's bit");
    }
    for index in 0..smp::count() {
        check_eq!(smp::run(index, flip_private, 0), Some(1), "CPU {index} lost its bit");
    }
    Ok(())
}

pub(super) fn redistributors() -> Verdict {
    let Gic::V3 { redistributors, .. } = machine().gic else {
        return Err(Stop::Skip("for GICv3"));
    };
    for index in 0..smp::count() {
        let Some(base) = gic::redistributor(index) else { continue };
        let kind = mmio::read64(base + gicr::TYPER);
        check_eq!(mmio::read32(base + gicr::TYPER), kind as u32, "low half of TYPER {index}");
        let high = mmio::read32(base + gicr::TYPER + 4);
        check_eq!(high, (kind >> 32) as u32, "high half of TYPER {index}");
        check_eq!(kind >> 8 & 0xffff, index as u64, "GICR_TYPER.Processor_Number");
        let stride = if kind & gicr::TYPER_VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
        let last = (base - redistributors) / stride + 1 == smp::count() as u64;
        check_eq!(kind & gicr::TYPER_LAST != 0, last, "GICR_TYPER.Last of {index}");
        let revision = mmio::read32(base + gicd::PIDR2) >> 4 & 0xf;
        check!(revision == 3 || revision == 4, "GICR_PIDR2.ArchRev {revision}");
    }
    Ok(())
}

pub(super) fn sgi_sources() -> Verdict {
    if machine().gic_version() != 2 {
        return Err(Stop::Skip("for GICv2"));
    }
    let set = gic::distributor() + gicd::SPENDSGIR;
    let clear = gic::distributor() + gicd::CPENDSGIR;
    let all = (1 << smp::count()) - 1_u8;
    for sgi in 0..16 {
        mmio::write8(set + sgi, all);
        check_eq!(mmio::read8(set + sgi), all, "sources of SGI {sgi}");
        check_eq!(mmio::read8(clear + sgi), all, "sources of SGI {sgi} to clear");
        check!(gic::is_pending(sgi as u32), "SGI {sgi} not pending");
        mmio::write8(clear + sgi, 1);
        check_eq!(mmio::read8(set + sgi), all & !1, "sources of SGI {sgi} but 0");
        mmio::write8(clear + sgi, all);
        check_eq!(mmio::read8(set + sgi), 0, "sources of SGI {sgi} after clearing");
        check!(!gic::is_pending(sgi as u32), "SGI {sgi} pending");
    }
    // Each source of a pending SGI is delivered, the lower interface first or not.
    gic::enable(3);
    mmio::write8(set + 3, all);
    let mut seen = 0;
    for _ in 0..smp::count() {
        let taken = gic::wait();
        check_eq!(taken.interrupt(), 3, "acknowledged");
        seen |= 1 << taken.source();
        gic::end(taken);
    }
    check_eq!(seen, all, "sources delivered");
    check!(gic::acknowledge().is_spurious(), "one too many");
    Ok(())
}

pub(super) fn widths() -> Verdict {
    let base = gic::distributor();
    let cpu = match machine().gic {
        Gic::V2 { cpu, .. } => cpu,
        Gic::V3 { redistributors, .. } => redistributors,
    };
    // The registers of this range have no effect when they are read.
    for offset in (0..0x100).chain(0x400..0x440).chain(0xfd0..0x1000) {
        for base in [base, cpu + gicr::SGI_FRAME * u64::from(machine().gic_version() == 3)] {
            if base == cpu && (0xc..0x10).contains(&(offset & !3)) {
                continue;
            }
            let address = base + offset;
            exception::catch(|| mmio::read8(address));
            if offset % 2 == 0 {
                exception::catch(|| mmio::read16(address));
            }
            if offset % 4 == 0 {
                exception::catch(|| mmio::read32(address));
            }
            if offset % 8 == 0 {
                exception::catch(|| mmio::read64(address));
            }
        }
    }
    // Bytes and words of priorities are the same registers.
    let register = base + gicd::IPRIORITYR + 64;
    mmio::write32(register, 0x4030_2010);
    for (offset, expected) in [(0, 0x10), (1, 0x20), (2, 0x30), (3, 0x40)] {
        check_eq!(mmio::read8(register + offset), expected, "byte {offset} of a priority word");
    }
    mmio::write8(register + 2, 0x80);
    check_eq!(mmio::read32(register), 0x4080_2010, "word with a byte written");
    Ok(())
}
