//! Where the registers of the host's devices stand in a guest.

use super::{GuestAddress, GuestRange, layout};
use crate::{Region, merge_regions};
use alloc::vec::Vec;

/// Pages of the host's devices, one after the other in [`layout::PASSED`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

/// Neighbouring pages of the host's devices and where the guest has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Whole pages of the host.
    pub host: Region,
    /// Where they start in the guest.
    pub guest: GuestAddress,
}

impl Windows {
    /// Windows for `registers`, in whole pages of `page` bytes, a power of two. A page that has registers of several
    /// devices is there once. `None` if there is no room for all.
    #[must_use]
    pub fn place(registers: impl Iterator<Item = Region>, page: u64) -> Option<Self> {
        let pages: Option<Vec<Region>> =
            registers.map(|region| region.aligned_outside(page)).collect();
        let mut next = layout::PASSED.base().get();
        let mut windows = Vec::new();
        for host in merge_regions(pages?) {
            let guest = GuestAddress::new(next);
            next = next.checked_add(host.size())?;
            if next > layout::PASSED.end().get() {
                return None;
            }
            windows.push(Window { host, guest });
        }
        Some(Self(windows))
    }

    /// The windows in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = Window> + '_ {
        self.0.iter().copied()
    }

    /// Where the guest has these registers; `None` if they are in no window.
    #[must_use]
    pub fn guest(&self, registers: Region) -> Option<GuestRange> {
        let window = self.iter().find(|window| window.host.contains(registers.base()))?;
        let offset = registers.base().get().checked_sub(window.host.base().get())?;
        let base = GuestAddress::new(window.guest.get().checked_add(offset)?);
        GuestRange::new(base, registers.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysicalAddress;

    fn region(base: u64, size: u64) -> Region {
        Region::new(PhysicalAddress::new(base), size).unwrap()
    }

    fn guest(base: u64, size: u64) -> Option<GuestRange> {
        GuestRange::new(GuestAddress::new(base), size)
    }

    #[test]
    fn each_device_stands_in_pages_of_its_own_at_its_offset() {
        let (serial, gpio) = (region(0xfe20_1a00, 0x90), region(0x903_0000, 0x1000));
        let windows = Windows::place([serial, gpio].into_iter(), 0x1000).unwrap();
        assert_eq!(windows.guest(gpio), guest(0xc00_0000, 0x1000));
        assert_eq!(windows.guest(serial), guest(0xc00_1a00, 0x90));
        let hosts: Vec<Region> = windows.iter().map(|window| window.host).collect();
        assert_eq!(hosts, [region(0x903_0000, 0x1000), region(0xfe20_1000, 0x1000)]);
    }

    #[test]
    fn devices_of_one_page_stay_together() {
        let disks = [0xa00_3e00, 0xa00_3c00, 0xa00_3000].map(|base| region(base, 0x200));
        let windows = Windows::place(disks.into_iter(), 0x1000).unwrap();
        assert_eq!(windows.iter().count(), 1);
        assert_eq!(windows.guest(disks[0]), guest(0xc00_0e00, 0x200));
        assert_eq!(windows.guest(disks[2]), guest(0xc00_0000, 0x200));
        assert_eq!(windows.guest(region(0xa00_4000, 4)), None);
    }

    #[test]
    fn what_does_not_fit_or_wraps_has_no_place() {
        assert!(Windows::place([region(0x1000_0000, 0x200_0000)].into_iter(), 0x4000).is_some());
        assert!(Windows::place([region(0x1000_0000, 0x200_0001)].into_iter(), 0x4000).is_none());
        assert!(Windows::place([region(u64::MAX - 8, 8)].into_iter(), 0x1000).is_none());
    }
}
