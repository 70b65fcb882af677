//! A device that remembers what was done to it.

use std::sync::Mutex;

use crate::bus::{BusFault, Device, Progress, Width};

/// What the device has been asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Read(u64, Width),
    Write(u64, Width, u64),
    Reset,
}

/// Reads give [`Recorder::VALUE`]; from [`Recorder::REFUSED`] on it refuses.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Asked>>);

impl Recorder {
    /// More bits than any access but the widest has, the top one of each set.
    pub(crate) const VALUE: u64 = 0x8182_8384_8586_8788;
    pub(crate) const REFUSED: u64 = 0x80;
    pub(crate) const SIZE: u64 = 0x100;
    /// A write there is done with its third time.
    pub(crate) const SLOW: u64 = 0x70;

    /// What has been asked since the last call.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Device for Recorder {
    fn read(&self, offset: u64, width: Width) -> Result<u64, BusFault> {
        self.0.lock().unwrap().push(Asked::Read(offset, width));
        if offset < Self::REFUSED { Ok(Self::VALUE) } else { Err(BusFault) }
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), BusFault> {
        self.0.lock().unwrap().push(Asked::Write(offset, width, value));
        if offset < Self::REFUSED { Ok(()) } else { Err(BusFault) }
    }

    fn write_some(&self, offset: u64, width: Width, value: u64) -> Result<Progress, BusFault> {
        self.write(offset, width, value)?;
        let asked = self.0.lock().unwrap();
        let times = asked.iter().filter(|a| matches!(a, Asked::Write(Self::SLOW, ..))).count();
        let unfinished = offset == Self::SLOW && times % 3 != 0;
        Ok(if unfinished { Progress::Again } else { Progress::Done })
    }

    fn reset(&self) {
        self.0.lock().unwrap().push(Asked::Reset);
    }
}
