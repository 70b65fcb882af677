//! Loads and stores that devices see, one instruction each, of the forms that
//! every hypervisor can emulate.

use core::arch::asm;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $form:literal) => {
        /// Reads a device register of this width.
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // SAFETY: the address is a device's or a hole's, where no Rust object lives; a
            // refused access is skipped by the exception handler or ends the guest.
            unsafe {
                asm!(
                    concat!($load, " {value:", $form, "}, [{address}]"),
                    value = inout(reg) 0_u64 => value, address = in(reg) address,
                    options(nostack)
                );
            }
            value as $type
        }

        /// Writes a device register of this width.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: as for the read.
            unsafe {
                asm!(
                    concat!($store, " {value:", $form, "}, [{address}]"),
                    value = in(reg) u64::from(value), address = in(reg) address,
                    options(nostack)
                );
            }
        }
    };
}

access!(read8, write8, u8, "ldrb", "strb", "w");
access!(read16, write16, u16, "ldrh", "strh", "w");
access!(read32, write32, u32, "ldr", "str", "w");
access!(read64, write64, u64, "ldr", "str", "x");
