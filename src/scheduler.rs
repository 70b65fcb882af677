//! Which of the virtual CPUs of one host CPU runs next. Pure: time comes in as
//! numbers.
//!
//! Reservations come first, the earliest deadline before the others: each is a
//! constant-bandwidth server (L. Abeni, G. Buttazzo, "Integrating Multimedia
//! Applications in Hard Real-Time Systems", 1998). A virtual CPU that wants to
//! run gets its budget in every period, as long as the budgets promised on the
//! host CPU fit ([`Admission`]). What is left is shared by weight, by virtual
//! run time; who has used up a budget takes part in that.

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
    server: Option<Server>,
}

/// A reservation: `budget` ticks in every `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Ticks that it gets in each period.
    pub budget: u64,
    /// Length of a period in ticks.
    pub period: u64,
}

/// The state of a reservation.
#[derive(Debug)]
struct Server {
    bandwidth: Bandwidth,
    /// What is left of the budget.
    left: u64,
    /// When the period ends.
    deadline: u64,
}

impl Server {
    /// Begins a new period when the present one is over.
    fn renew(&mut self, now: u64) {
        if self.deadline <= now {
            // A late look begins no period in the past.
            let late = now.saturating_sub(self.deadline);
            let begun = if late < self.bandwidth.period { self.deadline } else { now };
            self.deadline = begun.saturating_add(self.bandwidth.period);
            self.left = self.bandwidth.budget;
        }
    }

    /// It wants to run again. What is left of the budget may be used only as
    /// far as it would have been at an even pace, else a new period begins.
    fn wake(&mut self, now: u64) {
        let rest = self.deadline.saturating_sub(now);
        let scaled = u128::from(self.left).saturating_mul(u128::from(self.bandwidth.period));
        let even = u128::from(rest).saturating_mul(u128::from(self.bandwidth.budget));
        if rest == 0 || scaled > even {
            self.deadline = now.saturating_add(self.bandwidth.period);
            self.left = self.bandwidth.budget;
        }
    }
}

/// How much of a host CPU has been promised to reservations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Admission {
    /// In millionths, each promise rounded up.
    promised: u64,
}

impl Admission {
    /// Most that is promised, in millionths: the hypervisor itself needs time too.
    pub const MOST: u64 = 950_000;

    /// What has been promised, in millionths.
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Promises `budget` of every `period`, in the same unit, if there is so much left.
    pub fn promise(&mut self, budget: u32, period: u32) -> bool {
        let share = u64::from(budget)
            .saturating_mul(1_000_000)
            .checked_add(u64::from(period.saturating_sub(1)))
            .and_then(|sum| sum.checked_div(u64::from(period)));
        let sum = share.map(|share| share.saturating_add(self.promised));
        let fits = sum.filter(|sum| *sum <= Self::MOST);
        self.promised = fits.unwrap_or(self.promised);
        fits.is_some()
    }
}

/// The accounts of one host CPU. An index names an account; accounts are
/// added and never removed.
#[derive(Debug)]
pub struct RunQueue {
    accounts: Vec<Account>,
    /// Least virtual time that a waking account may have: no credit is saved
    /// up by sleeping.
    floor: u64,
    slice: u64,
    /// Who is to run next because another one waits for it.
    favourite: Option<usize>,
}

impl RunQueue {
    /// An empty queue that gives `slice` ticks at a time.
    pub const fn new(slice: u64) -> Self {
        RunQueue { accounts: Vec::new(), floor: 0, slice, favourite: None }
    }

    /// Opens an account with `weight` (clamped to 1..=1024) that is not
    /// runnable. A reservation must have been admitted.
    pub fn add(&mut self, weight: u32, reservation: Option<Bandwidth>) -> usize {
        let server = reservation.map(|bandwidth| Server { bandwidth, left: 0, deadline: 0 });
        let weight = weight.clamp(1, 1024);
        self.accounts.push(Account { weight, virtual_time: self.floor, runnable: false, server });
        self.accounts.len().saturating_sub(1)
    }

    /// Says whether an account wants to run.
    pub fn set_runnable(&mut self, index: usize, runnable: bool, now: Instant) {
        let floor = self.floor;
        if let Some(account) = self.accounts.get_mut(index) {
            if runnable && !account.runnable {
                account.virtual_time = account.virtual_time.max(floor);
                if let Some(server) = &mut account.server {
                    server.wake(now.0);
                }
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
            if let Some(server) = &mut account.server {
                server.left = server.left.saturating_sub(ticks);
            }
        }
        let least = self.accounts.iter().filter(|a| a.runnable).map(|a| a.virtual_time).min();
        if let Some(least) = least {
            self.floor = self.floor.max(least);
        }
    }

    /// Gives the rest of a slice away: `index` spins, and waits for another
    /// one, for `other` if it is known.
    pub fn give_way(&mut self, index: usize, other: Option<usize>) {
        if other.is_none() {
            self.charge(index, self.slice);
        }
        self.favourite = other;
    }

    /// Who runs next: the reservation with budget left whose period ends
    /// first, else the favourite, else the runnable account with the least virtual time.
    pub fn pick(&mut self, now: Instant) -> Option<usize> {
        let mut reserved: Option<(u64, usize)> = None;
        let mut fair: Option<(u64, usize)> = None;
        for (index, account) in self.accounts.iter_mut().enumerate() {
            if !account.runnable {
                continue;
            }
            if let Some(server) = &mut account.server {
                server.renew(now.0);
                if server.left > 0 && reserved.is_none_or(|(first, _)| server.deadline < first) {
                    reserved = Some((server.deadline, index));
                }
            }
            if fair.is_none_or(|(least, _)| account.virtual_time < least) {
                fair = Some((account.virtual_time, index));
            }
        }
        let favourite = self.favourite.filter(|index| self.is_runnable(*index));
        reserved.map(|(_, index)| index).or(favourite).or(fair.map(|(_, index)| index))
    }

    /// Whether an account wants to run.
    pub fn is_runnable(&self, index: usize) -> bool {
        self.accounts.get(index).is_some_and(|account| account.runnable)
    }

    /// Whether another account than `current` is runnable.
    pub fn contended(&self, current: usize) -> bool {
        self.accounts.iter().enumerate().any(|(i, account)| account.runnable && i != current)
    }

    /// When an account that runs from `now` on, beside others that want to, may
    /// have to give way. Ends its time as a favourite.
    pub fn slice_end(&mut self, index: usize, now: Instant) -> Instant {
        self.favourite = None;
        let budget = self
            .accounts
            .get(index)
            .and_then(|account| account.server.as_ref())
            .map(|server| server.left)
            .filter(|left| *left > 0);
        let own = now.0.saturating_add(budget.unwrap_or(self.slice));
        let renewal = self
            .accounts
            .iter()
            .filter(|account| account.runnable)
            .filter_map(|account| account.server.as_ref())
            .map(|server| server.deadline)
            .filter(|deadline| *deadline > now.0)
            .min();
        Instant(renewal.map_or(own, |renewal| renewal.min(own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Instant = Instant(1);

    #[test]
    fn a_sleeper_gets_no_credit_for_its_sleep() {
        let mut queue = RunQueue::new(10);
        let (a, b) = (queue.add(256, None), queue.add(256, None));
        queue.set_runnable(a, true, NOW);
        for _ in 0..1000 {
            queue.charge(a, 10);
        }
        queue.set_runnable(b, true, NOW);
        let mut turns = [0u64; 2];
        for _ in 0..100 {
            let next = queue.pick(NOW).unwrap();
            turns[next] += 1;
            queue.charge(next, 10);
        }
        assert!(turns[0].abs_diff(turns[1]) <= 1, "{turns:?}");
    }

    #[test]
    fn nobody_runs_when_nobody_wants_to() {
        let mut queue = RunQueue::new(10);
        assert_eq!(queue.pick(NOW), None);
        let a = queue.add(1, None);
        assert_eq!(queue.pick(NOW), None);
        queue.set_runnable(a, true, NOW);
        assert_eq!(queue.pick(NOW), Some(a));
        assert!(!queue.contended(a));
    }

    #[test]
    fn promises_stop_before_the_host_cpu_is_full() {
        let mut admission = Admission::default();
        assert!(admission.promise(500, 1000));
        assert!(!admission.promise(1, 2));
        assert!(admission.promise(450, 1000));
        assert!(!admission.promise(1, 1_000_000));
        assert_eq!(admission.promised(), Admission::MOST);
        assert!(!Admission::default().promise(1, 0));
        assert!(!Admission::default().promise(u32::MAX, u32::MAX));
    }

    #[test]
    fn a_spinner_gives_way_to_whom_it_waits_for() {
        let mut queue = RunQueue::new(10);
        let [spinner, other, holder] = [(); 3].map(|()| queue.add(256, None));
        for index in [spinner, other, holder] {
            queue.set_runnable(index, true, NOW);
        }
        queue.charge(holder, 100);
        assert_eq!(queue.pick(NOW), Some(spinner));
        queue.give_way(spinner, Some(holder));
        assert_eq!(queue.pick(NOW), Some(holder));
        queue.slice_end(holder, NOW);
        assert_eq!(queue.pick(NOW), Some(spinner), "once");
        queue.give_way(spinner, None);
        assert_eq!(queue.pick(NOW), Some(other));
    }

    #[test]
    fn a_reservation_that_wakes_goes_first_and_one_that_is_used_up_shares() {
        let mut queue = RunQueue::new(10);
        let busy = queue.add(256, None);
        let bandwidth = Bandwidth { budget: 5, period: 20 };
        let reserved = queue.add(256, Some(bandwidth));
        queue.set_runnable(busy, true, Instant(100));
        assert_eq!(queue.pick(Instant(100)), Some(busy));
        assert_eq!(queue.slice_end(busy, Instant(100)), Instant(110));
        queue.set_runnable(reserved, true, Instant(103));
        assert_eq!(queue.pick(Instant(103)), Some(reserved));
        assert_eq!(queue.slice_end(reserved, Instant(103)), Instant(108));
        queue.charge(reserved, 5);
        assert_eq!(queue.pick(Instant(108)), Some(busy));
        assert_eq!(queue.slice_end(busy, Instant(108)), Instant(118));
        queue.charge(busy, 10);
        assert_eq!(queue.pick(Instant(118)), Some(reserved), "by weight");
        assert_eq!(queue.slice_end(reserved, Instant(118)), Instant(123), "a new period");
        assert_eq!(queue.pick(Instant(123)), Some(reserved), "by right");
    }

    /// One virtual CPU in the simulation below.
    #[derive(Debug, Clone)]
    struct Load {
        bandwidth: Option<Bandwidth>,
        /// Ticks that it computes and then sleeps, again and again.
        computes: u64,
        sleeps: u64,
    }

    fn load() -> impl Strategy<Value = Load> {
        let bandwidth = (1u64..40, 10u64..120).prop_map(|(budget, period)| Bandwidth {
            budget: budget.min(period / 4).max(1),
            period,
        });
        (prop::option::of(bandwidth), 1u64..200, prop_oneof![Just(0u64), 1u64..100])
            .prop_map(|(bandwidth, computes, sleeps)| Load { bandwidth, computes, sleeps })
    }

    proptest! {
        /// Whoever wants to run for a whole period gets its budget in it.
        #[test]
        fn a_reservation_is_never_missed_on_a_feasible_set(
            mut loads in prop::collection::vec(load(), 1..7),
        ) {
            let mut admission = Admission::default();
            for load in &mut loads {
                load.bandwidth = load.bandwidth.filter(|b| {
                    admission.promise(b.budget as u32, b.period as u32)
                });
            }
            let mut queue = RunQueue::new(10);
            for load in &loads {
                queue.add(256, load.bandwidth);
            }
            // What each has left to compute, or when it wakes.
            let mut left: Vec<u64> = loads.iter().map(|load| load.computes).collect();
            let mut wakes = vec![0u64; loads.len()];
            // Since when each wants to run, and what it got in its periods since.
            let mut wanted: Vec<Option<(u64, u64)>> = vec![None; loads.len()];
            let mut now = 0;
            while now < 4000 {
                for index in 0..loads.len() {
                    let runnable = wakes[index] <= now;
                    queue.set_runnable(index, runnable, Instant(now));
                    wanted[index] = runnable.then(|| wanted[index].unwrap_or((now, 0)));
                }
                let next_wake = wakes.iter().filter(|wake| **wake > now).min().copied();
                let end = match queue.pick(Instant(now)) {
                    None => next_wake.unwrap(),
                    Some(index) => {
                        let end = queue.slice_end(index, Instant(now)).0.min(now + left[index]);
                        let end = next_wake.map_or(end, |wake| wake.min(end));
                        queue.charge(index, end - now);
                        left[index] -= end - now;
                        if let Some((_, got)) = &mut wanted[index] {
                            *got += end - now;
                        }
                        end
                    }
                };
                now = end;
                for index in 0..loads.len() {
                    if let (Some((since, got)), Some(b)) = (wanted[index], loads[index].bandwidth) {
                        // The first period may have begun with the last wake-up but one.
                        let periods = ((now - since) / b.period).saturating_sub(1);
                        prop_assert!(
                            got >= periods * b.budget,
                            "{index} got {got} in {periods} periods of {b:?} at {now}"
                        );
                    }
                    if left[index] == 0 {
                        left[index] = loads[index].computes;
                        wakes[index] = now + loads[index].sleeps;
                        if loads[index].sleeps > 0 {
                            wanted[index] = None;
                        }
                    }
                }
            }
        }

        #[test]
        fn shares_follow_weights_within_two_percent(weights in prop::collection::vec(16u32..1024, 1..6)) {
            let mut queue = RunQueue::new(10);
            for weight in &weights {
                let index = queue.add(*weight, None);
                queue.set_runnable(index, true, NOW);
            }
            let mut received = vec![0u64; weights.len()];
            const TURNS: u64 = 40_000;
            for _ in 0..TURNS {
                let next = queue.pick(NOW).unwrap();
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
