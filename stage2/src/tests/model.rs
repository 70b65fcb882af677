//! What the operations mean, without tables: a map from extents to leaves.

use std::collections::BTreeMap;

use crate::{IntermediateAddress, Leaf, PhysicalAddress};

/// An extent as a guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The leaf at `start`.
    pub(super) leaf: Leaf,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    extents: BTreeMap<u64, (u64, Leaf)>,
}

pub(super) fn advance(leaf: Leaf, bytes: u64) -> Leaf {
    Leaf { address: PhysicalAddress(leaf.address.0 + bytes), ..leaf }
}

/// Joins neighbours that say the same.
pub(super) fn normalise(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = vec![];
    for next in extents {
        match joined.last_mut() {
            Some(last)
                if last.end == next.start
                    && advance(last.leaf, last.end - last.start) == next.leaf =>
            {
                last.end = next.end;
            }
            _ => joined.push(next),
        }
    }
    joined
}

impl Model {
    /// Makes extents begin and end at `at`.
    fn cut(&mut self, at: u64) {
        if let Some((&start, &(end, leaf))) = self.extents.range(..at).next_back()
            && at < end
        {
            self.extents.insert(start, (at, leaf));
            self.extents.insert(at, (end, advance(leaf, at - start)));
        }
    }

    pub(super) fn map(&mut self, start: u64, bytes: u64, leaf: Leaf) -> bool {
        let overlap =
            bytes > 0 && self.extents().iter().any(|e| e.start < start + bytes && start < e.end);
        if !overlap && bytes > 0 {
            self.extents.insert(start, (start + bytes, leaf));
        }
        !overlap
    }

    pub(super) fn unmap(&mut self, start: u64, bytes: u64) {
        self.cut(start);
        self.cut(start + bytes);
        self.extents.retain(|&at, _| at < start || start + bytes <= at);
    }

    pub(super) fn update(&mut self, start: u64, bytes: u64, change: impl Fn(Leaf) -> Leaf) {
        self.cut(start);
        self.cut(start + bytes);
        for (_, (_, leaf)) in self.extents.range_mut(start..start + bytes) {
            *leaf = change(*leaf);
        }
    }

    pub(super) fn find(&self, at: u64) -> Option<Leaf> {
        let (&start, &(end, leaf)) = self.extents.range(..=at).next_back()?;
        (at < end).then(|| advance(leaf, at - start))
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        normalise(self.extents.iter().map(|(&start, &(end, leaf))| Extent { start, end, leaf }))
    }

    pub(super) fn dirty(&self, start: u64, bytes: u64) -> Vec<(u64, u64)> {
        let mut model = self.clone();
        model.cut(start);
        model.cut(start + bytes);
        let dirty = model
            .extents
            .range(start..start + bytes)
            .filter(|(_, (_, leaf))| leaf.logged && leaf.dirty)
            .map(|(&start, &(end, _))| (IntermediateAddress(start), end - start));
        join_runs(dirty)
    }
}

/// Joins runs that touch: first address and end of each.
pub(super) fn join_runs(
    runs: impl IntoIterator<Item = (IntermediateAddress, u64)>,
) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = vec![];
    for (start, bytes) in runs {
        match joined.last_mut() {
            Some(last) if last.1 == start.0 => last.1 += bytes,
            _ => joined.push((start.0, start.0 + bytes)),
        }
    }
    joined
}
