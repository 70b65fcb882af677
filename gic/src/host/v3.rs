//! GICv3: distributor and redistributors in the Non-secure view, or with one security state (IHI 0069).

use arm_gic::gicv3::registers::{GicdCtlr, GicrCtlr, Waker};

use super::bank::Bank;
use super::ich::list_registers_by_ich;
use super::mmio::Registers;
use super::{Acknowledged, Error, Ich, SgiTarget, system};
use crate::{Affinity, IntId};

const GICD_CTLR: usize = 0x0000;
const GICD_TYPER: usize = 0x0004;
const GICD_TYPER_LINES: u32 = 0x1f;
const GICD_IROUTER: usize = 0x6000;

const GICR_CTLR: usize = 0x0000;
const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
/// `GICR_TYPER.VLPIS`: the redistributor has two frames more (GICv4).
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const GICR_TYPER_LAST: u64 = 1 << 4;
const SGI_BASE: usize = 0x1_0000;
const FRAME: usize = 0x1_0000;

/// `ICC_SGI1R_EL1`, in which form an [`SgiTarget`] is kept.
mod sgi1r {
    pub(super) const AFF1_SHIFT: u32 = 16;
    pub(super) const INTID_SHIFT: u32 = 24;
    pub(super) const AFF2_SHIFT: u32 = 32;
    pub(super) const RANGE_SHIFT: u32 = 44;
    pub(super) const AFF3_SHIFT: u32 = 48;
}

/// The most regions of redistributors that a machine may have.
pub const MAX_REGIONS: usize = 8;

/// Where the frames of a GICv3 are: physical addresses, and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames<'a> {
    /// Distributor, of [`Distributor::GICD_SIZE`].
    pub gicd: usize,
    /// Regions of redistributors, address and size; the first [`MAX_REGIONS`] count.
    pub redistributors: &'a [(usize, usize)],
}

/// The distributor, and where the redistributors are.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    gicd: Bank,
    regions: [Option<Registers>; MAX_REGIONS],
}

impl Distributor {
    /// The distributor's size in bytes.
    pub const GICD_SIZE: usize = 0x1_0000;

    /// A driver of the controller with these frames.
    ///
    /// # Errors
    ///
    /// [`Error::Frame`] names the frame that can't be.
    ///
    /// # Safety
    ///
    /// The frames must be those of a GICv3 or GICv4, be mapped as device memory at these addresses as long as the
    /// driver is used, and be driven by nobody else.
    #[allow(unsafe_code)]
    pub unsafe fn new(frames: &Frames<'_>) -> Result<Self, Error> {
        let frame = |address, size, name| {
            // SAFETY: the caller promises that these frames are mapped.
            unsafe { Registers::new(address, size) }.ok_or(Error::Frame(name))
        };
        let gicd = Bank(frame(frames.gicd, Self::GICD_SIZE, "GICD")?);
        let mut regions = [None; MAX_REGIONS];
        for (region, &(address, size)) in regions.iter_mut().zip(frames.redistributors) {
            *region = Some(frame(address, size, "GICR")?);
        }
        Ok(Self { gicd, regions })
    }

    /// One past the last INTID.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        self.words().wrapping_shl(5).min(IntId::END)
    }

    fn words(&self) -> u32 {
        (self.gicd.0.read(GICD_TYPER) & GICD_TYPER_LINES).saturating_add(1)
    }

    fn control(&self, value: GicdCtlr) -> Result<(), Error> {
        self.gicd.0.write(GICD_CTLR, value.bits());
        self.wait()
    }

    pub(super) fn wait(&self) -> Result<(), Error> {
        if self.gicd.wait_clear(GICD_CTLR, GicdCtlr::RWP.bits()) {
            Ok(())
        } else {
            Err(Error::Pending("GICD_CTLR.RWP"))
        }
    }

    pub(super) fn init(&self, boot_cpu: Affinity) -> Result<(), Error> {
        self.control(GicdCtlr::empty())?;
        // Affinity routing first: IROUTER exists only with it. These bits have the same place in the Non-secure view
        // (ARE_NS, EnableGrp1A) and with one security state (ARE, EnableGrp1).
        let routing = GicdCtlr::ARE_S;
        self.control(routing)?;
        for number in 1..self.words() as usize {
            self.gicd.set_groups(number, true);
            self.gicd.quiesce(number);
        }
        self.wait()?;
        for intid in (IntId::PRIVATE..self.interrupts()).map(IntId::new) {
            self.route(intid, boot_cpu.mpidr());
        }
        self.control(routing | GicdCtlr::EnableGrp1NS)
    }

    fn route(&self, intid: IntId, mpidr: u64) {
        self.gicd.0.write64(GICD_IROUTER.wrapping_add((intid.get() as usize) << 3), mpidr);
    }

    /// The redistributor of the CPU with this affinity.
    fn redistributor(&self, cpu: Affinity) -> Option<Registers> {
        for region in self.regions.iter().flatten() {
            let mut offset = 0usize;
            // A frame outside of the region reads as zero; whatever it holds, the walk ends with the region.
            while let Some(frames) = region.part(offset, 2 * FRAME) {
                let typer = frames.read64(GICR_TYPER);
                if affinity_of(typer) == cpu {
                    return Some(frames);
                }
                if typer & GICR_TYPER_LAST != 0 {
                    break;
                }
                let stride = if typer & GICR_TYPER_VLPIS != 0 { 4 * FRAME } else { 2 * FRAME };
                offset = offset.checked_add(stride)?;
            }
        }
        None
    }

    pub(super) fn init_cpu(&self, affinity: Affinity) -> Result<Cpu, Error> {
        const SGIS: u32 = 0xffff;
        let frames = self.redistributor(affinity).ok_or(Error::NoRedistributor(affinity))?;
        let gicr = Bank(frames);
        let sgi = Bank(frames.part(SGI_BASE, FRAME).ok_or(Error::Frame("GICR"))?);
        // With two security states the Non-secure view may not see GICR_WAKER; it then reads as awake.
        frames.write(GICR_WAKER, frames.read(GICR_WAKER) & !Waker::PROCESSOR_SLEEP.bits());
        if !gicr.wait_clear(GICR_WAKER, Waker::CHILDREN_ASLEEP.bits()) {
            return Err(Error::Asleep);
        }
        sgi.set_groups(0, true);
        sgi.quiesce(0);
        if !gicr.wait_clear(GICR_CTLR, GicrCtlr::RWP.bits()) {
            return Err(Error::Pending("GICR_CTLR.RWP"));
        }
        sgi.enable_all(0, SGIS);
        if !system::init_cpu_interface() {
            return Err(Error::NoSystemRegisters);
        }
        Ok(Cpu { distributor: self.gicd, gicr, sgi, ich: Ich::new(), affinity })
    }
}

/// `GICR_TYPER.Affinity_Value`.
const fn affinity_of(typer: u64) -> Affinity {
    let [aff3, aff2, aff1, aff0] = ((typer >> 32) as u32).to_be_bytes();
    Affinity::new(aff3, aff2, aff1, aff0)
}

/// The affinity in a target of SGIs, as `GICD_IROUTERn` has it.
const fn route_of(target: SgiTarget) -> u64 {
    let range = ((target.0 >> sgi1r::RANGE_SHIFT) & 0xf) as u8;
    let aff0 = range << 4 | target.0.trailing_zeros() as u8 & 0xf;
    let (aff3, aff2, aff1) = (
        target.0 >> sgi1r::AFF3_SHIFT,
        target.0 >> sgi1r::AFF2_SHIFT,
        target.0 >> sgi1r::AFF1_SHIFT,
    );
    Affinity::new(aff3 as u8, aff2 as u8, aff1 as u8, aff0).mpidr()
}

/// The CPU interface and redistributor of one CPU.
#[derive(Debug)]
pub struct Cpu {
    distributor: Bank,
    gicr: Bank,
    sgi: Bank,
    ich: Ich,
    affinity: Affinity,
}

impl Cpu {
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        Acknowledged::from_register(system::read_icc_iar1())
    }

    /// See [`CpuInterface::take`](super::CpuInterface::take).
    #[inline(always)]
    pub(super) fn take(&self, ends: IntId) -> Option<Acknowledged> {
        let value = system::read_icc_iar1();
        // In GICv3 an SGI does not tell its sender.
        if value == ends.get() {
            system::write_icc_eoir1(value);
            system::write_icc_dir(value);
            return Some(Acknowledged(value));
        }
        let interrupt = Acknowledged::from_register(value)?;
        self.priority_drop(interrupt);
        Some(interrupt)
    }

    #[inline(always)]
    pub(super) fn priority_drop(&self, interrupt: Acknowledged) {
        system::write_icc_eoir1(interrupt.0);
    }

    #[inline(always)]
    pub(super) fn deactivate(&self, interrupt: Acknowledged) {
        system::write_icc_dir(interrupt.0);
    }

    /// The registers of an interrupt.
    #[inline(always)]
    pub(super) fn bank(&self, intid: IntId) -> Bank {
        if intid.is_private() { self.sgi } else { self.distributor }
    }

    pub(super) fn disable(&self, intid: IntId) {
        self.bank(intid).disable(intid);
        // A controller that never gets there has failed already during initialisation.
        if intid.is_private() {
            self.gicr.wait_clear(GICR_CTLR, GicrCtlr::RWP.bits());
        } else {
            self.distributor.wait_clear(GICD_CTLR, GicdCtlr::RWP.bits());
        }
    }

    pub(super) fn target(&self, intid: IntId, target: SgiTarget) {
        if intid.is_shared() {
            self.distributor
                .0
                .write64(GICD_IROUTER.wrapping_add((intid.get() as usize) << 3), route_of(target));
        }
    }

    pub(super) const fn sgi_target(&self) -> SgiTarget {
        let cpu = self.affinity;
        SgiTarget(
            (cpu.aff3() as u64) << sgi1r::AFF3_SHIFT
                | ((cpu.aff0() >> 4) as u64) << sgi1r::RANGE_SHIFT
                | (cpu.aff2() as u64) << sgi1r::AFF2_SHIFT
                | (cpu.aff1() as u64) << sgi1r::AFF1_SHIFT
                | 1u64.wrapping_shl((cpu.aff0() & 0xf) as u32),
        )
    }

    #[inline(always)]
    pub(super) fn send_sgi(&self, sgi: IntId, target: SgiTarget) {
        let value = target.0 | u64::from(sgi.get() & 0xf) << sgi1r::INTID_SHIFT;
        system::publish_stores();
        system::write_icc_sgi1r(value);
    }

    pub(super) fn virtual_interface(&self) -> &Ich {
        &self.ich
    }

    pub(super) fn has_maintenance(&self) -> bool {
        self.ich.has_maintenance()
    }
}

list_registers_by_ich!(Cpu, |_cpu, physical| system::write_icc_dir(physical));
