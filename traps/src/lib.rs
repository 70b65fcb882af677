//! What an exit of an AArch64 guest means, and what the guest may see of the processor.
//!
//! Everything here is a pure function over values: syndromes, instruction words, register encodings, identification
//! registers and the saved state of a virtual CPU go in; decoded traps, register values and new state come out.
//! Nothing here touches a register or memory, so all of it runs, and is tested, on the host.
//!
//! * [`syndrome`]: the exception class and the instruction-specific syndrome of `ESR_EL2`.
//! * [`load_store`]: the A64 loads and stores for which a data abort carries no syndrome.
//! * [`register_file`]: widening of loaded values, narrowing of stored ones.
//! * [`system_register`]: the encoding space of `MRS`, `MSR` and `SYS`, and what to do about a trapped one.
//! * [`identification`]: the identification registers that a guest reads.
//! * [`control`]: the values of the registers that decide what is trapped.
//! * [`exception`]: exceptions taken to the guest's EL1, and moving past an emulated instruction.
//!
//! "Arm ARM" is the Arm Architecture Reference Manual for A-profile (DDI 0487).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod bits;
pub mod control;
pub mod exception;
pub mod identification;
pub mod load_store;
pub mod register_file;
pub mod syndrome;
pub mod system_register;
