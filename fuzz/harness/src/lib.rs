//! What the fuzz targets do with their input, as plain functions, so that the
//! normal test run can replay seeds and regressions without a fuzzer.
//!
//! Input is a list of operations of a hostile guest, or a file. Beside panics
//! the functions look for broken promises: too much work in one access, an
//! interrupt line that contradicts its status, memory written when it may not be.

mod bus;
mod device;
mod files;
mod guest;
mod input;
mod tree;
mod world;

pub use bus::bus;
pub use device::{balloon, block, console, net, rng};
pub use files::{bundle, vm_file};
pub use tree::tree;

/// What one target does with one input.
pub type Target = fn(&[u8]);

/// All targets by name. Each has a folder in `fuzz/seeds`.
pub const TARGETS: [(&str, Target); 9] = [
    ("balloon", balloon),
    ("block", block),
    ("bundle", bundle),
    ("bus", bus),
    ("console", console),
    ("net", net),
    ("rng", rng),
    ("tree", tree),
    ("vm_file", vm_file),
];
