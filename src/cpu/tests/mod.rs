//! The loop of a host CPU on the fake backend.

mod access;
mod interleaving;
mod power;
mod sharing;
mod stopping;
mod waiting;
