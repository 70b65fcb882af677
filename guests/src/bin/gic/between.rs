//! Delivery of interrupts between CPUs.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guests::aarch64::gic::{self, Acknowledge, FIRST_SPI, SPURIOUS, Target, gicd, gicr};
use guests::aarch64::{cpu, machine, mmio, psci, smp, timer};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq};

const SPI: u32 = FIRST_SPI + 24;

/// A job: a fresh CPU interface with all SGIs enabled.
fn prepare(_: u64) -> u64 {
    cpu::mask_interrupts();
    gic::reset_cpu();
    for sgi in 0..16 {
        gic::enable(sgi);
    }
    0
}

/// Starts and prepares all CPUs.
fn all_cpus() -> Verdict {
    if smp::count() == 1 {
        return Err(Stop::Skip("one CPU"));
    }
    check!(smp::start_all(), "not all CPUs started");
    for index in 0..smp::count() {
        check_eq!(smp::run(index, prepare, 0), Some(0), "CPU {index} does not answer");
    }
    gic::set_edge(SPI, true);
    gic::enable(SPI);
    Ok(())
}

/// A job: waits for one interrupt, ends it and returns what was acknowledged.
fn take(_: u64) -> u64 {
    let taken = gic::wait();
    if !taken.is_spurious() {
        gic::end(taken);
    }
    u64::from(taken.0)
}

/// A job: what is there at this moment.
fn look(_: u64) -> u64 {
    let taken = gic::acknowledge();
    if !taken.is_spurious() {
        gic::end(taken);
    }
    u64::from(taken.0)
}

fn interrupt(value: Option<u64>) -> Option<u32> {
    value.map(|value| Acknowledge(value as u32).interrupt())
}

/// Mask of a CPU in [`Target::Cpus`].
fn mask(index: usize) -> u32 {
    if machine().gic_version() == 2 { 1 << gic::interface(index) } else { 1 << index }
}

/// What an SGI from this CPU looks like to its target.
fn sent(sgi: u32) -> u64 {
    let source = if machine().gic_version() == 2 { gic::interface(smp::index()) } else { 0 };
    u64::from(source << 10 | sgi)
}

pub(super) fn to_others() -> Verdict {
    all_cpus()?;
    for sgi in 0..16 {
        gic::send(sgi, Target::Others);
        for other in smp::others() {
            check_eq!(smp::run(other, take, 0), Some(sent(sgi)), "SGI {sgi} at CPU {other}");
            let more = interrupt(smp::run(other, look, 0));
            check_eq!(more, Some(SPURIOUS), "again at CPU {other}");
        }
        check!(gic::acknowledge().is_spurious(), "SGI {sgi} came to its sender");
    }
    Ok(())
}

pub(super) fn to_list() -> Verdict {
    all_cpus()?;
    for subset in 0..1_u32 << smp::count() {
        let list = (0..smp::count()).filter(|i| subset >> i & 1 != 0).map(mask).sum();
        gic::send(6, Target::Cpus(list));
        for index in 0..smp::count() {
            let meant = subset >> index & 1 != 0;
            let job = if meant { take } else { look };
            let expected = if meant { 6 } else { SPURIOUS };
            let found = interrupt(smp::run(index, job, 0));
            check_eq!(found, Some(expected), "list {list:#x}: CPU {index}");
        }
    }
    Ok(())
}

/// A job: sends an SGI to CPU 0 once and once more.
fn send_twice(sgi: u64) -> u64 {
    gic::send(sgi as u32, Target::Cpus(mask(0)));
    gic::send(sgi as u32, Target::Cpus(mask(0)));
    0
}

pub(super) fn same_sgi_from_all() -> Verdict {
    all_cpus()?;
    for _ in 0..20 {
        for index in 0..smp::count() {
            check_eq!(smp::run(index, send_twice, 5), Some(0), "CPU {index}");
        }
        if machine().gic_version() == 2 {
            let mut sources = 0;
            for number in 0..smp::count() {
                let taken = gic::wait();
                check_eq!(taken.interrupt(), 5, "SGI number {number}");
                check!(sources >> taken.source() & 1 == 0, "source {} twice", taken.source());
                sources |= 1 << taken.source();
                gic::end(taken);
            }
            let all = (0..smp::count()).map(mask).sum::<u32>();
            check_eq!(sources, all, "sources");
        } else {
            let taken = gic::wait();
            check_eq!(taken.interrupt(), 5, "SGI");
            gic::end(taken);
        }
        check!(gic::acknowledge().is_spurious(), "one SGI too many");
    }
    Ok(())
}

/// A job: sends an SGI to CPU 0.
fn send_once(sgi: u64) -> u64 {
    gic::send(sgi as u32, Target::Cpus(mask(0)));
    0
}

/// While CPU 0 handles the SGI of one CPU, all others send it theirs; after that, each is heard again.
pub(super) fn same_sgi_while_handled() -> Verdict {
    all_cpus()?;
    let merged = machine().gic_version() != 2;
    for first in smp::others() {
        check_eq!(smp::run(first, send_once, 5), Some(0), "CPU {first}");
        let handled = gic::wait();
        check_eq!(handled.interrupt(), 5, "SGI from CPU {first}");
        for other in smp::others().filter(|other| *other != first) {
            check_eq!(smp::run(other, send_once, 5), Some(0), "CPU {other}");
        }
        gic::end(handled);
        let waiting = smp::count() - 2;
        for number in 0..if merged { waiting.min(1) } else { waiting } {
            let taken = gic::wait();
            check_eq!(taken.interrupt(), 5, "SGI {number} sent while CPU {first}'s was handled");
            gic::end(taken);
        }
        check!(gic::acknowledge().is_spurious(), "one SGI too many");
        for sender in smp::others() {
            check_eq!(smp::run(sender, send_once, 5), Some(0), "CPU {sender}");
            let taken = gic::wait();
            check_eq!(taken.interrupt(), 5, "SGI from CPU {sender} after CPU {first}'s");
            gic::end(taken);
        }
    }
    Ok(())
}

/// A job: sends all SGIs to CPU 0.
fn send_all(_: u64) -> u64 {
    for sgi in 0..16 {
        gic::send(sgi, Target::Cpus(mask(0)));
    }
    0
}

pub(super) fn many_sgis_from_all() -> Verdict {
    all_cpus()?;
    for sgi in 0..16 {
        gic::set_priority(sgi, sgi as u8 * 0x10);
    }
    let senders = if machine().gic_version() == 2 { smp::count() as u32 } else { 1 };
    for round in 0..5 {
        gic::set_mask(0);
        for other in smp::others() {
            smp::begin(other, send_all, 0);
        }
        send_all(0);
        for other in smp::others() {
            check_eq!(smp::finish(other), Some(0), "CPU {other}");
        }
        gic::set_mask(0xff);
        let mut seen = [0_u32; 16];
        for number in 0..16 * senders {
            let taken = gic::wait();
            check!(taken.interrupt() < 16, "round {round}: {number} of {} came", 16 * senders);
            check_eq!(taken.interrupt(), number / senders, "round {round}: order");
            seen[taken.interrupt() as usize] |= 1 << taken.source();
            gic::end(taken);
        }
        let all = if senders == 1 { 1 } else { (0..smp::count()).map(mask).sum() };
        check_eq!(seen, [all; 16], "round {round}: sources");
        check!(gic::acknowledge().is_spurious(), "round {round}: one too many");
    }
    Ok(())
}

static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// A job: sleeps until an interrupt is signalled, then takes it.
fn sleep(_: u64) -> u64 {
    ASLEEP.store(1, Ordering::SeqCst);
    while !gic::is_signalled() {
        cpu::wait_for_interrupt();
    }
    look(0)
}

pub(super) fn wake() -> Verdict {
    all_cpus()?;
    for round in 0..20_u64 {
        for other in smp::others() {
            ASLEEP.store(0, Ordering::SeqCst);
            smp::begin(other, sleep, 0);
            check!(timer::wait_until(|| ASLEEP.load(Ordering::SeqCst) == 1), "CPU {other} is busy");
            // Meet the sleeper before, in and after its WFI.
            timer::spin(timer::microseconds(round * 20));
            gic::send(4, Target::Cpus(mask(other)));
            check_eq!(smp::finish(other), Some(sent(4)), "CPU {other} in round {round}");
        }
    }
    Ok(())
}

static HOPS: AtomicU64 = AtomicU64::new(0);

/// A job: passes the SGI on to the next CPU until it has gone round often enough.
fn pass_on(hops: u64) -> u64 {
    let next = (smp::index() + 1) % smp::count();
    loop {
        while !gic::is_signalled() {
            cpu::wait_for_interrupt();
        }
        let taken = gic::acknowledge();
        if taken.is_spurious() {
            continue;
        }
        gic::end(taken);
        let hop = HOPS.fetch_add(1, Ordering::SeqCst) + 1;
        gic::send(8, Target::Cpus(mask(next)));
        // Everybody leaves in its last round.
        if hop + smp::count() as u64 > hops {
            return hop;
        }
    }
}

pub(super) fn ring() -> Verdict {
    const HOPS_WANTED: u64 = 2_000;
    all_cpus()?;
    HOPS.store(0, Ordering::SeqCst);
    for other in smp::others() {
        smp::begin(other, pass_on, HOPS_WANTED);
    }
    gic::send(8, Target::This);
    pass_on(HOPS_WANTED);
    for other in smp::others() {
        check!(smp::finish(other).is_some(), "CPU {other} has not finished");
    }
    let hops = HOPS.load(Ordering::SeqCst);
    check!(hops >= HOPS_WANTED, "{hops} hops");
    Ok(())
}

pub(super) fn routing() -> Verdict {
    all_cpus()?;
    for _ in 0..10 {
        for index in 0..smp::count() {
            gic::route(SPI, index);
            gic::set_pending(SPI);
            for other in (0..smp::count()).filter(|&other| other != index) {
                let found = interrupt(smp::run(other, look, 0));
                check_eq!(found, Some(SPURIOUS), "routed to {index}, seen by {other}");
            }
            let found = interrupt(smp::run(index, take, 0));
            check_eq!(found, Some(SPI), "routed to CPU {index}");
            check!(!gic::is_pending(SPI) && !gic::is_active(SPI), "not finished on CPU {index}");
        }
    }
    Ok(())
}

pub(super) fn rerouting() -> Verdict {
    all_cpus()?;
    for _ in 0..10 {
        for from in 0..smp::count() {
            let to = (from + 1) % smp::count();
            gic::route(SPI, from);
            gic::set_pending(SPI);
            gic::route(SPI, to);
            let found = interrupt(smp::run(to, take, 0));
            check_eq!(found, Some(SPI), "moved from CPU {from} to {to}");
            let found = interrupt(smp::run(from, look, 0));
            check_eq!(found, Some(SPURIOUS), "left behind on CPU {from}");
        }
    }
    Ok(())
}

static CLAIMED: AtomicU32 = AtomicU32::new(0);
static STOP: AtomicU32 = AtomicU32::new(0);

/// A job: claims whatever comes until told to stop.
fn claim(_: u64) -> u64 {
    let mut claims = 0;
    while STOP.load(Ordering::SeqCst) == 0 {
        let taken = gic::acknowledge();
        if !taken.is_spurious() {
            claims += 1;
            gic::end(taken);
            CLAIMED.fetch_add(1, Ordering::SeqCst);
        }
    }
    claims
}

pub(super) fn one_of_many() -> Verdict {
    const ROUNDS: u32 = 100;
    all_cpus()?;
    if machine().gic_version() != 2 {
        return Err(Stop::Skip("for GICv2"));
    }
    let all = smp::others().map(mask).sum::<u32>();
    mmio::write8(gic::distributor() + gicd::ITARGETSR + u64::from(SPI), all as u8);
    CLAIMED.store(0, Ordering::SeqCst);
    STOP.store(0, Ordering::SeqCst);
    for other in smp::others() {
        smp::begin(other, claim, 0);
    }
    let mut came = true;
    for round in 0..ROUNDS {
        gic::set_pending(SPI);
        came &= timer::wait_until(|| CLAIMED.load(Ordering::SeqCst) > round);
    }
    timer::spin(timer::microseconds(1_000));
    STOP.store(1, Ordering::SeqCst);
    for other in smp::others() {
        smp::finish(other);
    }
    check!(came, "an interrupt was lost");
    // The distributor of the bare emulator hands such an interrupt to each target at times,
    // as architecture 1 did.
    let several = if psci::under_hypervisor() { 1 } else { smp::count() as u32 };
    let claims = CLAIMED.load(Ordering::SeqCst);
    check!((ROUNDS..=ROUNDS * several).contains(&claims), "{claims} claims of {ROUNDS}");
    Ok(())
}

/// A job: writes one to an interrupt's bit in an array of the distributor.
fn strike(argument: u64) -> u64 {
    gic::strike(argument >> 32, argument as u32);
    0
}

pub(super) fn deactivate_elsewhere() -> Verdict {
    all_cpus()?;
    gic::split_end(true);
    gic::route(SPI, smp::index());
    for other in smp::others() {
        for round in 0..5 {
            gic::set_pending(SPI);
            let taken = gic::wait();
            check_eq!(taken.interrupt(), SPI, "round {round}");
            gic::end(taken);
            gic::set_pending(SPI);
            check!(gic::acknowledge().is_spurious(), "came though active");
            let clear = gicd::ICACTIVER << 32 | u64::from(SPI);
            check_eq!(smp::run(other, strike, clear), Some(0), "CPU {other}");
            let again = gic::wait();
            check_eq!(again.interrupt(), SPI, "deactivated by CPU {other}");
            gic::end(again);
            gic::deactivate(again);
            check!(!gic::is_active(SPI), "active at the end of round {round}");
        }
    }
    Ok(())
}

pub(super) fn activate_elsewhere() -> Verdict {
    all_cpus()?;
    gic::route(SPI, smp::index());
    for other in smp::others() {
        let set = gicd::ISACTIVER << 32 | u64::from(SPI);
        check_eq!(smp::run(other, strike, set), Some(0), "CPU {other}");
        gic::set_pending(SPI);
        check!(gic::acknowledge().is_spurious(), "came though CPU {other} had made it active");
        let clear = gicd::ICACTIVER << 32 | u64::from(SPI);
        check_eq!(smp::run(other, strike, clear), Some(0), "CPU {other}");
        let taken = gic::wait();
        check_eq!(taken.interrupt(), SPI, "once CPU {other} had cleared it");
        gic::end(taken);
    }
    Ok(())
}

pub(super) fn remote_private() -> Verdict {
    const PPI: u32 = 20;
    all_cpus()?;
    for other in smp::others() {
        let Some(base) = gic::redistributor(other) else {
            return Err(Stop::Skip("for GICv3"));
        };
        let frame = base + gicr::SGI_FRAME;
        mmio::write32(frame + gicd::ISENABLER, 1 << PPI);
        mmio::write32(frame + gicd::ISPENDR, 1 << PPI);
        let taken = interrupt(smp::run(other, take, 0));
        mmio::write32(frame + gicd::ICPENDR, 1 << PPI);
        mmio::write32(frame + gicd::ICENABLER, 1 << PPI);
        check_eq!(taken, Some(PPI), "CPU {other}");
        check!(!gic::is_active(PPI), "interrupt {PPI} is active on the wrong CPU");
        smp::run(other, prepare, 0);
    }
    Ok(())
}
