//! Watchdogs, as a way to reset a machine whose firmware does not: they are made to expire at once.

mod apple;
mod bcm2835;

pub use apple::Apple;
pub use bcm2835::Bcm2835;
