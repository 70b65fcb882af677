//! Tests of the whole crate against a machine that checks every store, and against simple models.

mod encodings;
mod formats;
mod geometry;
mod machine;
mod memory;
mod model;
mod operations;
mod out_of_memory;
mod pieces;
mod sequences;
mod vmids;
