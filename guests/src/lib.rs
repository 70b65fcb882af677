//! Guests.
#![no_std]
