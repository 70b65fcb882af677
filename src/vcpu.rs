//! The part of a virtual CPU that everybody may see: power state, wake-up
//! flag and counters. Its registers belong to the host CPU that runs it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::mutex::TicketMutex;

use crate::address::{CpuId, GuestAddress, Instant, VcpuId};
use crate::exit::PowerAnswer;
use crate::statistics::ExitCounters;

/// Power state of a virtual CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Does not run.
    Off,
    /// Will start at this address as soon as its host CPU gets to it.
    OnPending {
        /// Address of the first instruction.
        entry: GuestAddress,
        /// Value for the first argument register.
        context: u64,
    },
    /// Runs or is blocked.
    On,
}

/// One virtual CPU as seen by others.
#[derive(Debug)]
pub struct VcpuHandle {
    id: VcpuId,
    home: CpuId,
    power: TicketMutex<Power>,
    woken: AtomicBool,
    /// Exits by kind.
    pub exits: ExitCounters,
    /// Ticks for which it had a host CPU, up to when it got the present one.
    ran: AtomicU64,
    /// When it got the host CPU on which it is; 0 when it has none.
    since: AtomicU64,
}

impl VcpuHandle {
    /// A virtual CPU that is off and lives on `home`.
    pub fn new(id: VcpuId, home: CpuId) -> Self {
        VcpuHandle {
            id,
            home,
            power: TicketMutex::new(Power::Off),
            woken: AtomicBool::new(false),
            exits: ExitCounters::default(),
            ran: AtomicU64::new(0),
            since: AtomicU64::new(0),
        }
    }

    /// Ticks for which it had a host CPU, exits included, until `now`.
    pub fn time(&self, now: Instant) -> u64 {
        let since = self.since.load(Ordering::Relaxed);
        let present = if since == 0 { 0 } else { now.0.saturating_sub(since) };
        self.ran.load(Ordering::Relaxed).saturating_add(present)
    }

    /// It gets its host CPU. Only that CPU calls this.
    pub(crate) fn begin(&self, now: Instant) {
        self.since.store(now.0.max(1), Ordering::Relaxed);
    }

    /// It has to give its host CPU away, or idles.
    pub(crate) fn end(&self, now: Instant) {
        let since = self.since.swap(0, Ordering::Relaxed);
        if since != 0 {
            let ran = self.ran.load(Ordering::Relaxed);
            let more = now.0.saturating_sub(since);
            self.ran.store(ran.saturating_add(more), Ordering::Relaxed);
        }
    }

    /// Its number within its virtual machine.
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// The host CPU that runs it.
    pub fn home(&self) -> CpuId {
        self.home
    }

    /// Its power state at this moment.
    pub fn power(&self) -> Power {
        *self.power.lock()
    }

    /// Asks that it start; the caller kicks [`VcpuHandle::home`] on success.
    pub fn turn_on(&self, entry: GuestAddress, context: u64) -> PowerAnswer {
        let mut power = self.power.lock();
        match *power {
            Power::Off => {
                *power = Power::OnPending { entry, context };
                PowerAnswer::Success
            }
            Power::OnPending { .. } => PowerAnswer::OnPending,
            Power::On => PowerAnswer::AlreadyOn,
        }
    }

    /// Turns it off, whatever it was.
    pub fn turn_off(&self) {
        *self.power.lock() = Power::Off;
    }

    /// Takes a pending start; the virtual CPU is on from then.
    pub(crate) fn take_start(&self) -> Option<(GuestAddress, u64)> {
        let mut power = self.power.lock();
        match *power {
            Power::OnPending { entry, context } => {
                *power = Power::On;
                Some((entry, context))
            }
            Power::Off | Power::On => None,
        }
    }

    /// Says that there is something new for this virtual CPU. True when its
    /// home CPU must be kicked, false when an earlier kick is still on its way.
    #[must_use]
    #[inline]
    pub fn wake(&self) -> bool {
        !self.woken.swap(true, Ordering::AcqRel)
    }

    /// Takes the flag for somebody who looks anyway, under the lock that wakers hold for their change and release before
    /// they wake. To be called before that lock is released, best before it is taken. That makes a plain store enough: a
    /// waker whose change is not seen gets the lock later, sees the flag cleared, and kicks.
    #[inline]
    pub fn clear_wake(&self) {
        self.woken.store(false, Ordering::Relaxed);
    }

    /// Takes the flag that [`VcpuHandle::wake`] set. To be called before the
    /// state is read that the waker changed.
    #[inline]
    pub fn take_wake(&self) -> bool {
        // The plain load keeps the usual case free of an exclusive access.
        self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_taken_once_and_others_learn_of_it() {
        let vcpu = VcpuHandle::new(VcpuId(1), CpuId(0));
        let entry = GuestAddress(0x1000);
        assert_eq!(vcpu.take_start(), None);
        assert_eq!(vcpu.turn_on(entry, 7), PowerAnswer::Success);
        assert_eq!(vcpu.turn_on(GuestAddress(0), 8), PowerAnswer::OnPending);
        assert_eq!(vcpu.take_start(), Some((entry, 7)));
        assert_eq!(vcpu.take_start(), None);
        assert_eq!(vcpu.turn_on(entry, 7), PowerAnswer::AlreadyOn);
        vcpu.turn_off();
        assert_eq!(vcpu.turn_on(entry, 9), PowerAnswer::Success);
    }

    #[test]
    fn only_the_first_of_several_wakers_kicks() {
        let vcpu = VcpuHandle::new(VcpuId(0), CpuId(0));
        assert!(!vcpu.take_wake());
        assert!(vcpu.wake());
        assert!(!vcpu.wake());
        assert!(vcpu.take_wake());
        assert!(!vcpu.take_wake());
        assert!(vcpu.wake());
        vcpu.clear_wake();
        assert!(!vcpu.take_wake());
        assert!(vcpu.wake());
    }

    #[test]
    fn time_counts_while_there_is_a_host_cpu() {
        let vcpu = VcpuHandle::new(VcpuId(0), CpuId(0));
        assert_eq!(vcpu.time(Instant(50)), 0);
        vcpu.begin(Instant(100));
        assert_eq!(vcpu.time(Instant(130)), 30);
        vcpu.end(Instant(140));
        vcpu.end(Instant(200));
        assert_eq!(vcpu.time(Instant(300)), 40);
    }
}
