//! Time as the guest's devices see it.

/// Nanoseconds in a second.
pub const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The steady clock of one virtual machine.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some moment before the machine started; never goes
    /// back.
    fn nanoseconds(&self) -> u64;
}

/// `value * numerator / denominator` without overflow in between; saturates,
/// and a zero `denominator` counts as 1.
pub(crate) fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value).saturating_mul(u128::from(numerator));
    let quotient = product.checked_div(u128::from(denominator)).unwrap_or(product);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

/// Doubles for the tests of devices.
#[cfg(test)]
pub(crate) mod fake {
    use bunshin::bus::InterruptLine;
    use bunshin::device::clock::WallClock;
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A clock that the test moves.
    #[derive(Default)]
    pub(crate) struct FakeClock {
        nanoseconds: AtomicU64,
        unix: AtomicU64,
    }

    impl FakeClock {
        pub(crate) fn set(&self, nanoseconds: u64) {
            self.nanoseconds.store(nanoseconds, Ordering::Relaxed);
        }

        pub(crate) fn set_unix(&self, seconds: u64) {
            self.unix.store(seconds, Ordering::Relaxed);
        }
    }

    impl super::Clock for FakeClock {
        fn nanoseconds(&self) -> u64 {
            self.nanoseconds.load(Ordering::Relaxed)
        }
    }

    impl WallClock for FakeClock {
        fn seconds(&self) -> u64 {
            self.unix.load(Ordering::Relaxed)
        }
    }

    /// A line that remembers its level and counts rising edges.
    #[derive(Default)]
    pub(crate) struct FakeLine {
        pub(crate) level: AtomicBool,
        pub(crate) edges: AtomicU64,
    }

    impl FakeLine {
        pub(crate) fn level(&self) -> bool {
            self.level.load(Ordering::Relaxed)
        }

        pub(crate) fn edges(&self) -> u64 {
            self.edges.load(Ordering::Relaxed)
        }
    }

    impl InterruptLine for FakeLine {
        fn set(&self, asserted: bool) {
            if asserted && !self.level.swap(asserted, Ordering::Relaxed) {
                self.edges.fetch_add(1, Ordering::Relaxed);
            }
            self.level.store(asserted, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn scaling_neither_overflows_nor_divides_by_zero() {
        for (value, numerator, denominator, expected) in [
            (10, 3, 2, 15),
            (u64::MAX, 2, 2, u64::MAX),
            (u64::MAX, 2, 1, u64::MAX),
            (5, 3, 0, 15),
            (1_000_000, 1_193_182, 1_000_000_000, 1193),
        ] {
            assert_eq!(scale(value, numerator, denominator), expected);
        }
    }
}
