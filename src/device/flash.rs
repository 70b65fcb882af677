//! Parallel flash with nothing in it.

use crate::bus::{BusFault, Device, Width};

/// NOR flash that is erased and takes no commands: firmware that looks for its
/// settings there finds none, and a query of the chip gets no answer.
#[derive(Debug, Default)]
pub struct ErasedFlash;

impl Device for ErasedFlash {
    fn read(&self, _: u64, width: Width) -> Result<u64, BusFault> {
        Ok(width.mask())
    }

    fn write(&self, _: u64, _: Width, _: u64) -> Result<(), BusFault> {
        Ok(())
    }

    fn reset(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_erased() {
        let flash = ErasedFlash;
        for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
            assert_eq!(flash.write(0, width, 0x98), Ok(()));
            flash.reset();
            assert_eq!(flash.read(0x10, width), Ok(width.mask()));
        }
    }
}
