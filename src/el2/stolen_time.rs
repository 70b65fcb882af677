//! Stolen time: how long each virtual CPU was runnable and did not run
//! (Arm DEN0057A).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::el2::frames;
use crate::el2::host::MAX_CPUS;
use crate::el2::memory;
use crate::el2::registers::read_register;

/// Where guests see the records: the place that QEMU's `virt` has for them.
pub(crate) const ADDRESS: u64 = 0x090a_0000;
/// Size of the page in bytes.
pub(crate) const SIZE: u64 = 64 << 10;
/// Distance of two records in bytes.
const RECORD: u64 = 64;
/// Offset of the count of nanoseconds in a record, after revision and attributes.
const STOLEN_OFFSET: u64 = 8;

/// The page with the records of one virtual machine.
#[derive(Debug)]
pub(crate) struct StolenTimePage {
    host: u64,
    ticks: [AtomicU64; MAX_CPUS],
}

impl StolenTimePage {
    /// A page of zeros; `None` when the host has no memory for it.
    pub(crate) fn allocate() -> Option<Self> {
        let host = frames::allocate(SIZE)?;
        memory::zero(host, SIZE);
        Some(StolenTimePage { host, ticks: [const { AtomicU64::new(0) }; MAX_CPUS] })
    }

    /// Its address in host memory.
    pub(crate) fn host_address(&self) -> u64 {
        self.host
    }

    /// Where the guest finds the record of a virtual CPU.
    pub(crate) fn record_address(vcpu: usize) -> u64 {
        ADDRESS.wrapping_add(RECORD.wrapping_mul(vcpu as u64))
    }

    /// Starts all records from zero.
    pub(crate) fn reset(&self) {
        memory::zero(self.host, SIZE);
        for ticks in &self.ticks {
            ticks.store(0, Ordering::Relaxed);
        }
    }

    /// Adds `ticks` of the counter to what was stolen from a virtual CPU. Only its host CPU
    /// calls this.
    pub(crate) fn add(&self, vcpu: usize, ticks: u64) {
        let Some(total) = self.ticks.get(vcpu) else { return };
        let sum = total.load(Ordering::Relaxed).wrapping_add(ticks);
        total.store(sum, Ordering::Relaxed);
        let frequency = u128::from(read_register!("cntfrq_el0").max(1));
        let nanoseconds = u128::from(sum).wrapping_mul(1_000_000_000) / frequency;
        let record = self.host.wrapping_add(RECORD.wrapping_mul(vcpu as u64));
        // SAFETY: the record lies in our page, which is mapped and aligned.
        let stolen = unsafe { AtomicU64::from_ptr((record + STOLEN_OFFSET) as *mut u64) };
        stolen.store(nanoseconds as u64, Ordering::Release);
    }
}

impl Drop for StolenTimePage {
    fn drop(&mut self) {
        frames::free(self.host, SIZE);
    }
}
