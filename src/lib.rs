//! The arch-neutral core of Bunshin: the exit loop, the bus, the life cycle of
//! virtual machines and the bundle.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bus;
pub mod config;
