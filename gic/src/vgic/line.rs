//! The controller's inputs: device lines, and physical interrupts that stand behind virtual ones.

use super::{Frame, Version, Vgic};
use crate::bits::bit;
use crate::{Effects, IntId, Line, VcpuIndex};

impl Vgic {
    /// Sets the level of an input. A level-sensitive interrupt is pending while its input is asserted; an edge-triggered
    /// one becomes pending when it is asserted anew. On a [linked](Self::link_physical) input, asserting is
    /// [`inject_linked`](Self::inject_linked), and deasserting withdraws what the guest has not acknowledged yet.
    pub fn set_level(&mut self, line: Line, asserted: bool) -> Effects {
        let Some((vcpu, number, mask)) = self.locate(line) else { return Effects::NONE };
        let Some(bank) = self.bank_mut(vcpu, number) else { return Effects::NONE };
        if bank.linked & mask != 0 {
            if asserted {
                return self.inject_linked(line);
            }
            return if (bank.latched | bank.listed_latch) & mask == 0 {
                Effects::NONE
            } else {
                self.clear_pending(vcpu, vcpu, number, mask)
            };
        }
        if (bank.level & mask != 0) == asserted {
            return Effects::NONE;
        }
        bank.level ^= mask;
        if bank.edge & mask != 0 {
            if !asserted {
                return Effects::NONE;
            }
            bank.latched |= mask;
        }
        self.settle(vcpu, number, mask)
    }

    /// Makes an interrupt pending once, as an edge on its input does, whatever its configuration.
    pub fn set_pending_edge(&mut self, line: Line) -> Effects {
        let Some((vcpu, number, mask)) = self.locate(line) else { return Effects::NONE };
        let Some(bank) = self.bank_mut(vcpu, number) else { return Effects::NONE };
        bank.latched |= mask;
        self.settle(vcpu, number, mask)
    }

    /// Puts the physical interrupt `physical` behind an input: the guest's deactivation of the one deactivates the
    /// other. Links survive resets.
    pub fn link_physical(&mut self, line: Line, physical: u32) {
        let Some((vcpu, number, _)) = self.locate(line) else { return };
        if let Some(bank) = self.bank_mut(vcpu, number) {
            bank.set_link(line.intid().lane(), physical);
        }
    }

    /// The physical interrupt behind `line` has been acknowledged, its priority dropped, and it stays active until the
    /// guest deactivates it. On an input without a link this is [`set_pending_edge`](Self::set_pending_edge).
    #[inline(always)]
    pub fn inject_linked(&mut self, line: Line) -> Effects {
        match line {
            Line::Ppi(vcpu, intid) => self.inject_private(vcpu, intid),
            Line::Spi(_) => self.inject_shared(line),
        }
    }

    /// The timer's way: a private interrupt concerns one vCPU.
    #[inline(always)]
    fn inject_private(&mut self, vcpu: VcpuIndex, intid: IntId) -> Effects {
        let groups = self.rules.groups;
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return Effects::NONE };
        if !intid.is_private() || intid.is_sgi() {
            return Effects::NONE;
        }
        let mask = bit(intid.lane());
        cpu.private.inject(mask);
        if cpu.take_notice(mask, groups) {
            Effects { kick: crate::VcpuSet::only(vcpu) }
        } else {
            Effects::NONE
        }
    }

    fn inject_shared(&mut self, line: Line) -> Effects {
        let Some((vcpu, number, mask)) = self.locate(line) else { return Effects::NONE };
        let Some(bank) = self.bank_mut(vcpu, number) else { return Effects::NONE };
        bank.inject(mask);
        self.settle(vcpu, number, mask)
    }

    /// Whether the physical interrupt behind `line` must be active on the CPU that runs the vCPU. When a vCPU is
    /// loaded, the caller makes the physical state of its private interrupts so, and when it has left, inactive.
    #[must_use]
    pub fn is_physical_active(&self, line: Line) -> bool {
        self.locate(line)
            .and_then(|(vcpu, number, mask)| {
                self.bank(vcpu, number).map(|bank| bank.busy & mask != 0)
            })
            .unwrap_or(false)
    }

    /// Whether registers of `frame` tell of private interrupts.
    #[inline(always)]
    #[must_use]
    pub fn shows_private(&self, frame: Frame) -> bool {
        self.version == Version::V2 || frame != Frame::Distributor
    }

    /// Whether [`is_physical_active`](Self::is_physical_active) for any private interrupt of `vcpu`.
    #[inline(always)]
    #[must_use]
    pub fn has_physical_active(&self, vcpu: VcpuIndex) -> bool {
        self.cpus.get(vcpu.get()).is_some_and(|cpu| cpu.private.busy != 0)
    }

    /// Whether the guest has enabled the interrupt of `line`.
    #[must_use]
    pub fn is_enabled(&self, line: Line) -> bool {
        self.locate(line)
            .and_then(|(vcpu, number, mask)| {
                self.bank(vcpu, number).map(|bank| bank.enabled & mask != 0)
            })
            .unwrap_or(false)
    }

    #[inline(always)]
    fn locate(&self, line: Line) -> Option<(VcpuIndex, usize, u32)> {
        match line {
            Line::Spi(intid) if intid.is_shared() && (intid.get() as usize) < self.end() => {
                Some((VcpuIndex::new(0), intid.bank(), bit(intid.lane())))
            }
            Line::Ppi(vcpu, intid) if intid.is_private() && !intid.is_sgi() => {
                Some((vcpu, 0, bit(intid.lane())))
            }
            Line::Spi(_) | Line::Ppi(..) => None,
        }
    }
}

impl Line {
    /// The interrupt's number.
    #[must_use]
    pub const fn intid(self) -> IntId {
        match self {
            Self::Spi(intid) | Self::Ppi(_, intid) => intid,
        }
    }
}
