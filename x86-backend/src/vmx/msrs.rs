//! MSRs of guests: which of them need no exit, and those that the control
//! structure does not switch.

use alloc::boxed::Box;

use spin::Once;
use x86_64::registers::model_specific::Msr;
use x86_backend::machine::msr;

/// STAR, LSTAR, CSTAR, SFMASK and KERNEL_GS_BASE: the hypervisor uses none of
/// them, so they move on a switch of virtual CPUs only.
const LAZY: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];
/// First MSR of the upper range.
const HIGH: u32 = 0xc000_0000;
/// Offsets in the bitmap (SDM 25.6.9): reads and writes, lower and upper range.
const READ_LOW: usize = 0;
const READ_HIGH: usize = 1024;
const WRITE_LOW: usize = 2048;
const WRITE_HIGH: usize = 3072;

/// The bitmap.
#[repr(C, align(4096))]
struct Bitmap([u8; 4096]);

/// Physical address of the bitmap, the same for all guests.
pub(super) fn bitmap() -> u64 {
    static BITMAP: Once<Box<Bitmap>> = Once::new();
    let bitmap = BITMAP.call_once(|| {
        let mut bitmap = Box::new(Bitmap([u8::MAX; 4096]));
        // The structure switches those of them that are not lazy.
        for (msr, _) in msr::direct() {
            let (reads, writes, index) = match msr.checked_sub(HIGH) {
                Some(index) => (READ_HIGH, WRITE_HIGH, index),
                None => (READ_LOW, WRITE_LOW, msr),
            };
            for first in [reads, writes] {
                let part = bitmap.0.get_mut(first..).unwrap_or_default();
                if let Some(byte) = part.get_mut(index as usize / 8) {
                    *byte &= !(1 << (index % 8));
                }
            }
        }
        bitmap
    });
    bitmap.0.as_ptr() as u64
}

/// The MSRs that the structure does not switch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LazyMsrs {
    values: [u64; LAZY.len()],
    loaded: bool,
}

impl LazyMsrs {
    /// Puts them into the processor.
    pub(super) fn load(&mut self) {
        for (msr, value) in LAZY.into_iter().zip(self.values) {
            // SAFETY: the register exists; the value came from it or was checked; the hypervisor
            // does not use it.
            unsafe { Msr::new(msr).write(value) }
        }
        self.loaded = true;
    }

    /// Takes them out.
    pub(super) fn save(&mut self) {
        for (msr, value) in LAZY.into_iter().zip(&mut self.values) {
            // SAFETY: the register exists.
            *value = unsafe { Msr::new(msr).read() };
        }
        self.loaded = false;
    }

    fn place(msr: u32) -> Option<usize> {
        LAZY.iter().position(|lazy| *lazy == msr)
    }

    /// Reads one.
    pub(super) fn read(&self, msr: u32) -> u64 {
        match Self::place(msr) {
            // SAFETY: as for `save`.
            Some(_) if self.loaded => unsafe { Msr::new(msr).read() },
            Some(place) => self.values.get(place).copied().unwrap_or(0),
            None => 0,
        }
    }

    /// Writes one with a value that was checked.
    pub(super) fn write(&mut self, msr: u32, value: u64) {
        let Some(slot) = Self::place(msr).and_then(|place| self.values.get_mut(place)) else {
            return;
        };
        *slot = value;
        if self.loaded {
            // SAFETY: as for `load`.
            unsafe { Msr::new(msr).write(value) }
        }
    }
}
