//! What both kinds of tests use.

use guests::aarch64::psci::{call32, function};
use guests::aarch64::{machine, smp, timer};
use guests::check;
use guests::tap::{Stop, Verdict};

pub(super) const CALL_64: u64 = function::CALL_64;

/// `AFFINITY_INFO` answers.
pub(super) const ON: i64 = 0;

pub(super) const OFF: i64 = 1;

pub(super) fn need(cpus: usize) -> Verdict {
    if smp::count() < cpus { Err(Stop::Skip("too few CPUs")) } else { Ok(()) }
}

pub(super) fn affinity(index: usize) -> u64 {
    machine().cpus()[index]
}

pub(super) fn affinity_info(affinity: u64, level: u64) -> i64 {
    call32(function::AFFINITY_INFO | CALL_64, affinity, level, 0)
}

pub(super) fn features(id: u64) -> i64 {
    call32(function::FEATURES, id, 0, 0)
}

/// Starts a CPU, runs nothing on it, and switches it off.
pub(super) fn stop(index: usize) -> Verdict {
    smp::begin(index, smp::switch_off, 0);
    let off = timer::wait_until(|| affinity_info(affinity(index), 0) == OFF);
    check!(off, "CPU {index} is not off: {}", affinity_info(affinity(index), 0));
    Ok(())
}
