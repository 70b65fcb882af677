//! Tests of the whole crate against a machine that checks every store, and against simple models.

mod formats;
mod machine;
mod model;
mod sequences;
