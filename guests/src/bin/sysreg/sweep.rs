//! Every encodable register and system instruction. Whatever comes of it, the
//! machine must live, and what is not there must be undefined.

use core::fmt;

use guests::aarch64::encoding::{self, Encoding, RET, WORDS, WritePolicy};
use guests::aarch64::exception::{Fault, class};
use guests::aarch64::gic::{self, Target};
use guests::aarch64::timer::{self, Timer};
use guests::aarch64::{self, cache, machine, mmio, psci, smp};
use guests::tap::Verdict;
use guests::{check, check_eq, mrs, msr, println};

use super::identification;

/// Encodings of one `op0`.
const ENCODINGS: u32 = 1 << 14;

/// Opens what `CPACR_EL1` can close, so that only what is missing is undefined.
pub(super) fn open_features() -> u64 {
    let old = mrs!("cpacr_el1");
    // FPEN, ZEN, SMEN.
    msr!("cpacr_el1", old | 3 << 20 | 3 << 16 | 3 << 24);
    old
}

/// Makes functions of one instruction each for all of `op0` and calls them with `x0`.
fn each(
    op0: u8,
    instruction: fn(Encoding) -> u32,
    mut visit: impl FnMut(Encoding, u64) -> Verdict,
) -> Verdict {
    let batch = WORDS as u32 / 2;
    for first in (0..ENCODINGS).step_by(WORDS / 2) {
        let of = |index| Encoding::numbered(op0, index);
        let words = (first..first + batch).flat_map(|index| [instruction(of(index)), RET]);
        let code = encoding::write_code(words);
        for index in first..first + batch {
            visit(of(index), code + u64::from(index - first) * 8)?;
        }
    }
    Ok(())
}

/// An exception that an absent register may raise.
fn is_undefined(fault: Fault) -> bool {
    // Registers of features that are there may be trapped to EL1 by other registers.
    const FEATURE_TRAPS: [u64; 4] = [class::SYSTEM_REGISTER, 0x07, 0x19, 0x1d];
    fault.class() == class::UNKNOWN || FEATURE_TRAPS.contains(&fault.class())
}

/// What a sweep has found: how many, a digest of which, and the first of them by name.
struct Present {
    count: usize,
    digest: u64,
    listed: [Encoding; Present::LISTED],
}

impl Present {
    const LISTED: usize = 400;
    const COLUMNS: usize = 8;

    const fn new() -> Self {
        let listed = [Encoding::new(0, 0, 0, 0, 0); Self::LISTED];
        Present { count: 0, digest: 0xcbf2_9ce4_8422_2325, listed }
    }

    fn note(&mut self, encoding: Encoding, present: bool) {
        self.digest ^= u64::from(present);
        self.digest = self.digest.wrapping_mul(0x0000_0100_0000_01b3).rotate_left(9);
        if present {
            if let Some(slot) = self.listed.get_mut(self.count) {
                *slot = encoding;
            }
            self.count += 1;
        }
    }

    fn report(&self, what: &str) {
        println!("# {} of {ENCODINGS} {what}, digest {:016x}:", self.count, self.digest);
        let listed = &self.listed[..self.count.min(Self::LISTED)];
        for row in listed.chunks(Self::COLUMNS) {
            println!("#  {}", Row(row));
        }
    }
}

/// Names beside each other.
struct Row<'a>(&'a [Encoding]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|encoding| write!(formatter, " {encoding}"))
    }
}

pub(super) fn above_el1() -> Verdict {
    for op1 in 4..8 {
        for index in 0..1 << 11 {
            let register = Encoding { op1, ..Encoding::numbered(3, index) };
            let (value, fault) = identification::read(register);
            let Some(fault) = fault else {
                check!(false, "{register:?} reads {value:#x}");
                return Ok(());
            };
            check_eq!(fault.class(), class::UNKNOWN, "class of {register:?}");
        }
    }
    Ok(())
}

pub(super) fn reads() -> Verdict {
    let cpacr = open_features();
    for op0 in [2, 3] {
        let mut present = Present::new();
        each(op0, Encoding::read, |register, code| {
            if register.read_acts() {
                return Ok(());
            }
            let (_, fault) = encoding::call(code, 0);
            if let Some(fault) = fault {
                check!(is_undefined(fault), "{register:?}: {fault:#x?}");
                check_eq!(fault.elr, code, "{register:?}: ELR_EL1");
            }
            present.note(register, fault.is_none());
            Ok(())
        })?;
        present.report(if op0 == 2 { "debug registers read" } else { "registers read" });
    }
    msr!("cpacr_el1", cpacr);
    Ok(())
}

pub(super) fn writes() -> Verdict {
    let cpacr = open_features();
    for op0 in [2, 3] {
        let mut present = Present::new();
        // Two functions for each register: one reads it, one writes it.
        for index in 0..ENCODINGS {
            let register = Encoding::numbered(op0, index);
            let policy = register.write_policy();
            if policy == WritePolicy::Never {
                continue;
            }
            let code = encoding::write_code([register.read(), RET, register.write(), RET]);
            let write = |value: u64| encoding::call(code + 8, value).1;
            let (old, unreadable) =
                if register.read_acts() { (0, None) } else { encoding::call(code, 0) };
            let old = if unreadable.is_some() { 0 } else { old };
            let fault = write(old);
            if let Some(fault) = fault {
                check!(is_undefined(fault), "{register:?}: {fault:#x?}");
                check_eq!(fault.elr, code + 8, "{register:?}: ELR_EL1");
            } else if unreadable.is_none() && policy == WritePolicy::Any {
                // Enables are in bit 0 of many registers.
                for value in [0, !1, 0xaaaa_aaaa_aaaa_aaaa] {
                    write(value);
                }
                write(old);
            }
            present.note(register, fault.is_none());
        }
        present.report(if op0 == 2 { "debug registers written" } else { "registers written" });
    }
    msr!("cpacr_el1", cpacr);
    Ok(())
}

pub(super) fn instructions() -> Verdict {
    let page = machine().free_ram().start.next_multiple_of(4096);
    mmio::write64(page + 4096, 0x1234_5678_9abc_def0);
    cache::clean_to_coherency(page, 8192);
    let mut present = Present::new();
    each(1, Encoding::write, |instruction, code| {
        // An address for those that take one; set 4, way 0, level 1 to others.
        let (_, fault) = encoding::call(code, page);
        if let Some(fault) = fault {
            let abort = fault.class() == class::DATA_ABORT;
            check!(abort || is_undefined(fault), "{instruction:?}: {fault:#x?}");
        }
        present.note(instruction, fault.is_none());
        Ok(())
    })?;
    present.report("system instructions defined");
    check_eq!(mmio::read64(page + 4096), 0x1234_5678_9abc_def0, "memory beside");
    mmio::write64(page + 4096, 0);
    Ok(())
}

pub(super) fn aftermath() -> Verdict {
    aarch64::quiesce();
    for timer in Timer::ALL {
        gic::enable(timer.interrupt());
        timer.arm(timer::microseconds(100));
        let taken = gic::wait();
        check_eq!(taken.interrupt(), timer.interrupt(), "{timer:?} timer");
        timer.set_control(0);
        gic::end(taken);
    }
    gic::enable(1);
    gic::send(1, Target::This);
    let taken = gic::wait();
    check_eq!(taken.interrupt(), 1, "SGI");
    gic::end(taken);
    check!(psci::call32(psci::function::VERSION, 0, 0, 0) > 0, "PSCI does not answer");
    check!(smp::start_all(), "not all CPUs run");
    for other in smp::others() {
        check_eq!(smp::run(other, |value| value + 1, 41), Some(42), "CPU {other}");
    }
    Ok(())
}
