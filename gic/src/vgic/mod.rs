//! The interrupt controller of one VM.
//!
//! One state machine serves both versions: `Bank` holds 32 interrupts, a bit each, so that most registers of the
//! guest's interface are one word of it. The first bank belongs to a vCPU (SGIs and PPIs), the others (SPIs) to the VM.
//!
//! **List registers are a cache.** They stay live in hardware while a vCPU is loaded, across its exits. [`Vgic::fill`]
//! brings them up to date and [`Vgic::fold`] takes everything back. Whatever happens to an interrupt in a list register
//! *touches* it: the next `fill` on that CPU takes it back and places it anew. So the guest ends interrupts without an
//! exit, and an exit that changes no interrupt costs nothing here.
//!
//! **Order of calls.** On the CPU that runs a vCPU: `loaded`, then before each entry after a change [`Vgic::update`],
//! on a maintenance interrupt [`Vgic::maintenance`], and `fold` followed by `unloaded` when the vCPU leaves the CPU.
//! The caller holds one lock per VM around every call; nothing here blocks, allocates after [`Vgic::new`], or touches
//! hardware other than through [`ListRegisters`].

#![forbid(unsafe_code)]

mod bank;
mod cluster;
mod config;
mod distributor_v2;
mod distributor_v3;
mod fill;
mod frame;
mod identification;
mod line;
mod outside;
mod redistributor;
mod select;
mod sgi;
mod single;
mod slots;
#[cfg(test)]
mod tests;
mod view;
mod words;

use alloc::boxed::Box;
use alloc::vec::Vec;

use bank::{Bank, Groups, Lanes, Reset};
use cluster::Cluster;
pub use config::{Config, ConfigError, Version};
pub use frame::{Frame, Read, Width};
use slots::{Share, Slots, Sources};
use view::{Rules, View};

use crate::{Affinity, Effects, IntId, ListRegisters, VcpuIndex, VcpuSet};

/// Banks of 32 interrupts in the INTID space of SGIs, PPIs and SPIs.
const BANKS: usize = 32;

/// One vCPU: its private interrupts and its list registers.
#[derive(Debug)]
// In this order: what every interrupt needs can be loaded in pairs.
#[repr(C)]
struct Cpu {
    slots: Slots,
    private: Bank,
    shares: [Share; BANKS],
    sources: Sources,
    ask: Ask,
    affinity: Affinity,
    /// `GICR_WAKER.ProcessorSleep`.
    asleep: bool,
}

/// A question of this vCPU about interrupts in the list registers of others.
#[derive(Clone, Copy, Debug, Default)]
struct Ask {
    /// Which register it has read.
    tag: u32,
    /// Who has folded since.
    answered: VcpuSet,
}

/// 32 SPIs.
#[derive(Debug)]
struct Spis {
    bank: Bank,
    /// GICv2: `GICD_ITARGETSRn`, a bit for each vCPU. GICv3: `GICD_IROUTERn` as [`Affinity::packed`].
    route: Lanes<u32>,
}

/// The virtual interrupt controller of one VM. See the [module](self) for the order of calls.
#[derive(Debug)]
pub struct Vgic {
    version: Version,
    /// Priority bits that exist.
    priority_mask: u8,
    rules: Rules,
    /// vCPUs whose list registers are in hardware.
    loaded: VcpuSet,
    /// vCPUs that have yet to learn that the guest has disabled an interrupt (`GICD_CTLR.RWP`).
    unsettled: VcpuSet,
    cpus: Box<[Cpu]>,
    spis: Box<[Spis]>,
    clusters: Box<[Cluster]>,
}

impl Vgic {
    /// A controller in its state after reset.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] says which limit of the architecture the configuration breaks.
    pub fn new(config: &Config<'_>) -> Result<Self, ConfigError> {
        config.check()?;
        let cpu = |affinity: &Affinity| Cpu {
            affinity: *affinity,
            asleep: true,
            private: Bank::new(config.version.reset_private()),
            sources: Sources::default(),
            shares: [Share { target: 0, active: 0, resident: 0 }; BANKS],
            slots: Slots::new(),
            ask: Ask::default(),
        };
        let spis = (0..config.spis / 32)
            .map(|_| Spis { bank: Bank::new(config.version.reset_shared()), route: Lanes::new(0) });
        let mut vgic = Self {
            version: config.version,
            priority_mask: config.priority_mask(),
            rules: Rules {
                groups: Groups::default(),
                sgi_sources: config.version == Version::V2,
                hardware_deactivation: config.hardware_deactivation,
            },
            loaded: VcpuSet::EMPTY,
            unsettled: VcpuSet::EMPTY,
            cpus: config.vcpus.iter().map(cpu).collect(),
            spis: spis.collect::<Vec<_>>().into_boxed_slice(),
            clusters: match config.version {
                Version::V2 => Box::default(),
                Version::V3 => Cluster::table(config.vcpus),
            },
        };
        vgic.reset(|_| {});
        Ok(vgic)
    }

    /// Resets the controller. No vCPU may be loaded. Inputs keep their levels and links, and `deactivate` is called
    /// for each physical shared interrupt that was active for the guest. (Physical private ones are not active while
    /// their vCPU isn't loaded, see [`is_physical_active`](Self::is_physical_active).)
    pub fn reset(&mut self, mut deactivate: impl FnMut(u32)) {
        let (private, shared) = (self.version.reset_private(), self.version.reset_shared());
        self.rules.groups = Groups::default();
        self.loaded = VcpuSet::EMPTY;
        self.unsettled = VcpuSet::EMPTY;
        for cpu in &mut self.cpus {
            cpu.reset(private);
            cpu.shares = [Share::default(); BANKS];
            if let Some(own) = cpu.shares.first_mut() {
                own.target = u32::MAX;
            }
        }
        for spis in &mut self.spis {
            for lane in crate::bits::Ones(spis.bank.busy | spis.bank.release) {
                deactivate(spis.bank.physical.get(lane));
            }
            spis.bank.reset(shared);
            spis.route = Lanes::new(0);
        }
        self.route_all();
    }

    /// Resets the interrupts of one vCPU that is switched on again (PSCI `CPU_ON`). To be called on the CPU that runs
    /// it, whose list registers `lrs` are, or with the vCPU unloaded.
    pub fn reset_vcpu(&mut self, vcpu: VcpuIndex, lrs: &mut impl ListRegisters) -> Effects {
        let effects = self.fold(vcpu, lrs);
        let reset = self.version.reset_private();
        let Some(cpu) = self.cpus.get_mut(vcpu.get()) else { return effects };
        for lane in crate::bits::Ones(cpu.private.busy | cpu.private.release) {
            lrs.deactivate(cpu.private.physical.get(lane));
        }
        cpu.reset(reset);
        // What it had acknowledged and never ended is over.
        for (share, spis) in cpu.shares.iter_mut().skip(1).zip(&mut self.spis) {
            spis.bank.active &= !share.active;
            if spis.bank.let_go(share.active) != 0 {
                for lane in crate::bits::Ones(spis.bank.release) {
                    lrs.deactivate(spis.bank.physical.get(lane));
                }
                spis.bank.release = 0;
            }
            share.active = 0;
        }
        if let Some(private) = cpu.shares.first_mut() {
            *private = Share { target: u32::MAX, ..Share::default() };
        }
        cpu.slots.ready = u32::MAX;
        effects
    }

    /// Notes that `vcpu` is on a CPU now, whose list registers are all free, and will `fill` them.
    pub fn loaded(&mut self, vcpu: VcpuIndex) {
        self.loaded.insert(vcpu);
    }

    /// Notes that `vcpu` has left its CPU, after a [`fold`](Self::fold).
    pub fn unloaded(&mut self, vcpu: VcpuIndex) {
        self.loaded.remove(vcpu);
        self.unsettled.remove(vcpu);
        if let Some(cpu) = self.cpus.get_mut(vcpu.get()) {
            // The caller makes the physical private interrupts inactive, whatever they were.
            cpu.private.release = 0;
        }
    }

    /// Whether `vcpu` must [`fill`](Self::fill) before it executes guest code.
    #[cfg(test)]
    fn needs_update(&self, vcpu: VcpuIndex) -> bool {
        self.cpus
            .get(vcpu.get())
            .is_some_and(|cpu| cpu.slots.ready != 0 || !cpu.slots.askers.is_empty())
    }

    /// Whether an interrupt waits for `vcpu` that is enabled and of a higher priority (a lower number) than
    /// `priority_mask`, the guest's `PMR`: whether WFI has to return. [`fold`](Self::fold) first.
    #[must_use]
    pub fn has_deliverable(&self, vcpu: VcpuIndex, priority_mask: u8) -> bool {
        let Some(cpu) = self.cpus.get(vcpu.get()) else { return false };
        // After a fold, whatever could go into a list register is in a bank that is ready.
        crate::bits::Ones(cpu.slots.ready).any(|number| {
            let target = cpu.shares.get(number).map_or(0, |share| share.target);
            self.bank(vcpu, number).is_some_and(|bank| {
                let waiting = bank.deliverable(self.rules.groups) & target;
                crate::bits::Ones(waiting).any(|lane| bank.priority.get(lane) < priority_mask)
            })
        })
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.cpus.len()
    }

    /// One past the last INTID.
    fn end(&self) -> usize {
        self.spis.len().saturating_add(1).saturating_mul(32)
    }

    #[inline(always)]
    fn view(&mut self, vcpu: VcpuIndex, number: usize) -> Option<View<'_>> {
        let cpu = self.cpus.get_mut(vcpu.get())?;
        let share = cpu.shares.get_mut(number)?;
        let bank = match number.checked_sub(1) {
            None => &mut cpu.private,
            Some(shared) => &mut self.spis.get_mut(shared)?.bank,
        };
        Some(View {
            number,
            bank,
            share,
            slots: &mut cpu.slots,
            sources: &mut cpu.sources,
            rules: self.rules,
        })
    }

    /// The bank that `vcpu` sees as number `number`.
    #[inline(always)]
    fn bank(&self, vcpu: VcpuIndex, number: usize) -> Option<&Bank> {
        match number.checked_sub(1) {
            None => self.cpus.get(vcpu.get()).map(|cpu| &cpu.private),
            Some(shared) => self.spis.get(shared).map(|spis| &spis.bank),
        }
    }

    #[inline(always)]
    fn bank_mut(&mut self, vcpu: VcpuIndex, number: usize) -> Option<&mut Bank> {
        match number.checked_sub(1) {
            None => self.cpus.get_mut(vcpu.get()).map(|cpu| &mut cpu.private),
            Some(shared) => self.spis.get_mut(shared).map(|spis| &mut spis.bank),
        }
    }

    /// Sees to it that the list registers will reflect what has changed for the interrupts `mask` of a bank.
    fn settle(&mut self, vcpu: VcpuIndex, number: usize, mask: u32) -> Effects {
        let groups = self.rules.groups;
        let Some(bank) = self.bank_mut(vcpu, number) else { return Effects::NONE };
        let touched = bank.resident & mask;
        bank.touched |= touched;
        let waiting = bank.deliverable(groups) & mask;
        let active = bank.active & !bank.resident & mask;
        let mut effects = Effects::NONE;
        if touched | waiting | active == 0 {
            return effects;
        }
        let mut mark = |cpu: &mut Cpu, index: VcpuIndex| {
            let Some(share) = cpu.shares.get(number) else { return };
            if (share.resident & touched) | (share.target & waiting) | (share.active & active) != 0
            {
                cpu.slots.ready |= crate::bits::bit(number);
                effects.kick.insert(index);
            }
        };
        if number == 0 {
            if let Some(cpu) = self.cpus.get_mut(vcpu.get()) {
                mark(cpu, vcpu);
            }
        } else {
            for (position, cpu) in self.cpus.iter_mut().enumerate() {
                mark(cpu, VcpuIndex::new(position));
            }
        }
        effects
    }

    /// Settles every interrupt of every vCPU, after a change of what the distributor forwards.
    fn settle_all(&mut self) -> Effects {
        let mut effects = Effects::NONE;
        for vcpu in VcpuSet::first(self.cpus.len()) {
            effects.merge(self.settle(vcpu, 0, u32::MAX));
        }
        for number in 1..=self.spis.len() {
            effects.merge(self.settle(VcpuIndex::new(0), number, u32::MAX));
        }
        effects
    }

    /// The vCPU that gets an SPI with this route.
    fn target(&self, route: u32) -> Option<VcpuIndex> {
        match self.version {
            // GICD_ITARGETSRn don't exist where there is one CPU (IHI 0048 4.3.12).
            Version::V2 if self.cpus.len() == 1 => Some(VcpuIndex::new(0)),
            // IHI 0048 1.4.3 leaves the choice among several targets to the implementation.
            Version::V2 => VcpuSet::from_bits(route.into()).into_iter().next(),
            Version::V3 => {
                self.cpus.iter().position(|cpu| cpu.affinity.packed() == route).map(VcpuIndex::new)
            }
        }
    }

    /// Routes an SPI; what the guest has acknowledged stays where it is.
    fn set_route(&mut self, intid: IntId, route: u32) -> Effects {
        let (number, lane) = (intid.bank(), intid.lane());
        let Some(spis) = number.checked_sub(1).and_then(|shared| self.spis.get_mut(shared)) else {
            return Effects::NONE;
        };
        spis.route.set(lane, route);
        self.apply_route(number, lane, route);
        self.settle(VcpuIndex::new(0), number, crate::bits::bit(lane))
    }

    fn apply_route(&mut self, number: usize, lane: usize, route: u32) {
        let target = self.target(route);
        for (position, cpu) in self.cpus.iter_mut().enumerate() {
            let Some(share) = cpu.shares.get_mut(number) else { continue };
            share.target &= !crate::bits::bit(lane);
            if target == Some(VcpuIndex::new(position)) {
                share.target |= crate::bits::bit(lane);
            }
        }
    }

    fn route_all(&mut self) {
        for number in 1..=self.spis.len() {
            for lane in 0..32 {
                let route = self.route(IntId::from_parts(number, lane));
                self.apply_route(number, lane, route);
            }
        }
    }

    fn route(&self, intid: IntId) -> u32 {
        let shared = intid.bank().checked_sub(1);
        shared
            .and_then(|shared| self.spis.get(shared))
            .map_or(0, |spis| spis.route.get(intid.lane()))
    }
}

impl Cpu {
    fn reset(&mut self, reset: Reset) {
        self.asleep = true;
        self.private.reset(reset);
        self.sources = Sources::default();
        let askers = self.slots.askers;
        self.slots = Slots::new();
        self.slots.askers = askers;
        self.ask = Ask::default();
    }
}
