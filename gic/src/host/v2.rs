//! GICv2: `GICD` and `GICC` in the Non-secure view, or of a controller without security extensions (IHI 0048).

use super::bank::Bank;
use super::mmio::Registers;
use super::{Acknowledged, Error, Gich, SgiTarget, system};
use crate::{IntId, ListRegister, ListRegisters};

const GICD_CTLR: usize = 0x000;
const GICD_TYPER: usize = 0x004;
const GICD_ITARGETSR: usize = 0x800;
const GICD_SGIR: usize = 0xf00;

/// `EnableGrp1` in the Non-secure view, `EnableGrp0` without security extensions.
const GICD_CTLR_ENABLE: u32 = 1 << 0;
const GICD_TYPER_LINES: u32 = 0x1f;
const GICD_TYPER_SECURITY: u32 = 1 << 10;
const GICD_SGIR_TARGET_SHIFT: u32 = 16;

const GICC_CTLR: usize = 0x0000;
const GICC_PMR: usize = 0x0004;
const GICC_BPR: usize = 0x0008;
const GICC_IAR: usize = 0x000c;
const GICC_EOIR: usize = 0x0010;
const GICC_APR: usize = 0x00d0;
const GICC_NSAPR: usize = 0x00e0;
const GICC_IIDR: usize = 0x00fc;
const GICC_DIR: usize = 0x1000;

/// `EnableGrp1` in the Non-secure view, `EnableGrp0` without security extensions.
const GICC_CTLR_ENABLE: u32 = 1 << 0;
/// Bits that disable bypassing the controller: as firmware has left them.
const GICC_CTLR_BYPASS: u32 = 0b1111 << 5;
/// `EOImodeNS` in the Non-secure view, `EOImodeS` without security extensions.
const GICC_CTLR_EOI_MODE: u32 = 1 << 9;

const ALL_PRIORITIES: u32 = 0xff;

/// The CPU interface takes two pages. Some SoCs put each on a 64 KiB page of its own and repeat it there: then the last
/// 4 KiB of the first are next to the first of the second.
const ALIAS_OFFSET: usize = 0xf000;
const ALIASED_SIZE: usize = 0x2_0000;

/// Where the frames of a GICv2 are: physical addresses, and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Distributor.
    pub gicd: usize,
    /// CPU interface.
    pub gicc: usize,
    /// Size of the CPU interface's frame as the device tree gives it.
    pub gicc_size: usize,
    /// Virtual interface control.
    pub gich: usize,
    /// Virtual CPU interface.
    pub gicv: usize,
}

/// The distributor, and where the CPU interfaces are.
#[derive(Clone, Copy, Debug)]
pub struct Distributor {
    gicd: Bank,
    gicc: Registers,
    gich: Registers,
    gicv: usize,
}

impl Distributor {
    /// The distributor's size in bytes.
    pub const GICD_SIZE: usize = 0x1000;
    /// The size in bytes of a CPU interface, physical or virtual, from its first register to its last.
    pub const GICC_SIZE: usize = 0x2000;

    /// A driver of the controller with these frames.
    ///
    /// # Errors
    ///
    /// [`Error::Frame`] names the frame that can't be.
    ///
    /// # Safety
    ///
    /// `gicd`, `gicc` and `gich` must be those frames of a GICv2, be mapped as device memory at these addresses as long
    /// as the driver is used, and be driven by nobody else.
    #[allow(unsafe_code)]
    pub unsafe fn new(frames: &Frames) -> Result<Self, Error> {
        let frame = |address, size, name| {
            // SAFETY: the caller promises that these frames are mapped.
            unsafe { Registers::new(address, size) }.ok_or(Error::Frame(name))
        };
        let gicd = frame(frames.gicd, Self::GICD_SIZE, "GICD")?;
        let gich = frame(frames.gich, Gich::SIZE, "GICH")?;
        let whole = frame(frames.gicc, frames.gicc_size, "GICC")?;
        let aliased = frames.gicc_size >= ALIASED_SIZE
            && whole.read(GICC_IIDR) == whole.read(ALIAS_OFFSET | GICC_IIDR);
        let offset = if aliased { ALIAS_OFFSET } else { 0 };
        let gicc = whole.part(offset, Self::GICC_SIZE).ok_or(Error::Frame("GICC"))?;
        let gicv = frames.gicv.checked_add(offset).ok_or(Error::Frame("GICV"))?;
        if frames.gicv == 0 {
            return Err(Error::Frame("GICV"));
        }
        Ok(Self { gicd: Bank(gicd), gicc, gich, gicv })
    }

    /// Where the virtual CPU interface is: [`Self::GICC_SIZE`] bytes from this physical address on are to be mapped
    /// into the guest where it expects its CPU interface.
    #[must_use]
    pub const fn gicv(&self) -> usize {
        self.gicv
    }

    /// One past the last INTID.
    #[must_use]
    pub fn interrupts(&self) -> u32 {
        self.words().wrapping_shl(5).min(IntId::END)
    }

    /// Words of 32 interrupts, the private ones among them.
    fn words(&self) -> u32 {
        (self.gicd.0.read(GICD_TYPER) & GICD_TYPER_LINES).saturating_add(1)
    }

    pub(super) fn init(&self) -> Result<(), Error> {
        self.gicd.0.write(GICD_CTLR, 0);
        let boot_cpu = u32::from_ne_bytes([self.interface(); 4]);
        for number in 1..self.words() as usize {
            self.group(number);
            self.gicd.quiesce(number);
            for n in 0..8 {
                self.gicd.0.write(GICD_ITARGETSR | (number << 5) | (n << 2), boot_cpu);
            }
        }
        self.gicd.0.write(GICD_CTLR, GICD_CTLR_ENABLE);
        Ok(())
    }

    /// Puts interrupts where `GICD_CTLR` bit 0 enables them. With security extensions that's firmware's business.
    fn group(&self, number: usize) {
        if self.gicd.0.read(GICD_TYPER) & GICD_TYPER_SECURITY == 0 {
            self.gicd.set_groups(number, false);
        }
    }

    /// The CPU interface of the CPU that asks, as a mask: what the targets of its private interrupts read as.
    fn interface(&self) -> u8 {
        let targets = (0..32).fold(0, |targets, n| targets | self.gicd.0.read8(GICD_ITARGETSR | n));
        // A controller of a single CPU has no such registers.
        if targets == 0 { 1 } else { targets }
    }

    pub(super) fn init_cpu(&self) -> Result<Cpu, Error> {
        const SGIS: u32 = 0xffff;
        self.group(0);
        self.gicd.quiesce(0);
        self.gicd.enable_all(0, SGIS);
        for n in 0..4 {
            self.gicc.write(GICC_APR | (n << 2), 0);
            self.gicc.write(GICC_NSAPR | (n << 2), 0);
        }
        self.gicc.write(GICC_PMR, ALL_PRIORITIES);
        self.gicc.write(GICC_BPR, 0);
        let bypass = self.gicc.read(GICC_CTLR) & GICC_CTLR_BYPASS;
        self.gicc.write(GICC_CTLR, bypass | GICC_CTLR_EOI_MODE | GICC_CTLR_ENABLE);
        Ok(Cpu {
            gicd: self.gicd,
            gicc: self.gicc,
            gich: Gich::new(self.gich),
            target: SgiTarget(self.interface().into()),
        })
    }
}

/// The CPU interface of one CPU.
#[derive(Debug)]
pub struct Cpu {
    gicd: Bank,
    gicc: Registers,
    gich: Gich,
    target: SgiTarget,
}

impl Cpu {
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        Acknowledged::from_register(self.gicc.read(GICC_IAR))
    }

    #[inline(always)]
    pub(super) fn priority_drop(&self, interrupt: Acknowledged) {
        self.gicc.write(GICC_EOIR, interrupt.0);
    }

    #[inline(always)]
    pub(super) fn deactivate(&self, interrupt: Acknowledged) {
        self.gicc.write(GICC_DIR, interrupt.0);
    }

    /// The registers of an interrupt; those of private ones are banked.
    #[inline(always)]
    pub(super) fn bank(&self, _: IntId) -> Bank {
        self.gicd
    }

    pub(super) fn disable(&self, intid: IntId) {
        self.gicd.disable(intid);
        // GICv2 has no indication. Reading back orders the write before what follows.
        let _ = self.gicd.is_enabled(intid);
    }

    pub(super) fn target(&self, intid: IntId, target: SgiTarget) {
        if intid.is_shared() {
            self.gicd.0.write8(GICD_ITARGETSR.wrapping_add(intid.get() as usize), target.0 as u8);
        }
    }

    pub(super) const fn sgi_target(&self) -> SgiTarget {
        self.target
    }

    #[inline(always)]
    pub(super) fn send_sgi(&self, sgi: IntId, target: SgiTarget) {
        system::publish_stores();
        self.gicd
            .0
            .write(GICD_SGIR, (target.0 as u32) << GICD_SGIR_TARGET_SHIFT | (sgi.get() & 0xf));
    }

    pub(super) fn virtual_interface(&self) -> &Gich {
        &self.gich
    }

    pub(super) fn has_maintenance(&self) -> bool {
        self.gich.has_maintenance()
    }
}

impl ListRegisters for &Cpu {
    #[inline(always)]
    fn count(&self) -> usize {
        self.gich.count()
    }

    #[inline(always)]
    fn read(&mut self, n: usize) -> ListRegister {
        self.gich.read(n)
    }

    #[inline(always)]
    fn write(&mut self, n: usize, value: &ListRegister) {
        self.gich.write(n, value);
    }

    #[inline(always)]
    fn clear(&mut self, n: usize) {
        self.gich.clear(n);
    }

    #[inline(always)]
    fn empty(&mut self) -> u32 {
        self.gich.empty()
    }

    #[inline(always)]
    fn ended(&mut self) -> u32 {
        self.gich.ended()
    }

    fn set_underflow(&mut self, on: bool) {
        self.gich.set_underflow(on);
    }

    fn ended_outside(&mut self) -> u32 {
        self.gich.ended_outside()
    }

    fn set_end_outside_maintenance(&mut self, on: bool) {
        self.gich.set_end_outside_maintenance(on);
    }

    fn splits_deactivation(&mut self) -> bool {
        self.gich.splits_deactivation()
    }

    fn deactivate(&mut self, physical: u32) {
        self.gicc.write(GICC_DIR, physical);
    }
}
