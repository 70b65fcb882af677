//! The clock of the benchmark and its rows.

use crate::machine::bench::{frequency, now};
use crate::println;

/// Repetitions of an operation that always takes the same way.
const ROUNDS: u64 = 1024;
/// Repetitions before counting: what is done on the first time is not counted.
const WARM_UP: u64 = 16;

const NANOSECONDS: u64 = 1_000_000_000;

/// Ticks in nanoseconds, rounded.
pub(crate) fn nanoseconds(ticks: u64, rounds: u64) -> u64 {
    let divisor = frequency() * rounds;
    (ticks * NANOSECONDS + divisor / 2) / divisor
}

/// Prints a row.
pub(crate) fn row(name: &str, figure: u64) {
    println!("bench {name} {figure}");
}

/// Counts an operation in a loop and prints its row.
pub(crate) fn repeat(name: &str, mut operation: impl FnMut()) {
    for _ in 0..WARM_UP {
        operation();
    }
    let start = now();
    for _ in 0..ROUNDS {
        operation();
    }
    let ticks = now() - start;
    row(name, nanoseconds(ticks, ROUNDS));
}

/// Takes samples in ticks and prints the row of their median.
pub(crate) fn sample(name: &str, mut operation: impl FnMut() -> u64) {
    const SAMPLES: usize = 33;
    for _ in 0..WARM_UP {
        operation();
    }
    let mut samples = [0; SAMPLES];
    for slot in &mut samples {
        *slot = operation();
    }
    samples.sort_unstable();
    row(name, nanoseconds(samples[SAMPLES / 2], 1));
}
