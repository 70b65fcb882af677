//! Counters of exits by kind, under the same names on every architecture.

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
}
