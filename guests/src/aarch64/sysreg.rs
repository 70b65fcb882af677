//! System registers by name.

/// Reads the system register named by a literal.
#[macro_export]
macro_rules! mrs {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: guests read only registers without an effect on memory that Rust owns.
        unsafe {
            ::core::arch::asm!(
                ::core::concat!("mrs {}, ", $register), out(reg) value, options(nostack)
            );
        }
        value
    }};
}

/// Writes the system register named by a literal and synchronises the context.
#[macro_export]
macro_rules! msr {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the caller owns the register; the translation regime is changed only by `mmu`.
        unsafe {
            ::core::arch::asm!(
                ::core::concat!("msr ", $register, ", {}"), "isb", in(reg) value, options(nostack)
            );
        }
    }};
}

/// Bits `low..low + 4` of an identification register.
pub const fn id_field(register: u64, low: u32) -> u64 {
    register >> low & 0xf
}
