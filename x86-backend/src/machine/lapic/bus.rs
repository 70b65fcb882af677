//! The interrupt bus that joins the local APICs of one virtual machine.

use super::mailbox::Mailbox;
use super::message::{Delivery, Destination, Message, MessageSink};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Makes a virtual CPU look at its mailbox: ends its idling, or forces an exit.
pub trait Wake: Send + Sync {
    /// Wakes virtual CPU number `vcpu`.
    fn wake(&self, vcpu: usize);
}

/// Routes messages to mailboxes; the virtual CPU number is the position.
pub struct ApicBus<W> {
    mailboxes: Vec<Arc<Mailbox>>,
    wake: W,
    /// Where the search for a lowest-priority target starts, so that equals
    /// take turns.
    turn: AtomicUsize,
}

impl<W: Wake> ApicBus<W> {
    /// A bus with the mailboxes of virtual CPUs 0, 1, ...
    pub fn new(mailboxes: Vec<Arc<Mailbox>>, wake: W) -> Self {
        ApicBus { mailboxes, wake, turn: AtomicUsize::new(0) }
    }

    fn post(&self, vcpu: usize, mailbox: &Mailbox, message: &Message) -> bool {
        let taken = mailbox.post(message);
        if taken {
            self.wake.wake(vcpu);
        }
        taken
    }

    /// Numbers of the virtual CPUs that a message to `destination` concerns.
    pub fn targets(&self, destination: Destination) -> impl Iterator<Item = usize> {
        self.matching(destination).map(|(vcpu, _)| vcpu)
    }

    fn matching(&self, destination: Destination) -> impl Iterator<Item = (usize, &Mailbox)> {
        self.mailboxes
            .iter()
            .enumerate()
            .map(|(vcpu, mailbox)| (vcpu, &**mailbox))
            .filter(move |(_, mailbox)| mailbox.matches(destination))
    }

    fn deliver_to_lowest_priority(&self, message: &Message) -> bool {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.mailboxes.len();
        let target = self
            .matching(message.destination)
            .filter(|(_, mailbox)| mailbox.routing().enabled)
            .min_by_key(|(vcpu, mailbox)| {
                let distance = vcpu.wrapping_sub(turn).checked_rem_euclid(count);
                (mailbox.routing().priority >> 4, distance)
            });
        target.is_some_and(|(vcpu, mailbox)| self.post(vcpu, mailbox, message))
    }
}

impl<W: Wake> MessageSink for ApicBus<W> {
    fn deliver(&self, message: &Message) -> bool {
        if message.delivery == Delivery::LowestPriority {
            return self.deliver_to_lowest_priority(message);
        }
        // The usual case: a processor whose identifier is its number.
        if let Destination::Physical(id) = message.destination
            && let Some((vcpu, mailbox)) =
                usize::try_from(id).ok().and_then(|n| Some((n, self.mailboxes.get(n)?)))
            && mailbox.id() == id
        {
            return mailbox.matches(message.destination) && self.post(vcpu, mailbox, message);
        }
        self.matching(message.destination)
            .fold(false, |taken, (vcpu, mailbox)| self.post(vcpu, mailbox, message) || taken)
    }
}
