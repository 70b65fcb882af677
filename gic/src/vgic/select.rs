//! Choosing which interrupts get the list registers when there are too few.

use super::slots::SLOTS;

/// An interrupt that wants a list register. The smaller, the more urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// Has to wait for all that are not put off, whatever its priority.
    pub(super) put_off: bool,
    /// If it is active, the one at which the guest has acknowledged it.
    pub(super) priority: u8,
    /// Not active: it is in no hurry beside an active one of its priority, which it can't preempt.
    pub(super) pending: bool,
    pub(super) bank: u8,
    pub(super) lane: u8,
    pub(super) source: u8,
}

/// The most urgent of the candidates so far.
#[derive(Debug)]
pub(super) struct Selection {
    best: [Candidate; SLOTS],
    length: usize,
    room: usize,
    refused: bool,
    evicted: bool,
}

impl Selection {
    /// For up to `room` candidates.
    pub(super) fn new(room: usize) -> Self {
        Self {
            best: [Candidate::default(); SLOTS],
            length: 0,
            room: room.min(SLOTS),
            refused: false,
            evicted: false,
        }
    }

    /// Takes the candidate in if it is among the most urgent.
    pub(super) fn offer(&mut self, candidate: Candidate) {
        let position = self.chosen().partition_point(|other| *other < candidate);
        if self.length < self.room {
            self.length = self.length.saturating_add(1);
        } else {
            let least = self.chosen().last().copied().unwrap_or_default().max(candidate);
            self.refused = true;
            self.evicted |= !least.pending;
        }
        let length = self.length;
        if let Some(tail) = self.best.get_mut(position..length)
            && let Some(first) = {
                tail.rotate_right(tail.len().min(1));
                tail.first_mut()
            }
        {
            *first = candidate;
        }
    }

    /// The most urgent, in order.
    pub(super) fn chosen(&self) -> &[Candidate] {
        self.best.get(..self.length).unwrap_or_default()
    }

    /// Whether there were more than fit.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Whether an active one is among those that did not fit.
    pub(super) fn evicted(&self) -> bool {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_most_urgent_are_chosen(room in 1usize..=16, keys: Vec<(bool, u8, bool, u8)>) {
            let mut all: Vec<_> = keys
                .iter()
                .enumerate()
                .map(|(n, &(put_off, priority, pending, bank))| Candidate {
                    put_off,
                    priority,
                    pending,
                    bank,
                    lane: n as u8,
                    source: 0,
                })
                .collect();
            let mut selection = Selection::new(room);
            for candidate in &all {
                selection.offer(*candidate);
            }
            all.sort();
            prop_assert_eq!(selection.refused(), all.len() > room);
            let evicted = all.iter().skip(room).any(|candidate| !candidate.pending);
            prop_assert_eq!(selection.evicted(), evicted);
            all.truncate(room);
            prop_assert_eq!(selection.chosen(), &all[..]);
        }
    }
}
