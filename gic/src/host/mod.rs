//! The physical interrupt controller, driven from EL2.
//!
//! [`Controller`] is the part that all CPUs share, [`CpuInterface`] what one CPU has of it, with its list registers.
//! [Apple's controller](aic) is driven as if it were a GIC. Both kinds of GIC run with the end of an interrupt split in two (`EOImode` = 1): the hypervisor
//! [drops the priority](CpuInterface::priority_drop), and [deactivates](CpuInterface::deactivate) either at once or
//! leaves that to the guest through a linked list register.

pub mod aic;
mod bank;
mod gich;
mod ich;
mod mmio;
mod state;
mod system;
#[cfg(test)]
mod tests;
pub mod v2;
pub mod v3;

pub use gich::Gich;
pub use ich::Ich;
pub use state::CpuInterfaceState;

use crate::{Affinity, Effects, IntId, ListRegister, ListRegisters, VcpuIndex, Vgic, interface};

/// The SGI by which the hypervisor makes another CPU exit from its guest.
pub const KICK: IntId = IntId::new(1);

/// The SGI that says that list registers of the virtual CPU it goes to are out of date, and nothing else. A controller
/// that has but one sends [`KICK`] instead.
pub const WAKE: IntId = IntId::new(2);

/// What makes an interrupt pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The input's level.
    Level,
    /// A rising edge of the input.
    Edge,
}

/// Why a controller can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An address is zero or misaligned, or a frame is too small.
    #[error(
        "{0}: address zero or not aligned, or too small; check the interrupt controller's `reg` in the device tree"
    )]
    Frame(&'static str),
    /// No redistributor has this CPU's affinity.
    #[error(
        "no redistributor for the CPU with affinity {:#x}; check the interrupt controller's `reg` in the device tree",
        .0.packed()
    )]
    NoRedistributor(Affinity),
    /// The redistributor does not wake up.
    #[error("the redistributor stays asleep (GICR_WAKER.ChildrenAsleep)")]
    Asleep,
    /// A register write stays pending.
    #[error("{0} stays set")]
    Pending(&'static str),
    /// The system registers of GICv3 can't be enabled.
    #[error(
        "ICC_SRE_EL2.SRE can't be set; firmware must enable the system-register interface (ICC_SRE_EL3)"
    )]
    NoSystemRegisters,
}

/// An interrupt that this CPU has acknowledged, as the CPU interface wants it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged(u32);

impl Acknowledged {
    /// `GICC_IAR.INTID`. In GICv3 it's wider, but LPIs aren't used.
    const INTID: u32 = 0x3ff;

    /// Which interrupt it is.
    #[inline(always)]
    #[must_use]
    pub const fn intid(self) -> IntId {
        IntId::new(self.0 & Self::INTID)
    }

    /// GICv2: the CPU interface that sent the SGI.
    #[must_use]
    pub const fn source(self) -> u8 {
        (self.0 >> 10) as u8 & 0b111
    }

    #[inline(always)]
    const fn from_register(value: u32) -> Option<Self> {
        // 1020 to 1023 are special: nothing to acknowledge (IHI 0069 2.2.1).
        if value & Self::INTID >= IntId::END { None } else { Some(Self(value)) }
    }
}

/// Where an SGI goes: one CPU. See [`CpuInterface::sgi_target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgiTarget(u64);

/// The part of the interrupt controller that all CPUs share.
#[derive(Clone, Copy, Debug)]
pub enum Controller {
    /// GICv2.
    V2(v2::Distributor),
    /// GICv3, or GICv4 as such.
    V3(v3::Distributor),
    /// Apple's, with the virtual CPU interface of a GICv3.
    Aic(aic::Distributor),
}

impl Controller {
    /// Disables every shared interrupt, clears their state, routes them to the CPU that calls, and turns the
    /// distributor on. To be called once, before any [`init_cpu`](Self::init_cpu).
    ///
    /// # Errors
    ///
    /// [`Error::Pending`] if the distributor doesn't come to rest.
    pub fn init_distributor(&self, boot_cpu: Affinity) -> Result<(), Error> {
        match self {
            Self::V2(distributor) => distributor.init(),
            Self::V3(distributor) => distributor.init(boot_cpu),
            Self::Aic(distributor) => {
                distributor.init();
                Ok(())
            }
        }
    }

    /// Sets up what belongs to the CPU that calls: its private interrupts, its CPU interface and its virtual CPU
    /// interface. SGIs are enabled, PPIs are not.
    ///
    /// # Errors
    ///
    /// [`Error`] says what the CPU lacks.
    pub fn init_cpu(&self, cpu: Affinity) -> Result<CpuInterface, Error> {
        Ok(match self {
            Self::V2(distributor) => CpuInterface::V2(distributor.init_cpu()?),
            Self::V3(distributor) => CpuInterface::V3(distributor.init_cpu(cpu)?),
            Self::Aic(distributor) => CpuInterface::Aic(distributor.init_cpu(cpu)),
        })
    }

    /// One past the last INTID.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        match self {
            Self::V2(distributor) => distributor.interrupts(),
            Self::V3(distributor) => distributor.interrupts(),
            Self::Aic(distributor) => distributor.interrupts(),
        }
    }
}

/// What one CPU has of the interrupt controller. To be used on that CPU only.
#[derive(Debug)]
// A tag of its own, which costs less to look at than a niche. What is hot compares it once, with the first kind.
#[repr(u8)]
pub enum CpuInterface {
    /// GICv3.
    V3(v3::Cpu),
    /// GICv2.
    V2(v2::Cpu),
    /// Apple's.
    Aic(aic::Cpu),
}

/// Calls the same method of either version.
macro_rules! either {
    ($self:ident, $cpu:ident => $call:expr) => {
        match $self {
            CpuInterface::V2($cpu) => $call,
            CpuInterface::V3($cpu) => $call,
            CpuInterface::Aic($cpu) => $call,
        }
    };
}

/// The same with the list registers of either version.
macro_rules! lists {
    ($self:ident, $cpu:ident => $call:expr) => {
        either!($self, registers => {
            let $cpu = &mut &*registers;
            $call
        })
    };
}

impl CpuInterface {
    /// Acknowledges the most urgent pending interrupt, if there is one. It is active from now on.
    #[inline(always)]
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        either!(self, cpu => cpu.acknowledge())
    }

    /// Drops the priority to what it was before `interrupt`, which stays active. In the reverse order of acknowledging.
    #[inline(always)]
    pub fn priority_drop(&self, interrupt: Acknowledged) {
        either!(self, cpu => cpu.priority_drop(interrupt));
    }

    /// Deactivates `interrupt`, after its priority drop.
    #[inline(always)]
    pub fn deactivate(&self, interrupt: Acknowledged) {
        either!(self, cpu => cpu.deactivate(interrupt));
    }

    /// Enables an interrupt; a private one for this CPU.
    pub fn enable(&self, intid: IntId) {
        either!(self, cpu => cpu.bank(intid).enable(intid));
    }

    /// Disables an interrupt and waits until that has taken effect.
    pub fn disable(&self, intid: IntId) {
        either!(self, cpu => cpu.disable(intid));
    }

    /// Whether an interrupt is enabled.
    #[must_use]
    pub fn is_enabled(&self, intid: IntId) -> bool {
        either!(self, cpu => cpu.bank(intid).is_enabled(intid))
    }

    /// Makes an interrupt pending.
    pub fn set_pending(&self, intid: IntId) {
        either!(self, cpu => cpu.bank(intid).set_pending(intid));
    }

    /// Makes an interrupt no longer pending, unless its input is an asserted level.
    pub fn clear_pending(&self, intid: IntId) {
        either!(self, cpu => cpu.bank(intid).clear_pending(intid));
    }

    /// Whether an interrupt is pending.
    #[must_use]
    pub fn is_pending(&self, intid: IntId) -> bool {
        either!(self, cpu => cpu.bank(intid).is_pending(intid))
    }

    /// Makes an interrupt active, so that it isn't signalled.
    pub fn set_active(&self, intid: IntId) {
        either!(self, cpu => cpu.bank(intid).set_active(intid));
    }

    /// Makes an interrupt inactive, without the priority drop that acknowledging needs.
    pub fn clear_active(&self, intid: IntId) {
        either!(self, cpu => cpu.bank(intid).clear_active(intid));
    }

    /// Whether an interrupt is active.
    #[must_use]
    pub fn is_active(&self, intid: IntId) -> bool {
        either!(self, cpu => cpu.bank(intid).is_active(intid))
    }

    /// Sets the priority of an interrupt; 0 is the highest. After initialisation all have the same.
    pub fn set_priority(&self, intid: IntId, priority: u8) {
        either!(self, cpu => cpu.bank(intid).set_priority(intid, priority));
    }

    /// Sets what makes an interrupt pending. It must be disabled, and no other CPU may do the same at that moment for
    /// an interrupt among the same sixteen.
    pub fn set_trigger(&self, intid: IntId, trigger: Trigger) {
        either!(self, cpu => cpu.bank(intid).set_trigger(intid, trigger));
    }

    /// Routes a shared interrupt to this CPU.
    pub fn target_self(&self, intid: IntId) {
        either!(self, cpu => cpu.target(intid, cpu.sgi_target()));
    }

    /// Routes a shared interrupt to another CPU.
    pub fn target(&self, intid: IntId, target: SgiTarget) {
        either!(self, cpu => cpu.target(intid, target));
    }

    /// How other CPUs address this one.
    #[must_use]
    pub fn sgi_target(&self) -> SgiTarget {
        either!(self, cpu => cpu.sgi_target())
    }

    /// Sends an SGI, after all stores before it are visible to its target.
    #[inline(always)]
    pub fn send_sgi(&self, sgi: IntId, target: SgiTarget) {
        if let Self::V3(cpu) = self {
            return cpu.send_sgi(sgi, target);
        }
        self.send_other(sgi, target);
    }

    #[inline(never)]
    fn send_other(&self, sgi: IntId, target: SgiTarget) {
        either!(self, cpu => cpu.send_sgi(sgi, target));
    }

    /// Turns the virtual CPU interface on or off. While it is off, no virtual interrupt and no maintenance interrupt
    /// is signalled.
    pub fn enable_virtual_interface(&self, on: bool) {
        either!(self, cpu => cpu.virtual_interface().enable(on));
    }

    /// Whether a maintenance interrupt has a cause (`ICH_MISR_EL2`, `GICH_MISR`).
    #[must_use]
    pub fn has_maintenance(&self) -> bool {
        either!(self, cpu => cpu.has_maintenance())
    }

    /// Saves what the vCPU has in the virtual CPU interface, beside list registers.
    pub fn save(&self, state: &mut CpuInterfaceState) {
        either!(self, cpu => cpu.virtual_interface().save(state));
    }

    /// Gives the virtual CPU interface the state of a vCPU.
    pub fn restore(&self, state: &CpuInterfaceState) {
        either!(self, cpu => cpu.virtual_interface().restore(state));
    }

    /// The guest's priority mask as of now (`VMCR`).
    #[must_use]
    pub fn priority_mask(&self) -> u8 {
        either!(self, cpu => cpu.virtual_interface().priority_mask())
    }

    /// Priority bits of the list registers, for [`Config::priority_bits`](crate::Config::priority_bits).
    #[must_use]
    pub fn priority_bits(&self) -> u8 {
        either!(self, cpu => cpu.virtual_interface().priority_bits())
    }
}

/// Registers of the guest's CPU interface that trap: see [`interface`].
impl CpuInterface {
    /// What the guest reads of a register that traps; `None` where none does.
    pub fn read_trapped(&self, register: interface::Register) -> Option<u64> {
        match self {
            Self::Aic(cpu) if cpu.traps() => Some(interface::read(&mut &*cpu, register)),
            _ => None,
        }
    }

    /// Does what the guest's write of a register does that traps; `None` where none does.
    pub fn write_trapped(&self, register: interface::Register, value: u64) -> Option<()> {
        let Self::Aic(cpu) = self else { return None };
        cpu.traps().then(|| interface::write(&mut &*cpu, register, value))
    }
}

/// Where the version is known, use the list registers of [`v2::Cpu`] and [`v3::Cpu`]: they do without a branch.
impl CpuInterface {
    /// [`acknowledge`](Self::acknowledge) and [`priority_drop`](Self::priority_drop); if it is the SGI `ends`, also
    /// [`deactivate`](Self::deactivate). That one is compared first.
    #[inline(always)]
    pub fn take(&self, ends: IntId) -> Option<Acknowledged> {
        if let Self::V3(cpu) = self {
            return cpu.take(ends);
        }
        self.take_other(ends)
    }

    #[inline(never)]
    fn take_other(&self, ends: IntId) -> Option<Acknowledged> {
        let interrupt = self.acknowledge()?;
        self.priority_drop(interrupt);
        if interrupt.intid() == ends {
            self.deactivate(interrupt);
        }
        Some(interrupt)
    }

    /// [`Vgic::update`] with the list registers of this CPU. The kind of controller is looked at once, not at each register.
    #[inline(always)]
    pub fn update(&self, vgic: &mut Vgic, vcpu: VcpuIndex) -> Effects {
        if let Self::V3(cpu) = self {
            return vgic.update(vcpu, &mut &*cpu);
        }
        self.update_other(vgic, vcpu)
    }

    #[inline(never)]
    fn update_other(&self, vgic: &mut Vgic, vcpu: VcpuIndex) -> Effects {
        lists!(self, cpu => vgic.update(vcpu, cpu))
    }

    /// [`Vgic::fill`] with the list registers of this CPU.
    pub fn fill(&self, vgic: &mut Vgic, vcpu: VcpuIndex) -> Effects {
        lists!(self, cpu => vgic.fill(vcpu, cpu))
    }
}

impl ListRegisters for &CpuInterface {
    #[inline(always)]
    fn count(&self) -> usize {
        lists!(self, cpu => cpu.count())
    }

    #[inline(always)]
    fn read(&mut self, n: usize) -> ListRegister {
        lists!(self, cpu => ListRegisters::read(cpu, n))
    }

    #[inline(always)]
    fn write(&mut self, n: usize, value: &ListRegister) {
        lists!(self, cpu => ListRegisters::write(cpu, n, value));
    }

    #[inline(always)]
    fn clear(&mut self, n: usize) {
        lists!(self, cpu => ListRegisters::clear(cpu, n));
    }

    #[inline(always)]
    fn empty(&mut self) -> u32 {
        lists!(self, cpu => cpu.empty())
    }

    #[inline(always)]
    fn ended(&mut self) -> u32 {
        lists!(self, cpu => cpu.ended())
    }

    fn set_underflow(&mut self, on: bool) {
        lists!(self, cpu => cpu.set_underflow(on));
    }

    fn ended_outside(&mut self) -> u32 {
        lists!(self, cpu => cpu.ended_outside())
    }

    fn set_end_outside_maintenance(&mut self, on: bool) {
        lists!(self, cpu => cpu.set_end_outside_maintenance(on));
    }

    fn splits_deactivation(&mut self) -> bool {
        lists!(self, cpu => cpu.splits_deactivation())
    }

    fn deactivate(&mut self, physical: u32) {
        lists!(self, cpu => ListRegisters::deactivate(cpu, physical));
    }
}

/// Waits until `done`, but not for ever. False if it takes too long.
fn wait(mut done: impl FnMut() -> bool) -> bool {
    /// Far more than any controller needs, and a fraction of a second at most.
    const ROUNDS: u32 = 1_000_000;
    (0..ROUNDS).any(|_| {
        let over = done();
        if !over {
            core::hint::spin_loop();
        }
        over
    })
}
