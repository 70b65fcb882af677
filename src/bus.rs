//! The bus of a virtual machine: which device answers at which address.

use alloc::sync::Arc;
use alloc::vec::Vec;

/// Width of one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    // The binary logarithm of the length is the value.
    /// 1 byte.
    Byte = 0,
    /// 2 bytes.
    Half,
    /// 4 bytes.
    Word,
    /// 8 bytes.
    Double,
}

impl Width {
    /// Length in bytes: 1, 2, 4 or 8.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self as u32
    }

    /// A value with the bits of this width set.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> u64::BITS.wrapping_sub(8 << self as u32)
    }

    /// The width of `bytes` bytes; `None` unless that is 1, 2, 4 or 8.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Width::Byte),
            2 => Some(Width::Half),
            4 => Some(Width::Word),
            8 => Some(Width::Double),
            _ => None,
        }
    }
}

/// The device refuses the access; the guest sees what hardware would raise
/// (an external abort, a general-protection exception, all ones on a port).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusFault;

/// How far a write got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The write is done.
    Done,
    /// The write asked for more work than one access may take. The same write
    /// goes on with it: the guest repeats its instruction, and interrupts and
    /// other virtual CPUs get their turn in between.
    Again,
}

/// A register file on the bus. Implementations lock themselves.
pub trait Device: Send + Sync {
    /// Reads `width` at `offset` from the start of the device's window; the
    /// value is zero-extended.
    ///
    /// # Errors
    /// [`BusFault`] where hardware would not answer.
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault>;

    /// Writes the low `width` of `value` at `offset`.
    ///
    /// # Errors
    /// [`BusFault`] where hardware would not answer.
    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusFault>;

    /// As [`Device::write`], for callers that can repeat a write.
    ///
    /// # Errors
    /// [`BusFault`] where hardware would not answer.
    fn write_some(&self, offset: u64, width: Width, value: u64) -> Result<Progress, BusFault> {
        self.write(offset, width, value).map(|()| Progress::Done)
    }

    /// Returns to the state after power-on.
    fn reset(&self);
}

/// A wire from a device to the interrupt controller of its machine.
pub trait InterruptLine: Send + Sync {
    /// Drives the line; level-sensitive, so that a repeated level is no event.
    fn set(&self, asserted: bool);
}

/// Address spaces with devices in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The guest-physical address space.
    Memory,
    /// The port space of machines that have one.
    Port,
}

/// Two windows would overlap, or one would wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("device window {base:#x}..+{size:#x} overlaps another or wraps; move one of them")]
pub struct Overlap {
    /// First address of the refused window.
    pub base: u64,
    /// Its length in bytes.
    pub size: u64,
}

struct Window {
    base: u64,
    size: u64,
    device: Arc<dyn Device>,
}

impl Window {
    /// The offset of an access that lies inside; `None` for any other.
    #[inline]
    fn offset(&self, address: u64, width: Width) -> Option<u64> {
        let offset = address.wrapping_sub(self.base);
        let rest = self.size.checked_sub(offset)?;
        (rest >= width.bytes()).then_some(offset)
    }
}

/// The last of the sorted `windows` that does not begin after `address`.
#[inline(never)]
fn place(windows: &[Window], address: u64) -> Option<usize> {
    windows.partition_point(|window| window.base <= address).checked_sub(1)
}

/// Where somebody's last look-up was, which is often where the next one is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Near(usize);

/// The devices of one virtual machine. Built before its virtual CPUs run and
/// constant from then on, so that a look-up takes no lock.
#[derive(Default)]
pub struct Bus {
    memory: Vec<Window>,
    port: Vec<Window>,
}

impl Bus {
    /// A bus with nothing on it.
    pub const fn new() -> Self {
        Bus { memory: Vec::new(), port: Vec::new() }
    }

    /// Puts `device` at `base..base + size` of `space`.
    ///
    /// # Errors
    /// [`Overlap`] when the window is empty, wraps or meets another one.
    pub fn attach(
        &mut self,
        space: Space,
        base: u64,
        size: u64,
        device: Arc<dyn Device>,
    ) -> Result<(), Overlap> {
        let overlap = Overlap { base, size };
        let last = size.checked_sub(1).and_then(|s| base.checked_add(s)).ok_or(overlap)?;
        let windows = match space {
            Space::Memory => &mut self.memory,
            Space::Port => &mut self.port,
        };
        let place = windows.partition_point(|w| w.base < base);
        let meets_next = windows.get(place).is_some_and(|next| next.base <= last);
        let meets_previous = place
            .checked_sub(1)
            .and_then(|p| windows.get(p))
            .is_some_and(|previous| base.wrapping_sub(previous.base) < previous.size);
        if meets_next || meets_previous {
            return Err(overlap);
        }
        windows.insert(place, Window { base, size, device });
        Ok(())
    }

    /// The device at `address` and the offset in its window; `None` unless
    /// the whole access lies inside one window.
    pub fn find(&self, space: Space, address: u64, width: Width) -> Option<(&dyn Device, u64)> {
        self.find_near(&mut Near::default(), space, address, width)
    }

    /// As [`Bus::find`], for a caller that remembers where it was last.
    #[inline]
    pub fn find_near(
        &self,
        near: &mut Near,
        space: Space,
        address: u64,
        width: Width,
    ) -> Option<(&dyn Device, u64)> {
        let windows = match space {
            Space::Memory => &self.memory,
            Space::Port => &self.port,
        };
        if let Some(window) = windows.get(near.0)
            && let Some(offset) = window.offset(address, width)
        {
            return Some((&*window.device, offset));
        }
        near.0 = place(windows, address)?;
        let window = windows.get(near.0)?;
        window.offset(address, width).map(|offset| (&*window.device, offset))
    }

    /// Resets every device.
    pub fn reset(&self) {
        for window in self.memory.iter().chain(&self.port) {
            window.device.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u64);

    impl Device for Constant {
        fn read(&self, _: u64, _: Width) -> Result<u64, BusFault> {
            Ok(self.0)
        }
        fn write(&self, _: u64, _: Width, _: u64) -> Result<(), BusFault> {
            Ok(())
        }
        fn reset(&self) {}
    }

    fn bus() -> Bus {
        let mut bus = Bus::new();
        bus.attach(Space::Memory, 0x1000, 0x1000, Arc::new(Constant(1))).unwrap();
        bus.attach(Space::Memory, 0x3000, 0x1000, Arc::new(Constant(3))).unwrap();
        bus.attach(Space::Memory, 0x2000, 0x1000, Arc::new(Constant(2))).unwrap();
        bus
    }

    #[test]
    fn an_access_finds_the_window_that_holds_all_of_it() {
        let bus = bus();
        for (address, width, expected) in [
            (0x0fff, Width::Byte, None),
            (0x1000, Width::Byte, Some((1, 0))),
            (0x1ffc, Width::Word, Some((1, 0xffc))),
            (0x1ffd, Width::Word, None),
            (0x2008, Width::Double, Some((2, 8))),
            (0x3fff, Width::Byte, Some((3, 0xfff))),
            (0x4000, Width::Byte, None),
            (u64::MAX, Width::Double, None),
        ] {
            let found = bus
                .find(Space::Memory, address, width)
                .map(|(device, offset)| (device.read(offset, width).unwrap(), offset));
            assert_eq!(found, expected, "{address:#x}");
            assert!(bus.find(Space::Port, address, width).is_none());
        }
    }

    #[test]
    fn a_look_up_does_not_depend_on_where_the_last_one_was() {
        let bus = bus();
        let addresses = [0x0fff, 0x1000, 0x2ffc, 0x2ffd, 0x3ffc, 0x4000, 0, u64::MAX];
        for before in addresses {
            for address in addresses {
                let mut near = Near::default();
                let _ = bus.find_near(&mut near, Space::Memory, before, Width::Word);
                let found = bus.find_near(&mut near, Space::Memory, address, Width::Word);
                let expected = bus.find(Space::Memory, address, Width::Word);
                let seen = |answer: Option<(&dyn Device, u64)>| {
                    answer.map(|(device, offset)| (device.read(offset, Width::Word), offset))
                };
                assert_eq!(seen(found), seen(expected), "{address:#x} after {before:#x}");
            }
        }
    }

    #[test]
    fn a_window_that_meets_another_is_refused() {
        for (base, size) in
            [(0x1000, 1), (0x0fff, 2), (0x3fff, 1), (0, u64::MAX), (0x5000, 0), (u64::MAX, 2)]
        {
            let refused = bus().attach(Space::Memory, base, size, Arc::new(Constant(0)));
            assert_eq!(refused, Err(Overlap { base, size }), "{base:#x}");
        }
        assert!(bus().attach(Space::Memory, 0x4000, 1, Arc::new(Constant(0))).is_ok());
        assert!(bus().attach(Space::Port, 0x1000, 1, Arc::new(Constant(0))).is_ok());
    }
}
