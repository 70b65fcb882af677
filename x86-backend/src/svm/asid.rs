//! Address-space identifiers of one processor: tags of TLB entries.

/// An identifier, valid on the processor and in the generation that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asid {
    number: u32,
    generation: u64,
}

impl Asid {
    pub(super) fn number(self) -> u32 {
        self.number
    }
}

/// Hands out identifiers 1, 2, ... and starts anew when they are used up.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsidPool {
    next: u32,
    count: u32,
    generation: u64,
}

impl AsidPool {
    /// A pool of identifiers below `count`; 0 is the host's.
    pub(super) const fn new(count: u32) -> Self {
        AsidPool { next: 1, count, generation: 0 }
    }

    /// The identifier for a virtual CPU that held `held`, and whether what
    /// the TLB has under it must be dropped.
    pub(super) fn assign(&mut self, held: Option<Asid>) -> (Asid, bool) {
        if let Some(asid) = held.filter(|asid| asid.generation == self.generation) {
            return (asid, false);
        }
        if self.next >= self.count {
            self.next = 1;
            self.generation += 1;
        }
        let asid = Asid { number: self.next, generation: self.generation };
        self.next += 1;
        (asid, true)
    }
}
