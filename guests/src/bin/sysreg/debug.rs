//! Self-hosted debug (Arm ARM D2).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::aarch64::encoding::{self, Encoding, NOP, RET};
use guests::aarch64::exception::{self, Frame, SPSR_D, SPSR_SS, class};
use guests::aarch64::mmu;
use guests::aarch64::sysreg::id_field;
use guests::aarch64::{machine, mmio};
use guests::tap::Verdict;
use guests::{check, check_eq, mrs, msr, println};

/// `MDSCR_EL1`.
const SS: u64 = 1 << 0;
const KDE: u64 = 1 << 13;
const MDE: u64 = 1 << 15;
/// `DBGBCR<n>_EL1` and `DBGWCR<n>_EL1`: enabled, all four bytes; the levels that match.
const BCR: u64 = 1 | 0xf << 5;
const AT_EL1: u64 = 1 << 1;
const AT_EL0: u64 = 2 << 1;
/// `DBGWCR<n>_EL1`: enabled, at EL1, loads and stores, 8 bytes.
const WCR: u64 = 1 | AT_EL1 | 3 << 3 | 0xff << 5;
const BRK: u32 = 0xd420_0000;
const SVC: u32 = 0xd400_0001;
const ADD_ONE: u32 = 0x9100_0400;

/// Exceptions seen by the hook: how many, and the last one.
static COUNT: AtomicU64 = AtomicU64::new(0);
static CLASS: AtomicU64 = AtomicU64::new(0);
static ELR: AtomicU64 = AtomicU64::new(0);
static FAR: AtomicU64 = AtomicU64::new(0);
/// Instructions still to be stepped.
static STEPS: AtomicU64 = AtomicU64::new(0);

fn forget() {
    for number in [&COUNT, &CLASS, &ELR, &FAR] {
        number.store(0, Ordering::Relaxed);
    }
}

fn note(frame: &Frame) -> u64 {
    let class = frame.esr >> 26 & 0x3f;
    COUNT.fetch_add(1, Ordering::Relaxed);
    CLASS.store(class, Ordering::Relaxed);
    ELR.store(frame.elr, Ordering::Relaxed);
    FAR.store(frame.far, Ordering::Relaxed);
    class
}

fn seen() -> (u64, u64, u64) {
    (COUNT.load(Ordering::Relaxed), CLASS.load(Ordering::Relaxed), ELR.load(Ordering::Relaxed))
}

/// Switches self-hosted debug on, for EL1 too, or off.
fn set_debug(on: bool) {
    // The OS lock is on after reset.
    msr!("oslar_el1", 0);
    msr!("mdscr_el1", if on { MDE | KDE } else { 0 });
    if on {
        // SAFETY: the hook handles debug exceptions.
        unsafe { asm!("msr daifclr, #8", "isb", options(nostack)) };
    } else {
        // SAFETY: debug exceptions stay away.
        unsafe { asm!("msr daifset, #8", "isb", options(nostack)) };
    }
}

/// Handles one breakpoint or watchpoint by switching all of them off.
fn once(frame: &mut Frame) -> bool {
    match note(frame) {
        class::BREAKPOINT | class::BREAKPOINT_LOWER | class::WATCHPOINT => {
            msr!("mdscr_el1", 0);
            true
        }
        class::BRK => {
            frame.elr += 4;
            true
        }
        _ => false,
    }
}

/// Code that adds `1` three times to x0.
fn adder() -> u64 {
    encoding::write_code([ADD_ONE, ADD_ONE, ADD_ONE, RET])
}

fn write_breakpoint(number: u8, value: u64, control: u64) {
    for (op2, value) in [(4, value), (5, control)] {
        let register = Encoding::new(2, 0, 0, number, op2);
        encoding::call(encoding::write_code([register.write(), RET]), value);
    }
    guests::aarch64::cpu::isb();
}

pub(super) fn breakpoint() -> Verdict {
    exception::set_hook(once);
    forget();
    let code = encoding::write_code([ADD_ONE, BRK, ADD_ONE, RET]);
    check_eq!(encoding::call(code, 0).0, 2, "x0 around BRK");
    check_eq!(seen(), (1, class::BRK, code + 4), "count, class and ELR of BRK");
    one_breakpoint(0)
}

/// A breakpoint on the second instruction of some code.
fn one_breakpoint(number: u8) -> Verdict {
    exception::set_hook(once);
    forget();
    // The code for the write comes first: it uses the same place.
    let code = adder();
    write_breakpoint(number, code + 4, BCR | AT_EL1);
    let code = adder();
    set_debug(true);
    let (sum, fault) = encoding::call(code, 10);
    set_debug(false);
    write_breakpoint(number, 0, 0);
    check_eq!(fault, None, "unhandled exception");
    check_eq!(seen(), (1, class::BREAKPOINT, code + 4), "breakpoint {number}");
    check_eq!(sum, 13, "x0");
    Ok(())
}

pub(super) fn all_breakpoints() -> Verdict {
    let count = id_field(mrs!("id_aa64dfr0_el1"), 12) + 1;
    check!(count >= 2, "{count} breakpoints");
    (0..count as u8).try_for_each(one_breakpoint)
}

/// Where EL0 sees an address of the first gibibyte of memory.
fn user(address: u64) -> u64 {
    mmu::USER_ALIAS + (address & ((1 << 30) - 1))
}

pub(super) fn user_breakpoint() -> Verdict {
    check!(
        machine().ram.start & ((1 << 30) - 1) == 0,
        "memory starts at {:#x}",
        machine().ram.start
    );
    exception::set_hook(once);
    forget();
    let code = user(encoding::write_code([NOP]));
    write_breakpoint(1, code + 4, BCR | AT_EL0);
    encoding::write_code([ADD_ONE, ADD_ONE, ADD_ONE, SVC]);
    set_debug(true);
    // EL0 runs with D clear: it has no say in it.
    let (sum, fault) = exception::run_user(code, 10, 0, SPSR_D);
    set_debug(false);
    write_breakpoint(1, 0, 0);
    check_eq!(fault.map(|fault| fault.class()), Some(class::SVC), "end of the run at EL0");
    check_eq!(CLASS.load(Ordering::Relaxed), class::SVC, "last exception");
    check_eq!(COUNT.load(Ordering::Relaxed), 2, "exceptions, with the SVC");
    check_eq!(sum, 13, "x0");
    Ok(())
}

pub(super) fn watchpoint() -> Verdict {
    static WATCHED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    exception::set_hook(once);
    let address = |index: usize| WATCHED[index].as_ptr() as u64;
    for store in [false, true] {
        forget();
        msr!("dbgwvr0_el1", address(1));
        msr!("dbgwcr0_el1", WCR);
        set_debug(true);
        mmio::write64(address(0), 5);
        let beside = seen().0;
        if store {
            mmio::write32(address(1), 7);
        } else {
            mmio::read32(address(1));
        }
        set_debug(false);
        msr!("dbgwcr0_el1", 0);
        check_eq!(beside, 0, "exceptions for the word beside");
        check_eq!(seen().0, 1, "exceptions, store {store}");
        check_eq!(seen().1, class::WATCHPOINT, "class, store {store}");
        check_eq!(FAR.load(Ordering::Relaxed), address(1), "FAR_EL1, store {store}");
    }
    check_eq!(WATCHED[1].load(Ordering::Relaxed), 7, "the watched word");
    Ok(())
}

/// BRK starts stepping, and each step ends in an exception until `STEPS` are done.
fn stepper(frame: &mut Frame) -> bool {
    let class = note(frame);
    match class {
        class::BRK => frame.elr += 4,
        class::STEP | class::STEP_LOWER => {
            STEPS.fetch_sub(1, Ordering::Relaxed);
        }
        _ => return false,
    }
    if STEPS.load(Ordering::Relaxed) > 0 {
        msr!("mdscr_el1", SS | KDE);
        frame.spsr = frame.spsr & !SPSR_D | SPSR_SS;
    } else {
        msr!("mdscr_el1", 0);
    }
    true
}

pub(super) fn step() -> Verdict {
    set_debug(false);
    exception::set_hook(stepper);
    for steps in 1..=3 {
        forget();
        STEPS.store(steps, Ordering::Relaxed);
        let code = encoding::write_code([BRK, ADD_ONE, ADD_ONE, ADD_ONE, NOP, NOP, RET]);
        let (sum, fault) = encoding::call(code, 0);
        set_debug(false);
        check_eq!(fault, None, "unhandled exception");
        check_eq!(sum, 3, "x0");
        let expected = (1 + steps, class::STEP, code + 4 + steps * 4);
        check_eq!(seen(), expected, "count, class and ELR after {steps} steps");
    }
    Ok(())
}

pub(super) fn user_step() -> Verdict {
    set_debug(false);
    exception::set_hook(stepper);
    for steps in 1..=3 {
        forget();
        STEPS.store(steps, Ordering::Relaxed);
        let code = user(encoding::write_code([ADD_ONE, ADD_ONE, ADD_ONE, NOP, NOP, SVC]));
        msr!("mdscr_el1", SS);
        let (sum, fault) = exception::run_user(code, 0, 0, SPSR_D | SPSR_SS);
        set_debug(false);
        check_eq!(fault.map(|fault| fault.class()), Some(class::SVC), "end of the run at EL0");
        check_eq!(sum, 3, "x0");
        // The SVC at the end is seen too.
        check_eq!(COUNT.load(Ordering::Relaxed), steps + 1, "exceptions for {steps} steps");
    }
    Ok(())
}

pub(super) fn os_lock() -> Verdict {
    const OSLK: u64 = 1 << 1;
    exception::set_hook(once);
    forget();
    let code = adder();
    write_breakpoint(0, code + 4, BCR | AT_EL1);
    let code = adder();
    set_debug(true);
    msr!("oslar_el1", 1);
    let locked = mrs!("oslsr_el1") & OSLK;
    let (sum, _) = encoding::call(code, 0);
    let under_lock = seen().0;
    forget();
    msr!("oslar_el1", 0);
    let unlocked = mrs!("oslsr_el1") & OSLK;
    msr!("mdscr_el1", MDE | KDE);
    encoding::call(code, 0);
    set_debug(false);
    write_breakpoint(0, 0, 0);
    check_eq!((locked, unlocked), (OSLK, 0), "OSLSR_EL1.OSLK locked and unlocked");
    check_eq!(sum, 3, "x0");
    if under_lock != 0 {
        println!("# this CPU ignores the OS lock, as emulators do");
    }
    check_eq!(seen().0, 1, "exceptions without");
    Ok(())
}
