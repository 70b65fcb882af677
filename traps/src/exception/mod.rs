//! Exceptions taken to the guest's EL1, and moving past an instruction that was emulated.

mod program_state;
mod taken;

pub use program_state::ProgramState;
pub use taken::{Exception, Features, Taken, Target, take};
