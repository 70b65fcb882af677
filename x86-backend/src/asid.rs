//! Address-space identifiers of one processor: tags of TLB entries.

/// An identifier, valid on the processor and in the generation that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asid {
    number: u32,
    generation: u64,
}

impl Asid {
    /// The tag.
    pub fn number(self) -> u32 {
        self.number
    }
}

/// Hands out identifiers 1, 2, ... and starts anew when they are used up.
#[derive(Debug, Clone, Copy)]
pub struct AsidPool {
    next: u32,
    count: u32,
    generation: u64,
}

impl AsidPool {
    /// A pool of identifiers below `count`; 0 is the host's.
    pub const fn new(count: u32) -> Self {
        AsidPool { next: 1, count, generation: 0 }
    }

    /// The identifier for a virtual CPU that held `held`, and whether what
    /// the TLB has under it must be dropped.
    pub fn assign(&mut self, held: Option<Asid>) -> (Asid, bool) {
        if let Some(asid) = held.filter(|asid| asid.generation == self.generation) {
            return (asid, false);
        }
        if self.next >= self.count {
            self.next = 1;
            self.generation = self.generation.wrapping_add(1);
        }
        let asid = Asid { number: self.next, generation: self.generation };
        self.next = self.next.saturating_add(1);
        (asid, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_virtual_cpu_keeps_its_identifier_until_they_run_out() {
        let mut pool = AsidPool::new(3);
        let (first, fresh) = pool.assign(None);
        assert!((first.number(), fresh) == (1, true));
        assert_eq!(pool.assign(Some(first)), (first, false));
        let (second, _) = pool.assign(None);
        assert_eq!(second.number(), 2);
        let (third, fresh) = pool.assign(None);
        assert!((third.number(), fresh) == (1, true));
        // The new generation has taken the first one's number.
        let (again, fresh) = pool.assign(Some(first));
        assert!((again.number(), fresh) == (2, true));
    }

    proptest! {
        #[test]
        fn nobody_meets_anothers_translations(
            count in 0u32..6, turns in proptest::collection::vec(0usize..5, 1..60),
        ) {
            let mut pool = AsidPool::new(count);
            let mut held = [None; 5];
            // Whose translations are in the TLB under each number.
            let mut owner = std::collections::BTreeMap::new();
            for turn in turns {
                let (asid, flush) = pool.assign(held[turn]);
                prop_assert!(asid.number() != 0);
                if flush {
                    owner.insert(asid.number(), turn);
                }
                prop_assert_eq!(owner.get(&asid.number()), Some(&turn));
                held[turn] = Some(asid);
            }
        }
    }
}
