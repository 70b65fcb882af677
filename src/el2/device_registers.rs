//! Registers of a host device in memory, for the drivers.

use core::ptr::NonNull;

use drivers::Registers;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;

use crate::el2::mmu;

/// A block of registers, mapped for good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceRegisters {
    base: u64,
    size: usize,
}

impl DeviceRegisters {
    /// The registers in this region, which the device tree says are a device's. Maps them.
    ///
    /// # Errors
    /// Those of the map.
    pub(crate) fn map(region: platform::Region) -> Result<Self, stage2::Error> {
        let (base, size) = (region.base().get(), region.size());
        mmu::map(base, size, mmu::DEVICE)?;
        Ok(DeviceRegisters { base, size: usize::try_from(size).unwrap_or(usize::MAX) })
    }

    /// Address of the first register.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    fn register<T>(&self, offset: usize) -> Option<NonNull<ReadPureWrite<T>>> {
        let inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.size);
        let address = self.base.checked_add(offset as u64)?;
        if !inside || !address.is_multiple_of(size_of::<T>() as u64) {
            return None;
        }
        NonNull::new(address as *mut ReadPureWrite<T>)
    }
}

impl Registers for DeviceRegisters {
    fn read8(&self, offset: usize) -> u8 {
        self.register(offset).map_or(0, |register| {
            // SAFETY: `map` mapped the block as device memory for good, the register lies inside of it and is aligned.
            // The pointer lives for one access.
            unsafe { UniqueMmioPointer::new(register) }.read()
        })
    }

    fn write8(&self, offset: usize, value: u8) {
        if let Some(register) = self.register(offset) {
            // SAFETY: as in `read8`.
            unsafe { UniqueMmioPointer::new(register) }.write(value);
        }
    }

    fn read32(&self, offset: usize) -> u32 {
        self.register(offset).map_or(0, |register| {
            // SAFETY: as in `read8`.
            unsafe { UniqueMmioPointer::new(register) }.read()
        })
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(register) = self.register(offset) {
            // SAFETY: as in `read8`.
            unsafe { UniqueMmioPointer::new(register) }.write(value);
        }
    }
}
