//! Counters of exits by kind, under the same names on every architecture.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Kinds of exits, those included that a backend resolves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// Access to a device outside the backend.
    Io,
    /// Access to the interrupt controller's memory-mapped registers.
    InterruptController,
    /// Trapped system register, MSR or CPUID.
    Register,
    /// Hypercall or power request.
    Hypercall,
    /// Second-stage fault.
    MemoryFault,
    /// Idle instruction.
    Idle,
    /// Spin hint.
    SpinHint,
    /// Interrupt of the host.
    HostInterrupt,
    /// Exception or event given back to the guest.
    Injected,
    /// Anything else.
    Other,
}

impl ExitKind {
    /// Every kind, in the order of reports.
    pub const ALL: [ExitKind; 10] = [
        ExitKind::Io,
        ExitKind::InterruptController,
        ExitKind::Register,
        ExitKind::Hypercall,
        ExitKind::MemoryFault,
        ExitKind::Idle,
        ExitKind::SpinHint,
        ExitKind::HostInterrupt,
        ExitKind::Injected,
        ExitKind::Other,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            ExitKind::Io => "io",
            ExitKind::InterruptController => "interrupt-controller",
            ExitKind::Register => "register",
            ExitKind::Hypercall => "hypercall",
            ExitKind::MemoryFault => "memory-fault",
            ExitKind::Idle => "idle",
            ExitKind::SpinHint => "spin-hint",
            ExitKind::HostInterrupt => "host-interrupt",
            ExitKind::Injected => "injected",
            ExitKind::Other => "other",
        }
    }
}

/// Exits of one virtual CPU by kind. Only the host CPU that owns the virtual
/// CPU counts, so that counting needs no atomic read-modify-write.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; ExitKind::ALL.len()]);

impl ExitCounters {
    /// Counts one exit.
    #[inline]
    pub fn count(&self, kind: ExitKind) {
        if let Some(counter) = self.0.get(kind as usize) {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// How often `kind` was counted.
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.0.get(kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// The exits of several virtual CPUs together, for a line of the log.
#[derive(Debug)]
pub struct Total<I>(pub I);

impl<'c, I: Iterator<Item = &'c ExitCounters> + Clone> fmt::Display for Total<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for kind in ExitKind::ALL {
            let sum = self.0.clone().fold(0u64, |sum, exits| sum.wrapping_add(exits.get(kind)));
            if sum > 0 {
                write!(f, "{separator}{} {sum}", kind.name())?;
                separator = ", ";
            }
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_counter_and_name() {
        for (place, kind) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            let counters = ExitCounters::default();
            counters.count(kind);
            for other in ExitKind::ALL {
                assert_eq!(counters.get(other), u64::from(other == kind));
                assert_eq!(other.name() == kind.name(), other == kind);
            }
        }
    }

    #[test]
    fn a_total_names_only_what_happened() {
        let (first, second) = (ExitCounters::default(), ExitCounters::default());
        assert_eq!(alloc::format!("{}", Total([&first].into_iter())), "none");
        first.count(ExitKind::Io);
        second.count(ExitKind::Io);
        second.count(ExitKind::Idle);
        let total = alloc::format!("{}", Total([&first, &second].into_iter()));
        assert_eq!(total, "io 2, idle 1");
    }
}
