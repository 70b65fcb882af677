//! Delivery of interrupts to the CPU that runs the test.

use core::sync::atomic::{AtomicU32, Ordering};

use guests::aarch64::gic::{self, Acknowledge, FIRST_SPI, SPURIOUS, Target, gicd};
use guests::aarch64::{console, cpu, exception, machine, mmio, psci, smp, timer};
use guests::tap::Verdict;
use guests::{check, check_eq};

/// First of the shared interrupts that no device of the machine drives.
const FREE_SPI: u32 = 96;

/// Takes the next interrupt and checks which it is.
macro_rules! take {
    ($interrupt:expr, $($message:tt)+) => {{
        let taken = gic::wait();
        check_eq!(taken.interrupt(), $interrupt, $($message)+);
        taken
    }};
}

/// An enabled edge-triggered shared interrupt of some priority.
fn prepare(interrupt: u32, priority: u8) {
    if interrupt >= FIRST_SPI {
        gic::set_edge(interrupt, true);
    }
    gic::set_priority(interrupt, priority);
    gic::enable(interrupt);
}

fn nothing_pending() -> Verdict {
    let taken = gic::acknowledge();
    check!(taken.is_spurious(), "unexpected interrupt {}", taken.interrupt());
    check!(!gic::is_signalled(), "an interrupt is signalled");
    Ok(())
}

pub(super) fn spurious() -> Verdict {
    for _ in 0..100 {
        check_eq!(gic::acknowledge().interrupt(), SPURIOUS, "acknowledged");
    }
    check_eq!(gic::highest_pending(), SPURIOUS, "highest pending");
    check_eq!(gic::running_priority(), 0xff, "running priority");
    gic::end(Acknowledge(SPURIOUS));
    nothing_pending()
}

pub(super) fn sgi_to_self() -> Verdict {
    let this = 1
        << if machine().gic_version() == 2 {
            gic::interface(smp::index())
        } else {
            smp::index() as u32
        };
    for target in [Target::This, Target::Cpus(this)] {
        for sgi in 0..16 {
            gic::enable(sgi);
            gic::send(sgi, target);
            check!(timer::wait_until(gic::is_signalled), "SGI {sgi} is not signalled");
            check_eq!(gic::highest_pending(), sgi, "highest pending");
            let taken = take!(sgi, "SGI to {target:?}");
            if machine().gic_version() == 2 {
                check_eq!(taken.source(), gic::interface(smp::index()), "source of SGI {sgi}");
            }
            check!(gic::is_active(sgi), "SGI {sgi} is not active");
            check!(!gic::is_pending(sgi), "SGI {sgi} is still pending");
            check_eq!(gic::running_priority(), gic::DEFAULT_PRIORITY, "running priority");
            gic::end(taken);
            check!(!gic::is_active(sgi), "SGI {sgi} is active after its end");
            nothing_pending()?;
        }
    }
    gic::send(1, Target::Others);
    nothing_pending()
}

pub(super) fn private() -> Verdict {
    for interrupt in 16..FIRST_SPI {
        if gic::is_pending(interrupt) {
            continue;
        }
        gic::enable(interrupt);
        gic::set_pending(interrupt);
        let taken = take!(interrupt, "private interrupt");
        // A level that was set by software may stay until it is cleared.
        gic::clear_pending(interrupt);
        gic::end(taken);
        gic::disable(interrupt);
        nothing_pending()?;
    }
    Ok(())
}

pub(super) fn shared() -> Verdict {
    for interrupt in FIRST_SPI..gic::interrupts().min(1020) {
        if gic::is_pending(interrupt) {
            continue;
        }
        prepare(interrupt, gic::DEFAULT_PRIORITY);
        gic::set_pending(interrupt);
        let taken = take!(interrupt, "shared interrupt");
        check!(!gic::is_pending(interrupt), "interrupt {interrupt} is still pending");
        gic::end(taken);
        gic::disable(interrupt);
        nothing_pending()?;
    }
    Ok(())
}

/// Makes interrupts pending behind a closed mask, opens it and takes them in order.
fn by_priority(interrupts: impl Iterator<Item = (u32, u8)> + Clone) -> Verdict {
    gic::set_mask(0);
    let mut expected = 0;
    for (interrupt, priority) in interrupts.clone() {
        prepare(interrupt, priority);
        if interrupt < FIRST_SPI {
            gic::send(interrupt, Target::This);
        } else {
            gic::set_pending(interrupt);
        }
        expected += 1;
    }
    nothing_pending()?;
    gic::set_mask(0xff);
    let mut last = 0;
    for number in 0..expected {
        let taken = gic::wait();
        check!(!taken.is_spurious(), "only {number} of {expected} came");
        let found = interrupts.clone().find(|&(interrupt, _)| interrupt == taken.interrupt());
        let Some((interrupt, priority)) = found else {
            check!(false, "interrupt {} was not made pending", taken.interrupt());
            return Ok(());
        };
        check!(priority >= last, "interrupt {interrupt} of {priority:#x} came after {last:#x}");
        check!(!gic::is_pending(interrupt), "interrupt {interrupt} would come twice");
        last = priority;
        gic::end(taken);
    }
    nothing_pending()
}

pub(super) fn sgis_by_priority() -> Verdict {
    for multiplier in [1, 3, 7, 15] {
        by_priority((0..16).map(|sgi| (sgi, (sgi * multiplier % 16) as u8 * 0x10)))?;
    }
    Ok(())
}

pub(super) fn spis_by_priority() -> Verdict {
    let end = gic::interrupts().min(1020);
    let first = FREE_SPI.min(end - 16);
    for multiplier in [5, 11] {
        by_priority((first..end).map(|spi| (spi, (spi * multiplier % 16) as u8 * 0x10)))?;
    }
    // SGIs, a private interrupt and SPIs together.
    by_priority((0..16).chain(first..end).map(|number| (number, (number * 7 % 16) as u8 * 0x10)))
}

pub(super) fn priority_mask() -> Verdict {
    for priority in [0x00, 0x40, 0x80, 0xe0] {
        prepare(2, priority);
        for mask in [0x00, 0x40, 0x80, 0xe0, 0xf0] {
            gic::set_mask(mask);
            check_eq!(gic::mask(), mask, "priority mask");
            gic::send(2, Target::This);
            if mask > priority {
                let taken = take!(2, "priority {priority:#x} mask {mask:#x}");
                gic::end(taken);
            } else {
                nothing_pending()?;
                check!(gic::is_pending(2), "priority {priority:#x} mask {mask:#x}: not pending");
                gic::set_mask(0xff);
                let taken = take!(2, "priority {priority:#x} once the mask is open");
                gic::end(taken);
            }
            nothing_pending()?;
        }
    }
    Ok(())
}

pub(super) fn preemption() -> Verdict {
    const DEPTH: u32 = 15;
    let first = FREE_SPI.min(gic::interrupts() - 16);
    let level = |depth: u32| (0xe0 - depth * 0x10) as u8;
    let mut stack = [Acknowledge(SPURIOUS); DEPTH as usize];
    for depth in 0..DEPTH {
        prepare(first + depth, level(depth));
        gic::set_pending(first + depth);
        stack[depth as usize] = take!(first + depth, "depth {depth}");
        check_eq!(gic::running_priority(), level(depth), "running priority at depth {depth}");
    }
    for depth in 0..DEPTH {
        check!(gic::is_active(first + depth), "depth {depth} is not active");
    }
    for depth in (0..DEPTH).rev() {
        gic::end(stack[depth as usize]);
        let under = depth.checked_sub(1).map_or(0xff, level);
        check_eq!(gic::running_priority(), under, "running priority under depth {depth}");
        check!(!gic::is_active(first + depth), "depth {depth} is active after its end");
    }
    nothing_pending()
}

pub(super) fn no_preemption() -> Verdict {
    prepare(1, 0x40);
    for (other, priority) in [(2, 0x40), (3, 0x50), (4, 0xf0)] {
        prepare(other, priority);
        gic::send(1, Target::This);
        let taken = take!(1, "the first");
        gic::send(other, Target::This);
        nothing_pending()?;
        gic::end(taken);
        let taken = take!(other, "priority {priority:#x} after the first");
        gic::end(taken);
    }
    nothing_pending()
}

pub(super) fn disabled() -> Verdict {
    for interrupt in [5, 20, FREE_SPI.min(gic::interrupts() - 1)] {
        prepare(interrupt, 0x40);
        gic::disable(interrupt);
        if interrupt < 16 {
            // SGIs are always enabled where their enable bits read as one.
            if gic::bit(gicd::ISENABLER, interrupt) {
                continue;
            }
            gic::send(interrupt, Target::This);
        } else {
            gic::set_pending(interrupt);
        }
        nothing_pending()?;
        check!(gic::is_pending(interrupt), "interrupt {interrupt} is lost");
        gic::enable(interrupt);
        let taken = take!(interrupt, "once enabled");
        gic::clear_pending(interrupt);
        gic::end(taken);
        nothing_pending()?;
    }
    Ok(())
}

pub(super) fn withdrawn() -> Verdict {
    let spi = FREE_SPI.min(gic::interrupts() - 1);
    prepare(spi, 0x40);
    for _ in 0..20 {
        gic::set_pending(spi);
        check!(timer::wait_until(gic::is_signalled), "not signalled");
        gic::clear_pending(spi);
        nothing_pending()?;
        gic::set_pending(spi);
        gic::disable(spi);
        nothing_pending()?;
        gic::clear_pending(spi);
        gic::enable(spi);
        nothing_pending()?;
    }
    Ok(())
}

pub(super) fn pending_and_active() -> Verdict {
    let spi = FREE_SPI.min(gic::interrupts() - 1);
    prepare(spi, 0x40);
    gic::set_pending(spi);
    let taken = take!(spi, "the first time");
    gic::set_pending(spi);
    check!(gic::is_pending(spi) && gic::is_active(spi), "not active and pending");
    nothing_pending()?;
    gic::end(taken);
    let taken = take!(spi, "the second time");
    gic::end(taken);
    nothing_pending()?;
    gic::enable(9);
    gic::send(9, Target::This);
    let taken = take!(9, "SGI the first time");
    gic::send(9, Target::This);
    nothing_pending()?;
    gic::end(taken);
    let taken = take!(9, "SGI the second time");
    gic::end(taken);
    nothing_pending()
}

pub(super) fn split_end() -> Verdict {
    let spi = FREE_SPI.min(gic::interrupts() - 1);
    gic::split_end(true);
    for interrupt in [7, spi] {
        prepare(interrupt, 0x40);
        let raise = || {
            if interrupt < 16 {
                gic::send(interrupt, Target::This);
            } else {
                gic::set_pending(interrupt);
            }
        };
        raise();
        let taken = take!(interrupt, "the first time");
        gic::end(taken);
        check_eq!(gic::running_priority(), 0xff, "running priority after the drop");
        check!(gic::is_active(interrupt), "interrupt {interrupt} is not active after the drop");
        raise();
        nothing_pending()?;
        gic::deactivate(taken);
        let again = take!(interrupt, "once deactivated");
        gic::end(again);
        gic::deactivate(again);
        check!(!gic::is_active(interrupt), "interrupt {interrupt} is active at the end");
    }
    nothing_pending()
}

pub(super) fn many_active() -> Verdict {
    const MOST: u32 = 16;
    // When ends may come in any order, a hypervisor keeps each active interrupt in a list
    // register, of which there are four or more.
    let count = if psci::under_hypervisor() { 3 } else { MOST };
    let first = FREE_SPI.min(gic::interrupts() - MOST);
    gic::split_end(true);
    for round in 0..4 {
        let mut taken = [Acknowledge(SPURIOUS); MOST as usize];
        for slot in 0..count {
            prepare(first + slot, 0x40);
            gic::set_pending(first + slot);
            taken[slot as usize] = take!(first + slot, "round {round}");
            gic::end(taken[slot as usize]);
        }
        for slot in 0..count {
            check!(gic::is_active(first + slot), "round {round}: slot {slot} is not active");
        }
        // One more can still come.
        prepare(3, 0x80);
        gic::send(3, Target::This);
        let more = take!(3, "beside the active ones");
        gic::end(more);
        gic::deactivate(more);
        for number in 0..count {
            let slot = (number * 5 + round) % count;
            gic::deactivate(taken[slot as usize]);
            check!(!gic::is_active(first + slot), "round {round}: slot {slot} is active");
        }
        for slot in 0..count {
            gic::set_pending(first + slot);
            let again = take!(first + slot, "round {round}, again");
            gic::end(again);
            gic::deactivate(again);
        }
    }
    nothing_pending()
}

pub(super) fn set_active() -> Verdict {
    let spi = FREE_SPI.min(gic::interrupts() - 1);
    for interrupt in [20, spi] {
        prepare(interrupt, 0x40);
        gic::strike(gicd::ISACTIVER, interrupt);
        check!(gic::is_active(interrupt), "interrupt {interrupt} is not active");
        gic::set_pending(interrupt);
        nothing_pending()?;
        gic::strike(gicd::ICACTIVER, interrupt);
        let taken = take!(interrupt, "once inactive");
        gic::clear_pending(interrupt);
        gic::end(taken);
        nothing_pending()?;
    }
    Ok(())
}

pub(super) fn console_level() -> Verdict {
    const IMSC: u64 = 0x38;
    const ICR: u64 = 0x44;
    const TX: u32 = 1 << 5;
    let port = console::base();
    let interrupt = FIRST_SPI + machine().console_spi;
    gic::enable(interrupt);
    guests::println!("# a line that makes the transmit interrupt pending");
    mmio::write32(port + IMSC, TX);
    for round in 0..10 {
        let taken = gic::wait();
        if taken.interrupt() != interrupt {
            mmio::write32(port + IMSC, 0);
        }
        check_eq!(taken.interrupt(), interrupt, "round {round}");
        let (pending, active) = (gic::is_pending(interrupt), gic::is_active(interrupt));
        gic::end(taken);
        check!(pending && active, "round {round}: pending {pending}, active {active}");
    }
    let taken = gic::wait();
    mmio::write32(port + ICR, TX);
    gic::end(taken);
    let last = gic::acknowledge();
    let pending = gic::is_pending(interrupt);
    // A byte raises it again; masking at the port lowers it.
    mmio::write32(port + console::DR, u32::from(b'#'));
    let again = gic::wait();
    mmio::write32(port + IMSC, 0);
    gic::end(again);
    mmio::write32(port + console::DR, u32::from(b'\n'));
    check_eq!(taken.interrupt(), interrupt, "the last time");
    check!(last.is_spurious() && !pending, "came though it was cleared");
    check_eq!(again.interrupt(), interrupt, "after another byte");
    nothing_pending()
}

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn count() {
    let taken = gic::acknowledge();
    if !taken.is_spurious() {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        gic::end(taken);
    }
}

pub(super) fn exceptions() -> Verdict {
    const ROUNDS: u32 = 1_000;
    exception::set_interrupt_handler(count);
    TAKEN.store(0, Ordering::Relaxed);
    gic::enable(11);
    cpu::unmask_interrupts();
    for round in 0..ROUNDS {
        gic::send(11, Target::This);
        if !timer::wait_until(|| TAKEN.load(Ordering::Relaxed) > round) {
            break;
        }
    }
    cpu::mask_interrupts();
    check_eq!(TAKEN.load(Ordering::Relaxed), ROUNDS, "SGIs taken");
    nothing_pending()
}
