//! The encoding space of A64 `MRS`, `MSR`, `SYS` and `SYSL`, and what to do about a trapped access.
//!
//! [`Action::of`] answers with a row of a sorted table, one row a register. What is not in the table is UNDEFINED to
//! the guest, as it is under KVM: IMPLEMENTATION DEFINED registers (`HCR_EL2.TIDCP`), and those of every extension
//! that [`crate::identification`] hides.

mod action;
mod encoding;
mod names;

pub use action::{Action, SetWay, SoftwareInterrupt, Visibility};
pub use encoding::Encoding;
