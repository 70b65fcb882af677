//! The virtual interface control registers of GICv2 (IHI 0048 5.3).

use core::cell::Cell;

use super::CpuInterfaceState;
use super::mmio::Registers;
use crate::ListRegister;

const HCR: usize = 0x000;
const VTR: usize = 0x004;
const VMCR: usize = 0x008;
const MISR: usize = 0x010;
const EISR0: usize = 0x020;
const ELRSR0: usize = 0x030;
const APR: usize = 0x0f0;
const LR0: usize = 0x100;

const HCR_EN: u32 = 1 << 0;
const HCR_UIE: u32 = 1 << 1;
const HCR_LRENPIE: u32 = 1 << 2;
const HCR_EOI_COUNT_SHIFT: u32 = 27;
const VTR_LIST_REGS: u32 = 0x3f;
const VTR_PRI_BITS_SHIFT: u32 = 29;
const VMCR_EOI_MODE: u32 = 1 << 9;
const VMCR_PRIORITY_SHIFT: u32 = 27;

/// The virtual CPU interface of the CPU that uses it; the registers are banked.
#[derive(Debug)]
pub struct Gich {
    registers: Registers,
    count: u8,
    hcr: Cell<u32>,
}

impl Gich {
    /// The size of the frame in bytes.
    pub const SIZE: usize = 0x1000;

    /// Frees all list registers and leaves the interface off.
    pub(super) fn new(registers: Registers) -> Self {
        let listed = (registers.read(VTR) & VTR_LIST_REGS).saturating_add(1);
        let gich = Self { registers, count: listed.min(16) as u8, hcr: Cell::new(0) };
        registers.write(HCR, 0);
        for n in 0..listed as usize {
            registers.write(LR0 | (n << 2), 0);
        }
        gich.restore(&CpuInterfaceState::default());
        gich
    }

    pub(super) fn enable(&self, on: bool) {
        self.change(HCR_EN, on);
    }

    #[inline(always)]
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    #[inline(always)]
    pub(super) fn read(&self, n: usize) -> ListRegister {
        ListRegister::decode_gich(self.registers.read(LR0 | (n << 2)))
    }

    #[inline(always)]
    pub(super) fn write(&self, n: usize, value: &ListRegister) {
        self.registers.write(LR0 | (n << 2), value.encode_gich());
    }

    #[inline(always)]
    pub(super) fn clear(&self, n: usize) {
        self.registers.write(LR0 | (n << 2), 0);
    }

    pub(super) fn empty(&self) -> u32 {
        self.registers.read(ELRSR0)
    }

    pub(super) fn ended(&self) -> u32 {
        self.registers.read(EISR0)
    }

    pub(super) fn set_underflow(&self, on: bool) {
        self.change(HCR_UIE, on);
    }

    /// Reads `GICH_HCR.EOICount` and makes it zero.
    pub(super) fn ended_outside(&self) -> u32 {
        let count = self.registers.read(HCR) >> HCR_EOI_COUNT_SHIFT;
        if count != 0 {
            self.registers.write(HCR, self.hcr.get());
        }
        count
    }

    pub(super) fn set_end_outside_maintenance(&self, on: bool) {
        self.change(HCR_LRENPIE, on);
    }

    pub(super) fn splits_deactivation(&self) -> bool {
        self.registers.read(VMCR) & VMCR_EOI_MODE != 0
    }

    pub(super) fn has_maintenance(&self) -> bool {
        self.hcr.get() & HCR_EN != 0 && self.registers.read(MISR) != 0
    }

    pub(super) fn save(&self, state: &mut CpuInterfaceState) {
        state.vmcr = self.registers.read(VMCR).into();
        if let Some(first) = state.active_group0.first_mut() {
            *first = self.registers.read(APR).into();
        }
    }

    pub(super) fn restore(&self, state: &CpuInterfaceState) {
        self.registers.write(VMCR, state.vmcr as u32);
        self.registers.write(APR, state.active_group0.first().copied().unwrap_or_default() as u32);
    }

    pub(super) fn priority_mask(&self) -> u8 {
        ((self.registers.read(VMCR) >> VMCR_PRIORITY_SHIFT) << 3) as u8
    }

    pub(super) fn priority_bits(&self) -> u8 {
        (self.registers.read(VTR) >> VTR_PRI_BITS_SHIFT).saturating_add(1) as u8
    }

    /// Writes `GICH_HCR` with `EOICount` zero.
    fn change(&self, bits: u32, on: bool) {
        let before = self.hcr.get();
        self.hcr.set(if on { before | bits } else { before & !bits });
        self.registers.write(HCR, self.hcr.get());
    }
}
