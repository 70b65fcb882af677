//! Random numbers for guests, from the boot loader's seed.

use alloc::sync::Arc;

use bunshin::entropy::{Generator, LEAST_SEED};
use log::warn;
use spin::Once;

use crate::el2::registers::read_register;

static GENERATOR: Once<Arc<Generator>> = Once::new();

/// Starts from the boot loader's `rng-seed`. Only the first call counts.
pub(crate) fn start(seed: &[u8]) {
    match Generator::new(seed, || read_register!("cntpct_el0")) {
        Some(generator) => {
            GENERATOR.call_once(|| Arc::new(generator));
        }
        None => warn!(
            "guests get no random numbers: the device tree has no /chosen/rng-seed of {LEAST_SEED} \
             bytes or more"
        ),
    }
}

/// The source of random numbers, if there is one.
pub(crate) fn generator() -> Option<&'static Arc<Generator>> {
    GENERATOR.get()
}
