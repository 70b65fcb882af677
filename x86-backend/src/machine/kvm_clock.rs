//! The clock that guests share with their hypervisor: KVM's paravirtual clock
//! (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_WALL_CLOCK_NEW and
//! MSR_KVM_SYSTEM_TIME_NEW).
//!
//! A guest computes nanoseconds from its time-stamp counter and the factors in
//! a page of its own memory, with no exit. All virtual CPUs share one reference
//! point, so that their clocks agree to the tick.

use super::clock::{NANOSECONDS_PER_SECOND, scale};
use bunshin::address::GuestAddress;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};

/// MSR_KVM_SYSTEM_TIME_NEW: the page is in use.
const ENABLED: u64 = 1 << 0;
/// The page starts at a multiple of this.
const ALIGNMENT: u64 = 4;
/// `pvclock_vcpu_time_info.flags`: clocks of all virtual CPUs agree.
const FLAG_TSC_STABLE: u8 = 1 << 0;
/// Bytes of `pvclock_vcpu_time_info`.
const SYSTEM_TIME_SIZE: usize = 32;
/// Bytes of `pvclock_wall_clock`.
const WALL_CLOCK_SIZE: usize = 12;

/// Factors that turn ticks into nanoseconds:
/// `(ticks << shift) * multiplier >> 32`, to the right for negative shifts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factors {
    /// 32-bit binary fraction, at least one half.
    pub multiplier: u32,
    /// Shift before the multiplication, -31 to 31.
    pub shift: i8,
}

impl Factors {
    /// The factors for a counter of `tsc_khz`; 0 counts as 1.
    pub fn new(tsc_khz: u32) -> Self {
        const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;
        let ticks = u64::from(tsc_khz.max(1));
        // Halve or double the ratio until it is a fraction from one half to one.
        let (mut numerator, mut denominator, mut shift) = (NANOSECONDS_PER_MILLISECOND, ticks, 0i8);
        while numerator >= denominator {
            denominator <<= 1;
            shift = shift.saturating_add(1);
        }
        while numerator << 1 < denominator {
            numerator <<= 1;
            shift = shift.saturating_sub(1);
        }
        let multiplier = scale(numerator, 1 << 32, denominator);
        Factors { multiplier: u32::try_from(multiplier).unwrap_or(u32::MAX), shift }
    }

    /// Nanoseconds of `ticks`, as the guest computes them.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let by = self.shift.unsigned_abs().into();
        let shifted = if self.shift < 0 {
            ticks.checked_shr(by).unwrap_or(0)
        } else {
            ticks.checked_shl(by).unwrap_or(0)
        };
        let product = u128::from(shifted).wrapping_mul(u128::from(self.multiplier));
        ((product >> 32) & u128::from(u64::MAX)) as u64
    }
}

/// A moment on both clocks of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Time-stamp counter of the guest.
    pub tsc: u64,
    /// Nanoseconds since the machine started.
    pub nanoseconds: u64,
}

/// The clock page of one virtual CPU.
#[derive(Debug, Clone, Default)]
pub struct SystemTime {
    address: Option<GuestAddress>,
    msr: u64,
    version: u32,
}

impl SystemTime {
    /// Value that the guest wrote to MSR_KVM_SYSTEM_TIME_NEW.
    pub fn msr(&self) -> u64 {
        self.msr
    }

    /// The guest writes MSR_KVM_SYSTEM_TIME_NEW. Call [`SystemTime::update`]
    /// afterwards.
    pub fn set_msr(&mut self, value: u64) {
        self.msr = value;
        let address = value & !ENABLED;
        let usable = value & ENABLED != 0 && address.is_multiple_of(ALIGNMENT);
        self.address = usable.then_some(GuestAddress(address));
    }

    /// Writes the page, if the guest has one. `stable` says that the
    /// time-stamp counters of all virtual CPUs agree and `reference` is the
    /// same for all.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`] if the page is not in the guest's memory; it is
    /// not tried again then.
    pub fn update(
        &mut self,
        memory: &dyn GuestMemory,
        reference: Reference,
        factors: Factors,
        stable: bool,
    ) -> Result<(), OutOfMemoryRange> {
        let Some(address) = self.address else { return Ok(()) };
        // Odd while the page changes, even when it is consistent.
        let (changing, done) = next_versions(self.version);
        self.version = done;
        let mut page = Fields::<SYSTEM_TIME_SIZE>::new();
        page.put(&changing.to_le_bytes());
        page.put(&[0; 4]);
        page.put(&reference.tsc.to_le_bytes());
        page.put(&reference.nanoseconds.to_le_bytes());
        page.put(&factors.multiplier.to_le_bytes());
        page.put(&factors.shift.to_le_bytes());
        page.put(&[if stable { FLAG_TSC_STABLE } else { 0 }]);
        let written = memory
            .write(address, &page.bytes)
            .and_then(|()| memory.write(address, &done.to_le_bytes()));
        if written.is_err() {
            self.address = None;
        }
        written
    }
}

/// Answers a write of `value` to MSR_KVM_WALL_CLOCK_NEW: stores the civil time
/// at which the guest's nanoseconds were zero.
///
/// # Errors
/// [`OutOfMemoryRange`] if the structure is not in the guest's memory.
pub fn write_wall_clock(
    memory: &dyn GuestMemory,
    value: u64,
    unix_nanoseconds_at_start: u64,
) -> Result<(), OutOfMemoryRange> {
    let address = GuestAddress(value);
    let mut version = [0; 4];
    memory.read(address, &mut version)?;
    let (changing, done) = next_versions(u32::from_le_bytes(version));
    let seconds = scale(unix_nanoseconds_at_start, 1, NANOSECONDS_PER_SECOND);
    let rest = unix_nanoseconds_at_start % NANOSECONDS_PER_SECOND;
    let mut clock = Fields::<WALL_CLOCK_SIZE>::new();
    clock.put(&changing.to_le_bytes());
    clock.put(&((seconds & 0xffff_ffff) as u32).to_le_bytes());
    clock.put(&((rest & 0xffff_ffff) as u32).to_le_bytes());
    memory.write(address, &clock.bytes)?;
    memory.write(address, &done.to_le_bytes())
}

/// The odd version after `version`, and the even one after that.
const fn next_versions(version: u32) -> (u32, u32) {
    let changing = version.wrapping_add(1) | 1;
    (changing, changing.wrapping_add(1))
}

/// Little-endian fields, one after the other.
struct Fields<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Fields { bytes: [0; N], used: 0 }
    }

    fn put(&mut self, field: &[u8]) {
        let end = self.used.saturating_add(field.len());
        if let Some(place) = self.bytes.get_mut(self.used..end) {
            place.copy_from_slice(field);
        }
        self.used = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// Memory from 0x1000 on that remembers every version it held.
    struct Memory {
        bytes: RefCell<Vec<u8>>,
        versions: RefCell<Vec<u32>>,
    }

    impl Memory {
        fn new() -> Self {
            Memory { bytes: vec![0xee; 64].into(), versions: Vec::new().into() }
        }

        fn u32(&self, offset: usize) -> u32 {
            u32::from_le_bytes(self.bytes.borrow()[offset..][..4].try_into().unwrap())
        }

        fn u64(&self, offset: usize) -> u64 {
            u64::from_le_bytes(self.bytes.borrow()[offset..][..8].try_into().unwrap())
        }

        fn offset(address: GuestAddress, size: usize) -> Result<usize, OutOfMemoryRange> {
            let refused = OutOfMemoryRange { address, size: size as u64 };
            let offset = address.0.checked_sub(0x1000).ok_or(refused)? as usize;
            if offset.saturating_add(size) > 64 { Err(refused) } else { Ok(offset) }
        }
    }

    impl GuestMemory for Memory {
        fn read(&self, at: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
            let offset = Memory::offset(at, bytes.len())?;
            bytes.copy_from_slice(&self.bytes.borrow()[offset..][..bytes.len()]);
            Ok(())
        }

        fn write(&self, at: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
            let offset = Memory::offset(at, bytes.len())?;
            self.bytes.borrow_mut()[offset..][..bytes.len()].copy_from_slice(bytes);
            self.versions.borrow_mut().push(self.u32(0));
            Ok(())
        }
    }

    const NOW: Reference = Reference { tsc: 1 << 40, nanoseconds: 77 };

    #[test]
    fn the_page_has_the_layout_that_linux_reads() {
        let memory = Memory::new();
        let mut time = SystemTime::default();
        time.set_msr(0x1001);
        time.update(&memory, NOW, Factors { multiplier: 0x8000_0001, shift: -3 }, true).unwrap();
        assert_eq!(memory.u32(0), 2);
        assert_eq!(memory.u32(4), 0);
        assert_eq!(memory.u64(8), 1 << 40);
        assert_eq!(memory.u64(16), 77);
        assert_eq!(memory.u32(24), 0x8000_0001);
        assert_eq!(memory.bytes.borrow()[28..33], [0xfd, 1, 0, 0, 0xee]);
        time.update(&memory, NOW, Factors::new(1), false).unwrap();
        assert_eq!(*memory.versions.borrow(), [1, 2, 3, 4], "odd while it changes");
        assert_eq!(memory.bytes.borrow()[29], 0);
    }

    #[test]
    fn a_page_that_is_off_misaligned_or_outside_is_left_alone() {
        let memory = Memory::new();
        for (msr, accepted) in [(0x1000, true), (0x1003, true), (0x9001, false)] {
            let mut time = SystemTime::default();
            time.set_msr(msr);
            assert_eq!(time.msr(), msr);
            let first = time.update(&memory, NOW, Factors::new(1000), true);
            assert_eq!(first.is_ok(), accepted, "{msr:#x}");
            assert!(time.update(&memory, NOW, Factors::new(1000), true).is_ok());
        }
        assert!(memory.versions.borrow().is_empty());
    }

    #[test]
    fn the_wall_clock_splits_seconds_and_nanoseconds() {
        let memory = Memory::new();
        write_wall_clock(&memory, 0x1010, 1_795_370_709_123_456_789).unwrap();
        assert_eq!(memory.u32(0x10) & 1, 0);
        assert_eq!((memory.u32(0x14), memory.u32(0x18)), (1_795_370_709, 123_456_789));
        assert!(write_wall_clock(&memory, u64::MAX, 0).is_err());
    }

    #[test]
    fn factors_are_fractions_from_one_half_on() {
        for khz in [0, 1, 999_999, 1_000_000, 1_000_001, 2_600_000, u32::MAX] {
            let factors = Factors::new(khz);
            assert!(factors.multiplier >= 1 << 31, "{khz}: {factors:?}");
            assert!(factors.shift.unsigned_abs() < 32);
        }
        assert_eq!(Factors::new(1_000_000), Factors { multiplier: 1 << 31, shift: 1 });
    }

    proptest! {
        #[test]
        fn converted_time_is_right_to_a_part_in_a_billion(khz in 1000u32.., seconds in 0u64..100_000) {
            let ticks = u64::from(khz) * 1000 * seconds;
            let exact = seconds * NANOSECONDS_PER_SECOND;
            let off = Factors::new(khz).nanoseconds(ticks).abs_diff(exact);
            prop_assert!(off <= 1 + exact / 1_000_000_000, "{off}");
        }

        #[test]
        fn no_tick_count_overflows(khz in any::<u32>(), ticks in any::<u64>()) {
            Factors::new(khz).nanoseconds(ticks);
        }
    }
}
