//! Which of the virtual CPUs of one host CPU runs next: weighted fair shares
//! by virtual run time. Pure: time comes in as numbers.

use alloc::vec::Vec;

use crate::address::Instant;

/// Weight of a virtual CPU to which no other weight is given.
pub const DEFAULT_WEIGHT: u32 = 256;

/// A virtual CPU's account.
#[derive(Debug)]
struct Account {
    weight: u32,
    /// Time received, in ticks scaled by [`DEFAULT_WEIGHT`] over the weight.
    virtual_time: u64,
    runnable: bool,
}

/// The accounts of one host CPU. An index names an account; accounts are
/// added and never removed.
#[derive(Debug)]
pub struct FairQueue {
    accounts: Vec<Account>,
    /// Least virtual time that a waking account may have: no credit is saved
    /// up by sleeping.
    floor: u64,
    slice: u64,
}

impl FairQueue {
    /// An empty queue that gives `slice` ticks at a time.
    pub const fn new(slice: u64) -> Self {
        FairQueue { accounts: Vec::new(), floor: 0, slice }
    }

    /// Opens an account with `weight` (clamped to 1..=1024) that is not runnable.
    pub fn add(&mut self, weight: u32) -> usize {
        let weight = weight.clamp(1, 1024);
        self.accounts.push(Account { weight, virtual_time: self.floor, runnable: false });
        self.accounts.len().saturating_sub(1)
    }

    /// Says whether an account wants to run.
    pub fn set_runnable(&mut self, index: usize, runnable: bool) {
        let floor = self.floor;
        if let Some(account) = self.accounts.get_mut(index) {
            if runnable && !account.runnable {
                account.virtual_time = account.virtual_time.max(floor);
            }
            account.runnable = runnable;
        }
    }

    /// Charges `ticks` of run time to an account.
    pub fn charge(&mut self, index: usize, ticks: u64) {
        if let Some(account) = self.accounts.get_mut(index) {
            let scaled = u128::from(ticks)
                .saturating_mul(u128::from(DEFAULT_WEIGHT))
                .checked_div(u128::from(account.weight))
                .unwrap_or(0);
            account.virtual_time =
                account.virtual_time.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX));
        }
        let least = self.accounts.iter().filter(|a| a.runnable).map(|a| a.virtual_time).min();
        if let Some(least) = least {
            self.floor = self.floor.max(least);
        }
    }

    /// The runnable account with the least virtual time.
    pub fn pick(&self) -> Option<usize> {
        self.accounts
            .iter()
            .enumerate()
            .filter(|(_, account)| account.runnable)
            .min_by_key(|(_, account)| account.virtual_time)
            .map(|(index, _)| index)
    }

    /// Whether another account than `current` is runnable.
    pub fn contended(&self, current: usize) -> bool {
        self.accounts.iter().enumerate().any(|(i, account)| account.runnable && i != current)
    }

    /// When an account that starts at `now` has to give way.
    pub fn slice_end(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_add(self.slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sleeper_gets_no_credit_for_its_sleep() {
        let mut queue = FairQueue::new(10);
        let (a, b) = (queue.add(256), queue.add(256));
        queue.set_runnable(a, true);
        for _ in 0..1000 {
            queue.charge(a, 10);
        }
        queue.set_runnable(b, true);
        let mut turns = [0u64; 2];
        for _ in 0..100 {
            let next = queue.pick().unwrap();
            turns[next] += 1;
            queue.charge(next, 10);
        }
        assert!(turns[0].abs_diff(turns[1]) <= 1, "{turns:?}");
    }

    #[test]
    fn nobody_runs_when_nobody_wants_to() {
        let mut queue = FairQueue::new(10);
        assert_eq!(queue.pick(), None);
        let a = queue.add(1);
        assert_eq!(queue.pick(), None);
        queue.set_runnable(a, true);
        assert_eq!(queue.pick(), Some(a));
        assert!(!queue.contended(a));
    }

    proptest! {
        #[test]
        fn shares_follow_weights_within_two_percent(weights in prop::collection::vec(16u32..1024, 1..6)) {
            let mut queue = FairQueue::new(10);
            for weight in &weights {
                let index = queue.add(*weight);
                queue.set_runnable(index, true);
            }
            let mut received = vec![0u64; weights.len()];
            const TURNS: u64 = 40_000;
            for _ in 0..TURNS {
                let next = queue.pick().unwrap();
                received[next] += 1;
                queue.charge(next, 10_000);
            }
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            for (weight, got) in weights.iter().zip(received) {
                let fair = TURNS * u64::from(*weight) / total;
                prop_assert!(got.abs_diff(fair) <= fair / 50 + 2, "{got} instead of {fair}");
            }
        }
    }
}
