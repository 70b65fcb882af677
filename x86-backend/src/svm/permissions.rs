//! Which ports and MSRs a guest reaches without an exit (APM 15.10, 15.11):
//! no port, and the MSRs that the control block switches.

use alloc::boxed::Box;

use spin::Once;
use x86_backend::machine::msr;

/// Bytes of the port map: one bit a port, and room behind the last.
const IO_BYTES: usize = 3 * 4096;
/// Bytes of the MSR map.
const MSR_BYTES: usize = 2 * 4096;
/// MSRs of which a byte of the map tells.
const MSRS_A_BYTE: u32 = 4;
/// Bytes of one range of the map: 2000h MSRs.
const RANGE_BYTES: usize = 0x2000 / MSRS_A_BYTE as usize;
/// First MSRs of the ranges, in the order of the map.
const RANGES: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];

/// The maps; constant, and the same for all guests.
#[repr(C, align(4096))]
pub(super) struct Permissions {
    io: [u8; IO_BYTES],
    msr: [u8; MSR_BYTES],
}

impl Permissions {
    fn new() -> Box<Self> {
        // SAFETY: the maps are bytes, for which zero is a value.
        let mut maps: Box<Self> = unsafe { Box::new_zeroed().assume_init() };
        maps.io.fill(u8::MAX);
        maps.msr.fill(u8::MAX);
        // VMLOAD and VMSAVE switch them.
        for (msr, _) in msr::direct() {
            maps.pass(msr);
        }
        maps
    }

    /// Lets reads and writes of `msr` through: two bits each.
    fn pass(&mut self, msr: u32) {
        for (part, first) in self.msr.chunks_exact_mut(RANGE_BYTES).zip(RANGES) {
            let Some(place) = msr.checked_sub(first) else { continue };
            if let Some(byte) = part.get_mut((place / MSRS_A_BYTE) as usize) {
                *byte &= !0b11u8.wrapping_shl((place % MSRS_A_BYTE).wrapping_mul(2));
            }
        }
    }

    /// Physical address of the port map.
    pub(super) fn io(&self) -> u64 {
        self.io.as_ptr() as u64
    }

    /// Physical address of the MSR map.
    pub(super) fn msr(&self) -> u64 {
        self.msr.as_ptr() as u64
    }
}

/// The maps.
pub(super) fn get() -> &'static Permissions {
    static MAPS: Once<Box<Permissions>> = Once::new();
    MAPS.call_once(Permissions::new)
}
