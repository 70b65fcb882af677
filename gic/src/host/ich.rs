//! The virtual interface control registers of GICv3, `ICH_*_EL2` (IHI 0069 12.4). Apple silicon has them too.

use core::cell::Cell;

use super::CpuInterfaceState;
use super::system;
use crate::ListRegister;

const HCR_EN: u64 = 1 << 0;
const HCR_UIE: u64 = 1 << 1;
const HCR_LRENPIE: u64 = 1 << 2;
const HCR_EOI_COUNT_SHIFT: u32 = 27;
const HCR_EOI_COUNT_MASK: u64 = 0x1f;
/// Registers of group 0 trap, those of group 1, and `ICC_DIR_EL1`.
const HCR_TALL0: u64 = 1 << 11;
const HCR_TALL1: u64 = 1 << 12;
const HCR_TDIR: u64 = 1 << 14;
const VTR_TDIR: u64 = 1 << 19;
const VTR_SERROR: u64 = 1 << 22;
const VTR_LIST_REGS: u64 = 0x1f;
const VTR_PRE_BITS_SHIFT: u32 = 26;
const VTR_PRI_BITS_SHIFT: u32 = 29;
const VTR_BITS_MASK: u64 = 0b111;
const VMCR_EOI_MODE: u64 = 1 << 9;
const VMCR_PRIORITY_SHIFT: u32 = 24;
/// Interrupts of group 0 are FIQs; fixed to one with system registers.
const VMCR_FIQ_ENABLE: u64 = 1 << 3;

/// The virtual CPU interface of the CPU that uses it.
#[derive(Debug)]
pub struct Ich {
    count: u8,
    /// How many of each kind of active priorities register there are.
    active_priorities: u8,
    priority_bits: u8,
    preemption_bits: u8,
    /// Bits of `ICH_HCR_EL2` by which the guest's accesses trap.
    traps: u64,
    hcr: Cell<u64>,
}

impl Ich {
    /// Frees all list registers of the CPU that calls and leaves the interface off. `ICC_SRE_EL2.SRE` must be set where
    /// it exists.
    #[must_use]
    pub fn new() -> Self {
        let vtr = system::read_ich_vtr();
        let preemption_bits = ((vtr >> VTR_PRE_BITS_SHIFT) & VTR_BITS_MASK).saturating_add(1);
        let ich = Self {
            count: (vtr & VTR_LIST_REGS).saturating_add(1).min(16) as u8,
            // One bit for each preemption level, 32 in a register.
            active_priorities: 1u8.wrapping_shl(preemption_bits.saturating_sub(5) as u32).min(4),
            priority_bits: ((vtr >> VTR_PRI_BITS_SHIFT) & VTR_BITS_MASK).saturating_add(1) as u8,
            preemption_bits: preemption_bits as u8,
            traps: 0,
            hcr: Cell::new(0),
        };
        system::write_ich_hcr(0);
        for n in 0..ich.count() {
            system::write_ich_lr(n, 0);
        }
        ich.restore(&CpuInterfaceState::default());
        ich
    }

    /// As [`new`](Self::new), and if the interface raises an SError when a guest breaks its rules (`ICH_VTR_EL2.SEIS`),
    /// all accesses trap by which it could: they are to be carried out in [software](crate::interface).
    #[must_use]
    pub fn without_serror() -> Self {
        let mut ich = Self::new();
        let vtr = system::read_ich_vtr();
        if vtr & VTR_SERROR != 0 {
            ich.traps = HCR_TALL0 | HCR_TALL1 | if vtr & VTR_TDIR != 0 { HCR_TDIR } else { 0 };
            ich.hcr.set(ich.traps);
            system::write_ich_hcr(ich.traps);
        }
        ich
    }

    /// Whether the guest's accesses trap.
    #[must_use]
    pub const fn traps(&self) -> bool {
        self.traps != 0
    }

    /// Turns the interface on or off.
    pub fn enable(&self, on: bool) {
        self.change(HCR_EN, on);
    }

    /// The number of list registers.
    #[inline(always)]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Reads list register `n`.
    #[inline(always)]
    #[must_use]
    pub fn read(&self, n: usize) -> ListRegister {
        ListRegister::decode_ich(system::read_ich_lr(n))
    }

    /// Writes list register `n`.
    #[inline(always)]
    pub fn write(&self, n: usize, value: &ListRegister) {
        system::write_ich_lr(n, value.encode_ich());
    }

    /// Frees list register `n`.
    #[inline(always)]
    pub fn clear(&self, n: usize) {
        system::write_ich_lr(n, 0);
    }

    /// `ICH_ELRSR_EL2`.
    #[inline(always)]
    #[must_use]
    pub fn empty(&self) -> u32 {
        system::read_ich_elrsr() as u32
    }

    /// `ICH_EISR_EL2`.
    #[inline(always)]
    #[must_use]
    pub fn ended(&self) -> u32 {
        system::read_ich_eisr() as u32
    }

    /// `ICH_HCR_EL2.UIE`.
    pub fn set_underflow(&self, on: bool) {
        self.change(HCR_UIE, on);
    }

    /// Reads `ICH_HCR_EL2.EOIcount` and makes it zero.
    pub fn ended_outside(&self) -> u32 {
        let count = (system::read_ich_hcr() >> HCR_EOI_COUNT_SHIFT) & HCR_EOI_COUNT_MASK;
        if count != 0 {
            system::write_ich_hcr(self.hcr.get());
        }
        count as u32
    }

    /// `ICH_HCR_EL2.LRENPIE`. `EOIcount` becomes zero.
    pub fn set_end_outside_maintenance(&self, on: bool) {
        self.change(HCR_LRENPIE, on);
    }

    /// `ICH_VMCR_EL2.VEOIM`.
    #[must_use]
    pub fn splits_deactivation(&self) -> bool {
        system::read_ich_vmcr() & VMCR_EOI_MODE != 0
    }

    /// Whether the interface is on and a maintenance interrupt has a cause.
    #[must_use]
    pub fn has_maintenance(&self) -> bool {
        self.hcr.get() & HCR_EN != 0 && system::read_ich_misr() != 0
    }

    /// Saves what the vCPU has beside list registers.
    pub fn save(&self, state: &mut CpuInterfaceState) {
        state.vmcr = system::read_ich_vmcr();
        for (n, (group0, group1)) in
            state.active_group0.iter_mut().zip(&mut state.active_group1).enumerate()
        {
            if n < usize::from(self.active_priorities) {
                *group0 = system::read_ich_ap0r(n);
                *group1 = system::read_ich_ap1r(n);
            }
        }
    }

    /// Gives the interface the state of a vCPU.
    pub fn restore(&self, state: &CpuInterfaceState) {
        system::write_ich_vmcr(state.vmcr | VMCR_FIQ_ENABLE);
        for (n, (group0, group1)) in
            state.active_group0.iter().zip(&state.active_group1).enumerate()
        {
            if n < usize::from(self.active_priorities) {
                system::write_ich_ap0r(n, *group0);
                system::write_ich_ap1r(n, *group1);
            }
        }
    }

    /// `ICH_VMCR_EL2.VPMR`.
    #[must_use]
    pub fn priority_mask(&self) -> u8 {
        (system::read_ich_vmcr() >> VMCR_PRIORITY_SHIFT) as u8
    }

    /// `ICH_VTR_EL2.PRIbits` + 1.
    #[must_use]
    pub const fn priority_bits(&self) -> u8 {
        self.priority_bits
    }

    /// `ICH_VTR_EL2.PREbits` + 1.
    #[must_use]
    pub(super) const fn preemption_bits(&self) -> u8 {
        self.preemption_bits
    }

    /// Adds one to `ICH_HCR_EL2.EOIcount`, which wraps.
    pub(super) fn count_end_outside(&self) {
        let count = (system::read_ich_hcr() >> HCR_EOI_COUNT_SHIFT).wrapping_add(1);
        let count = count & HCR_EOI_COUNT_MASK;
        system::write_ich_hcr(self.hcr.get() | count << HCR_EOI_COUNT_SHIFT);
    }

    /// Writes `ICH_HCR_EL2` with `EOIcount` zero.
    fn change(&self, bits: u64, on: bool) {
        let before = self.hcr.get();
        self.hcr.set(if on { before | bits } else { before & !bits });
        system::write_ich_hcr(self.hcr.get());
    }
}

impl Default for Ich {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a CPU whose field `ich` is its virtual CPU interface have the list registers of that. `$deactivate` ends a
/// physical interrupt.
macro_rules! list_registers_by_ich {
    ($cpu:ty, |$self:ident, $physical:ident| $deactivate:expr) => {
        impl crate::ListRegisters for &$cpu {
            #[inline(always)]
            fn count(&self) -> usize {
                self.ich.count()
            }

            #[inline(always)]
            fn read(&mut self, n: usize) -> crate::ListRegister {
                self.ich.read(n)
            }

            #[inline(always)]
            fn write(&mut self, n: usize, value: &crate::ListRegister) {
                self.ich.write(n, value);
            }

            #[inline(always)]
            fn clear(&mut self, n: usize) {
                self.ich.clear(n);
            }

            #[inline(always)]
            fn empty(&mut self) -> u32 {
                self.ich.empty()
            }

            #[inline(always)]
            fn ended(&mut self) -> u32 {
                self.ich.ended()
            }

            fn set_underflow(&mut self, on: bool) {
                self.ich.set_underflow(on);
            }

            fn ended_outside(&mut self) -> u32 {
                self.ich.ended_outside()
            }

            fn set_end_outside_maintenance(&mut self, on: bool) {
                self.ich.set_end_outside_maintenance(on);
            }

            fn splits_deactivation(&mut self) -> bool {
                self.ich.splits_deactivation()
            }

            fn deactivate(&mut self, physical: u32) {
                let ($self, $physical) = (self, physical);
                $deactivate;
            }
        }
    };
}
pub(super) use list_registers_by_ich;
