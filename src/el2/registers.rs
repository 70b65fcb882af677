//! System registers by name. `aarch64-cpu` has the well-known ones; the rest,
//! and those with two names, are here.
//!
//! With `HCR_EL2.E2H` set, the `_EL1` names of a guest's registers reach EL2's
//! own; the guest's are then under `_EL12` names (Arm ARM D8.10.1).

/// Reads a system register by its assembler name.
macro_rules! read_register {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading this register has no effect on memory or control flow.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Reads a system register that says why the guest exited, and stays as it is until the next exit. Not at all if nobody
/// asks for the value.
macro_rules! read_cause {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: as in `read_register`. To the compiler it is a read of memory, all of which running the guest changes.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(pure, readonly, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register by its assembler name.
macro_rules! write_register {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: called from the modules of this image that own the register;
        // none of the registers written this way maps or unmaps memory of ours.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

pub(crate) use {read_cause, read_register, write_register};

/// Waits until earlier register writes have taken effect.
#[inline]
pub(crate) fn synchronize() {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// Defines the guest's registers that have a second name under E2H: a struct
/// of values with `save` and `restore`.
macro_rules! aliased_registers {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $suffix:literal $primary:literal $secondary:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: u64,)* }

        impl $name {
            /// Reads the registers of the guest that is loaded.
            pub(crate) fn save(&mut self, e2h: bool) {
                if e2h {
                    $(self.$field = read_register!(concat!("s3_", $secondary, "_", $suffix));)*
                } else {
                    $(self.$field = read_register!(concat!("s3_", $primary, "_", $suffix));)*
                }
            }

            /// Writes the registers for the guest that is being loaded.
            pub(crate) fn restore(&self, e2h: bool) {
                if e2h {
                    $(write_register!(concat!("s3_", $secondary, "_", $suffix), self.$field);)*
                } else {
                    $(write_register!(concat!("s3_", $primary, "_", $suffix), self.$field);)*
                }
            }
        }
    };
}

pub(crate) use aliased_registers;

/// Reads one register of the loaded guest that has a second name under E2H.
macro_rules! read_aliased {
    ($e2h:expr, $suffix:literal) => {
        if $e2h {
            read_register!(concat!("s3_5_", $suffix))
        } else {
            read_register!(concat!("s3_0_", $suffix))
        }
    };
}

/// Writes one register of the loaded guest that has a second name under E2H.
macro_rules! write_aliased {
    ($e2h:expr, $suffix:literal, $value:expr) => {{
        let value: u64 = $value;
        if $e2h {
            write_register!(concat!("s3_5_", $suffix), value)
        } else {
            write_register!(concat!("s3_0_", $suffix), value)
        }
    }};
}

pub(crate) use {read_aliased, write_aliased};
