//! Device models that no architecture owns.

pub mod clock;
pub mod console;
pub mod flash;
pub mod pl011;
pub mod pl031;
mod primecell;
