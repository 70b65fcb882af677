//! A CPU's list registers and virtual CPU interface, as the architecture describes them.

use std::collections::BTreeSet;

use crate::{IntId, ListRegister, ListRegisters, State};

/// The priority at which nothing runs.
const IDLE: u8 = 0xff;

pub(super) struct FakeCpu {
    pub(super) registers: Vec<ListRegister>,
    pub(super) underflow: bool,
    /// The guest deactivates apart from dropping the priority (`EOImode` 1).
    pub(super) split: bool,
    /// Physical interrupts that are active.
    pub(super) physical: BTreeSet<u32>,
    /// Priorities of what the guest has acknowledged and not ended.
    running: Vec<u8>,
    /// Deactivations that found no list register (`ICH_HCR_EL2.EOIcount`).
    pub(super) missed: u32,
    /// Those cause maintenance (`ICH_HCR_EL2.LRENPIE`).
    pub(super) end_outside_maintenance: bool,
    pub(super) reads: u32,
    pub(super) writes: u32,
}

impl FakeCpu {
    pub(super) fn new(count: usize) -> Self {
        Self {
            registers: vec![ListRegister::INVALID; count],
            underflow: false,
            split: false,
            physical: BTreeSet::new(),
            running: Vec::new(),
            missed: 0,
            end_outside_maintenance: false,
            reads: 0,
            writes: 0,
        }
    }

    pub(super) fn running_priority(&self) -> u8 {
        self.running.last().copied().unwrap_or(IDLE)
    }

    /// The list register that would be acknowledged next.
    pub(super) fn best(&self) -> Option<&ListRegister> {
        self.registers
            .iter()
            .filter(|register| register.state == State { pending: true, active: false })
            .filter(|register| register.priority < self.running_priority())
            .min_by_key(|register| register.priority)
    }

    /// The guest reads its IAR.
    pub(super) fn acknowledge(&mut self) -> Option<(IntId, u8)> {
        let best = *self.best()?;
        let register = self.registers.iter_mut().find(|register| **register == best)?;
        register.state = State { pending: false, active: true };
        self.running.push(best.priority);
        Some((best.intid, best.source))
    }

    /// The guest drops its priority.
    pub(super) fn priority_drop(&mut self) {
        self.running.pop();
    }

    /// The guest deactivates an interrupt.
    pub(super) fn deactivate_virtual(&mut self, intid: IntId, source: u8) {
        let found = self.registers.iter_mut().find(|register| {
            register.state.active && register.intid == intid && register.source == source
        });
        let Some(register) = found else {
            self.missed += 1;
            return;
        };
        register.state.active = false;
        if let Some(physical) = register.physical {
            self.physical.remove(&physical);
        }
    }

    /// Whether the maintenance interrupt is asserted.
    pub(super) fn maintenance(&mut self) -> bool {
        let valid = self.registers.iter().filter(|register| !register.state.is_invalid()).count();
        self.ended() != 0
            || (self.underflow && valid <= 1)
            || (self.end_outside_maintenance && self.missed != 0)
    }

    pub(super) fn used(&self) -> Vec<u32> {
        let mut used: Vec<_> =
            self.registers.iter().filter(|register| !register.state.is_invalid()).collect();
        used.sort_by_key(|register| register.intid);
        used.iter().map(|register| register.intid.get()).collect()
    }

    pub(super) fn holding(&self, intid: u32) -> Option<&ListRegister> {
        self.registers
            .iter()
            .find(|register| !register.state.is_invalid() && register.intid.get() == intid)
    }

    fn select(&self, choose: impl Fn(&ListRegister) -> bool) -> u32 {
        self.registers
            .iter()
            .enumerate()
            .filter(|(_, register)| choose(register))
            .fold(0, |mask, (n, _)| mask | 1 << n)
    }

    fn check(&self) {
        for (n, register) in self.registers.iter().enumerate() {
            let state = register.state;
            assert!(
                !(register.physical.is_some() && state.pending && state.active),
                "LR{n}: HW interrupts must not be pending and active"
            );
            for other in &self.registers[..n] {
                assert!(
                    state.is_invalid() || other.state.is_invalid() || register.intid != other.intid,
                    "{:?} is in two list registers: UNPREDICTABLE (IHI 0048 5.3.8, IHI 0069 12.4.6)",
                    register.intid
                );
            }
        }
    }
}

impl ListRegisters for FakeCpu {
    fn count(&self) -> usize {
        self.registers.len()
    }

    fn read(&mut self, n: usize) -> ListRegister {
        self.reads += 1;
        self.registers[n]
    }

    fn write(&mut self, n: usize, value: &ListRegister) {
        self.writes += 1;
        // As hardware keeps it.
        self.registers[n] = match value.source {
            0 => ListRegister::decode_ich(value.encode_ich()),
            _ => ListRegister::decode_gich(value.encode_gich()),
        };
        self.check();
    }

    fn empty(&mut self) -> u32 {
        self.select(|register| register.state.is_invalid() && !register.eoi_maintenance)
    }

    fn ended(&mut self) -> u32 {
        self.select(|register| register.state.is_invalid() && register.eoi_maintenance)
    }

    fn set_underflow(&mut self, on: bool) {
        self.underflow = on;
    }

    fn ended_outside(&mut self) -> u32 {
        core::mem::take(&mut self.missed)
    }

    fn set_end_outside_maintenance(&mut self, on: bool) {
        self.end_outside_maintenance = on;
        self.missed = 0;
    }

    fn splits_deactivation(&mut self) -> bool {
        self.split
    }

    fn deactivate(&mut self, physical: u32) {
        assert!(
            self.physical.remove(&physical),
            "physical interrupt {physical} deactivated but not active"
        );
    }
}
