//! The calls themselves, and the services that keep no CPU waiting.

use core::arch::asm;

use guests::aarch64::exception::{self, class};
use guests::aarch64::psci::{self, call, call32, function, result};
use guests::aarch64::{mmio, smp};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq};

use super::common::{CALL_64, ON, affinity, features, stop};

pub(super) fn version() -> Verdict {
    let version = call32(function::VERSION, 0, 0, 0);
    check!(version >= 0x1_0000, "version {version:#x}");
    check!(!psci::under_hypervisor() || version >= 0x1_0001, "version {version:#x}");
    Ok(())
}

pub(super) fn mandatory_functions() -> Verdict {
    for id in [
        function::VERSION,
        function::CPU_SUSPEND,
        function::CPU_SUSPEND | CALL_64,
        function::CPU_OFF,
        function::CPU_ON,
        function::CPU_ON | CALL_64,
        function::AFFINITY_INFO,
        function::AFFINITY_INFO | CALL_64,
        function::SYSTEM_OFF,
        function::SYSTEM_RESET,
        function::FEATURES,
    ] {
        let answer = features(id);
        check!(answer >= 0, "FEATURES of {id:#x}: {answer}");
    }
    if psci::under_hypervisor() {
        for id in [function::SYSTEM_RESET2, function::SYSTEM_RESET2 | CALL_64] {
            check!(features(id) >= 0, "FEATURES of {id:#x}: {}", features(id));
        }
    }
    Ok(())
}

pub(super) fn unsupported_functions() -> Verdict {
    for base in [function::VERSION, function::VERSION | CALL_64] {
        for id in base..base + 0x40 {
            let answer = features(id);
            if answer >= 0 {
                continue;
            }
            check_eq!(answer, result::NOT_SUPPORTED, "FEATURES of {id:#x}");
            check_eq!(call32(id, 0, 0, 0), result::NOT_SUPPORTED, "call of {id:#x}");
        }
    }
    for id in [0, 0x8400_7fff, 0xc400_ffff, u64::MAX, function::VERSION | CALL_64] {
        check_eq!(features(id), result::NOT_SUPPORTED, "FEATURES of {id:#x}");
    }
    Ok(())
}

pub(super) fn unknown_identifiers() -> Verdict {
    for id in [
        0x0000_0000,
        0x0100_0000,
        0x3200_0000,
        0x8000_7ffe,
        0x8100_0000,
        0x8200_0000,
        0x8300_0000,
        0x8500_0000,
        0x8600_1234,
        0x8700_0000,
        0xb000_0000,
        0xb200_0000,
        0xbf00_ff01,
        0xc000_1234,
        0xc200_0000,
        0xc300_0000,
        0xc400_1234,
        0xc500_1234,
        0xc600_1234,
        0xffff_ffff,
    ] {
        let (answer, fault) = exception::catch(|| call32(id, 1, 2, 3));
        check_eq!(fault, None, "exception at {id:#x}");
        check_eq!(answer, result::NOT_SUPPORTED, "answer of {id:#x}");
    }
    Ok(())
}

pub(super) fn registers_are_kept() -> Verdict {
    for id in [function::VERSION, 0xc400_1234, function::AFFINITY_INFO | CALL_64] {
        let mut registers: psci::Registers = core::array::from_fn(|i| 0x5a5a_0000 + i as u64);
        registers[..4].copy_from_slice(&[id, affinity(0), 0, 0]);
        let before = registers;
        psci::hvc(&mut registers);
        check_eq!(&registers[4..], &before[4..], "x4 to x17 after {id:#x}");
    }
    Ok(())
}

pub(super) fn narrow_calls() -> Verdict {
    const GARBAGE: u64 = 0xdead_beef_0000_0000;
    let info = |upper: u64| {
        let mut registers = [0; 18];
        registers[0] = function::AFFINITY_INFO;
        registers[1] = affinity(0) | upper;
        registers[2] = upper;
        psci::hvc(&mut registers);
        i64::from(registers[0] as i32)
    };
    check_eq!(info(0), ON, "32-bit AFFINITY_INFO");
    let with_garbage = info(GARBAGE);
    // The bare emulator looks at the upper halves.
    let strict = psci::under_hypervisor();
    check!(with_garbage == ON || !strict, "upper halves of arguments: {with_garbage}");
    let version = call32(function::VERSION | GARBAGE, 0, 0, 0);
    let same = version == call32(function::VERSION, 0, 0, 0);
    check!(same || !strict, "upper half of the function identifier: {version:#x}");
    Ok(())
}

pub(super) fn other_immediates() -> Verdict {
    let (answer, fault) = exception::catch(|| {
        let mut x0 = function::VERSION;
        // SAFETY: the call keeps all registers from x4 on and memory.
        unsafe {
            asm!(
                "hvc #0x1234", inout("x0") x0, out("x1") _, out("x2") _, out("x3") _,
                options(nostack)
            );
        }
        i64::from(x0 as i32)
    });
    let version = call32(function::VERSION, 0, 0, 0);
    let plausible = answer == version || answer == result::NOT_SUPPORTED;
    check!(fault.is_some() || plausible, "HVC with an immediate: {answer:#x}");
    Ok(())
}

pub(super) fn smc_like_hvc() -> Verdict {
    for (id, argument) in [
        (function::VERSION, 0),
        (function::FEATURES, function::CPU_ON),
        (function::AFFINITY_INFO | CALL_64, affinity(0)),
        (0xc200_0000, 0),
        (0x8400_1234, 0),
    ] {
        let mut registers: psci::Registers = core::array::from_fn(|i| 0xa5a5_0000 + i as u64);
        registers[..4].copy_from_slice(&[id, argument, 0, 0]);
        let before = registers;
        let ((), fault) = exception::catch(|| psci::smc(&mut registers));
        if let Some(fault) = fault {
            check_eq!(fault.class(), class::UNKNOWN, "exception class of SMC");
            check!(!psci::under_hypervisor(), "SMC is undefined");
            continue;
        }
        check_eq!(registers[0] as u32, call(id, argument, 0, 0) as u32, "SMC {id:#x}");
        check_eq!(&registers[4..], &before[4..], "x4 to x17 after SMC {id:#x}");
    }
    Ok(())
}

pub(super) fn smccc() -> Verdict {
    if features(function::SMCCC_VERSION) < 0 {
        check!(!psci::under_hypervisor(), "no SMCCC_VERSION");
        return Err(Stop::Skip("no SMCCC discovery"));
    }
    let version = call32(function::SMCCC_VERSION, 0, 0, 0);
    check!(version >= 0x1_0001, "SMCCC version {version:#x}");
    for id in [function::SMCCC_VERSION, function::ARCH_FEATURES] {
        let answer = call32(function::ARCH_FEATURES, id, 0, 0);
        check!(answer >= 0, "ARCH_FEATURES of {id:#x}: {answer}");
    }
    // The workarounds: each is absent, or present and harmless.
    for id in [0x8000_8000, 0x8000_7fff, 0x8000_3fff] {
        let answer = call32(function::ARCH_FEATURES, id, 0, 0);
        check!((-2..=1).contains(&answer), "ARCH_FEATURES of {id:#x}: {answer}");
        if answer >= 0 {
            call(id, 1, 0, 0);
        }
    }
    for id in [0x8000_1234, 0, 0xffff_ffff, 0xc200_0000] {
        let answer = call32(function::ARCH_FEATURES, id, 0, 0);
        check_eq!(answer, result::NOT_SUPPORTED, "ARCH_FEATURES of {id:#x}");
    }
    Ok(())
}

pub(super) fn random_numbers() -> Verdict {
    const MOST: u64 = 192;
    let version = call32(function::TRNG_VERSION, 0, 0, 0);
    if version < 0 {
        check_eq!(version, result::NOT_SUPPORTED, "TRNG_VERSION");
        check!(!psci::under_hypervisor(), "no TRNG");
        return Err(Stop::Skip("no TRNG"));
    }
    check!(version >= 0x1_0000, "TRNG version {version:#x}");
    for id in [function::TRNG_FEATURES, function::TRNG_GET_UUID, function::TRNG_RND64] {
        check!(call32(function::TRNG_FEATURES, id, 0, 0) >= 0, "TRNG_FEATURES of {id:#x}");
    }
    let unknown = call32(function::TRNG_FEATURES, 0x8400_1234, 0, 0);
    check_eq!(unknown, result::NOT_SUPPORTED, "TRNG_FEATURES of nothing");
    let draw = |bits: u64| {
        let mut registers = [0; 18];
        registers[0] = function::TRNG_RND64;
        registers[1] = bits;
        psci::hvc(&mut registers);
        (registers[0] as i64, [registers[3], registers[2], registers[1]])
    };
    for bits in [0, MOST + 1, u64::MAX] {
        check_eq!(draw(bits).0, result::INVALID_PARAMETERS, "{bits} bits");
    }
    let mut seen = [0; 3];
    for bits in 1..=MOST {
        let (answer, words) = draw(bits);
        check_eq!(answer, result::SUCCESS, "{bits} bits");
        for (index, word) in words.into_iter().enumerate() {
            let wanted = bits.saturating_sub(index as u64 * 64).min(64);
            let excess = word.checked_shr(wanted as u32).unwrap_or(0);
            check_eq!(excess, 0, "word {index} of {bits} bits");
            seen[index] |= word;
        }
    }
    // The longest requests are few: enough of them that each bit is one at some time.
    for _ in 0..64 {
        for (seen, word) in seen.iter_mut().zip(draw(MOST).1) {
            *seen |= word;
        }
    }
    check_eq!(seen, [u64::MAX; 3], "bits that were ever one");
    check!(draw(MOST).1 != draw(MOST).1, "the same numbers twice");
    Ok(())
}

/// A job: where the record of stolen time of this CPU is.
fn stolen_time_record(_: u64) -> u64 {
    call(function::PV_TIME_ST, 0, 0, 0) as u64
}

pub(super) fn stolen_time() -> Verdict {
    let known = features(function::SMCCC_VERSION) >= 0
        && call32(function::ARCH_FEATURES, function::PV_TIME_FEATURES, 0, 0) >= 0;
    if !known {
        check!(!psci::under_hypervisor(), "no PV_TIME_FEATURES");
        return Err(Stop::Skip("no stolen time"));
    }
    let answer = call32(function::PV_TIME_FEATURES, function::PV_TIME_ST, 0, 0);
    check_eq!(answer, result::SUCCESS, "PV_TIME_FEATURES of PV_TIME_ST");
    let answer = call32(function::PV_TIME_FEATURES, 0xc500_0022, 0, 0);
    check_eq!(answer, result::NOT_SUPPORTED, "PV_TIME_FEATURES of nothing");
    check!(smp::start_all(), "not all CPUs started");
    let mut previous = 0;
    for index in 0..smp::count() {
        let Some(record) = smp::run(index, stolen_time_record, 0) else {
            check!(false, "CPU {index} does not answer");
            return Ok(());
        };
        check!(record as i64 > 0 && record % 64 == 0, "CPU {index}: record {record:#x}");
        check!(record != previous, "CPU {index} shares its record");
        previous = record;
        check_eq!(mmio::read32(record), 0, "revision of CPU {index}");
        check_eq!(mmio::read32(record + 4), 0, "attributes of CPU {index}");
        let first = mmio::read64(record + 8);
        let second = mmio::read64(record + 8);
        check!(second >= first, "stolen time of CPU {index} goes back");
    }
    for index in smp::others() {
        stop(index)?;
    }
    Ok(())
}

pub(super) fn migration() -> Verdict {
    let kind = call32(function::MIGRATE_INFO_TYPE, 0, 0, 0);
    check!(kind == 2 || kind == result::NOT_SUPPORTED, "MIGRATE_INFO_TYPE {kind}");
    for id in [function::MIGRATE, function::MIGRATE_INFO_UP_CPU] {
        for id in [id, id | CALL_64] {
            check_eq!(call32(id, 0, 0, 0), result::NOT_SUPPORTED, "call of {id:#x}");
        }
    }
    Ok(())
}
