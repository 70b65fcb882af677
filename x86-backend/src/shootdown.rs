//! Makes the processors that run a guest forget what they have cached of its second-stage tables.
//!
//! Nobody can reach into another processor's TLB. Each virtual CPU therefore says with which state of
//! the tables it goes into the guest, and drops what it has of an older one. Whoever has changed the
//! tables waits until nobody is in the guest with an older state.

use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

/// A virtual CPU is not in the guest.
const OUTSIDE: u64 = 0;

/// The state of one guest's tables, and who uses which.
#[derive(Debug)]
pub struct Shootdown {
    /// Number of changes, from 1 on.
    state: AtomicU64,
    /// The state with which each virtual CPU is in the guest, or [`OUTSIDE`].
    inside: Vec<AtomicU64>,
}

impl Shootdown {
    /// For a guest with so many virtual CPUs.
    pub fn new(vcpus: usize) -> Self {
        let inside = (0..vcpus).map(|_| AtomicU64::new(OUTSIDE)).collect();
        Shootdown { state: AtomicU64::new(1), inside }
    }

    /// Virtual CPU `vcpu` goes into the guest. Gives the state of the tables: what is cached of others must
    /// be dropped before.
    pub fn enter(&self, vcpu: usize) -> u64 {
        let mut state = self.state.load(Ordering::SeqCst);
        let Some(inside) = self.inside.get(vcpu) else { return state };
        loop {
            inside.store(state, Ordering::SeqCst);
            // Whoever changes the tables after this sees the store.
            let now = self.state.load(Ordering::SeqCst);
            if now == state {
                return state;
            }
            state = now;
        }
    }

    /// It has come back.
    pub fn leave(&self, vcpu: usize) {
        if let Some(inside) = self.inside.get(vcpu) {
            inside.store(OUTSIDE, Ordering::Release);
        }
    }

    /// The tables have changed. Returns when nobody can use what they said before. `kick` makes a
    /// virtual CPU leave its guest, soon.
    pub fn changed(&self, kick: impl Fn(usize)) {
        let new = self.state.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        for (vcpu, inside) in self.inside.iter().enumerate() {
            let is_old = || (OUTSIDE + 1..new).contains(&inside.load(Ordering::SeqCst));
            if is_old() {
                kick(vcpu);
            }
            while is_old() {
                spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn only_those_inside_with_an_older_state_are_kicked() {
        let shootdown = Shootdown::new(3);
        assert_eq!(shootdown.enter(0), 1);
        assert_eq!(shootdown.enter(1), 1);
        shootdown.leave(1);
        let kicked = Mutex::new(vec![]);
        shootdown.changed(|vcpu| {
            kicked.lock().unwrap().push(vcpu);
            shootdown.leave(vcpu);
        });
        assert_eq!(*kicked.lock().unwrap(), [0]);
        assert_eq!(shootdown.enter(0), 2);
        shootdown.leave(0);
        shootdown.changed(|_| panic!("nobody is inside"));
        assert_eq!(shootdown.enter(7), 3, "not one of the guest's");
    }

    /// Threads read through a cached pointer while another moves what it points to: nobody may
    /// ever read the old place after the change has returned.
    #[test]
    fn nobody_uses_what_the_tables_said_before() {
        const PLACES: usize = 64;
        let shootdown = Shootdown::new(2);
        let table = AtomicU64::new(0);
        let valid: Vec<AtomicBool> = (0..PLACES).map(|place| AtomicBool::new(place == 0)).collect();
        let (kicked, end) =
            ([AtomicBool::new(false), AtomicBool::new(false)], AtomicBool::new(false));
        thread::scope(|scope| {
            for vcpu in 0..2 {
                let (shootdown, table, valid, kicked, end) =
                    (&shootdown, &table, &valid, &kicked, &end);
                scope.spawn(move || {
                    let (mut seen, mut cached) = (0, 0);
                    while !end.load(Ordering::SeqCst) {
                        let state = shootdown.enter(vcpu);
                        if state != seen {
                            cached = table.load(Ordering::SeqCst);
                            seen = state;
                        }
                        for _ in 0..50 {
                            assert!(valid[cached as usize].load(Ordering::SeqCst), "a stale entry");
                            if kicked[vcpu].swap(false, Ordering::SeqCst) {
                                break;
                            }
                        }
                        shootdown.leave(vcpu);
                    }
                });
            }
            for place in 1..PLACES as u64 {
                valid[place as usize].store(true, Ordering::SeqCst);
                table.store(place, Ordering::SeqCst);
                shootdown.changed(|vcpu| kicked[vcpu].store(true, Ordering::SeqCst));
                valid[place as usize - 1].store(false, Ordering::SeqCst);
            }
            end.store(true, Ordering::SeqCst);
        });
    }
}
