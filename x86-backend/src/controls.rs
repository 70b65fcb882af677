//! Which VT-x controls may and must be set (SDM appendix A.3 to A.5): pure
//! arithmetic on the capability MSRs.

/// A capability MSR: bits that must be one in its low half, bits that may be
/// one in its high half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability(pub u64);

impl Capability {
    /// Bits that may be one.
    pub const fn allowed(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bits that must be one.
    pub const fn forced(self) -> u32 {
        self.0 as u32
    }

    /// A control word with all of `required`, and what there is of `optional`.
    ///
    /// # Errors
    /// The lowest bit of `required` that the processor does not have.
    pub const fn choose(self, required: u32, optional: u32) -> Result<u32, u32> {
        let missing = required & !self.allowed();
        if missing != 0 {
            return Err(missing.trailing_zeros());
        }
        Ok(self.forced() | required | (optional & self.allowed()))
    }
}

/// The VMX-preemption timer (SDM 26.5.1): a counter of the processor that ends a guest's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreemptionTimer {
    /// It counts down each time that this bit of the time-stamp counter changes.
    shift: u32,
}

impl PreemptionTimer {
    /// The timer of a processor with this value of IA32_VMX_MISC.
    pub const fn new(misc: u64) -> Self {
        PreemptionTimer { shift: (misc & 0x1f) as u32 }
    }

    /// What to count down from at time `now`, so that it ends at `deadline` (both in ticks of the
    /// time-stamp counter) or at most one of its steps later; earlier only if `deadline` is too
    /// far.
    #[inline]
    pub const fn count(self, now: u64, deadline: u64) -> u32 {
        let steps = (deadline >> self.shift).saturating_sub(now >> self.shift);
        let part = deadline & !(u64::MAX << self.shift) != 0;
        let steps = if part && deadline > now { steps.saturating_add(1) } else { steps };
        if steps > u32::MAX as u64 { u32::MAX } else { steps as u32 }
    }
}

/// The bits of CR0 or CR4 that VMX operation fixes (SDM A.7, A.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedBits {
    /// Bits that are one here must be one.
    pub ones: u64,
    /// Bits that are zero here must be zero.
    pub zeros: u64,
}

impl FixedBits {
    /// `value` with the fixed bits as they must be.
    pub const fn apply(self, value: u64) -> u64 {
        (value | self.ones) & self.zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_control_is_named_and_an_optional_one_left_out() {
        // IA32_VMX_TRUE_PROCBASED_CTLS of a Skylake as an emulator shows it.
        let capability = Capability(0xf7f9_fffe_0400_6172);
        assert_eq!(capability.choose(1 << 7 | 1 << 28, 0), Ok(0x1400_61f2));
        assert_eq!(capability.choose(1 << 27 | 1 << 28, 0), Err(27));
        assert_eq!(capability.choose(1 << 28, 1 << 27), Ok(0x1400_6172));
    }

    #[test]
    fn a_deadline_that_is_past_or_far_counts_from_nothing_or_all() {
        let timer = PreemptionTimer::new(5);
        assert_eq!(timer.count(1000, 999), 0);
        assert_eq!(timer.count(1024, 1024), 0);
        assert_eq!(timer.count(1024, 1025), 1);
        assert_eq!(timer.count(1024, 1056), 1);
        assert_eq!(timer.count(0, u64::MAX), u32::MAX);
        assert_eq!(PreemptionTimer::new(0).count(7, 9), 2);
    }

    proptest! {
        #[test]
        fn a_control_word_is_one_that_the_processor_accepts(
            forced in any::<u32>(), also in any::<u32>(), required in any::<u32>(), optional in any::<u32>(),
        ) {
            let allowed = forced | also;
            let capability = Capability(u64::from(allowed) << 32 | u64::from(forced));
            match capability.choose(required, optional) {
                Ok(word) => {
                    prop_assert_eq!(word & !allowed, 0);
                    prop_assert_eq!(word & forced, forced);
                    prop_assert_eq!(word & required, required);
                }
                Err(bit) => prop_assert!(required >> bit & 1 == 1 && allowed >> bit & 1 == 0),
            }
        }

        #[test]
        fn the_preemption_timer_ends_at_the_deadline_or_a_step_later(
            shift in 0u64..32, now in 0..1u64 << 62, wait in 0..1u64 << 31,
        ) {
            let timer = PreemptionTimer::new(0x6004_0000 | shift);
            let deadline = now + wait;
            // What the processor does: a step is a change of the bit.
            let ends = ((now >> shift) + u64::from(timer.count(now, deadline))) << shift;
            prop_assert!(ends.max(now) >= deadline);
            prop_assert!(ends <= deadline + (1 << shift));
        }

        #[test]
        fn fixed_bits_are_fixed(ones in any::<u64>(), more in any::<u64>(), value in any::<u64>()) {
            let fixed = FixedBits { ones, zeros: ones | more };
            let applied = fixed.apply(value);
            prop_assert_eq!(applied & ones, ones);
            prop_assert_eq!(applied & !fixed.zeros, 0);
            prop_assert_eq!((applied ^ value) & !ones & fixed.zeros, 0);
        }
    }
}
