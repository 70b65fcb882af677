//! Civil time, read once from the CMOS clock (MC146818 data sheet).

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use super::timer;

/// Civil time at tick 0 of the time-stamp counter, in nanoseconds since
/// 1970-01-01 00:00 UTC.
static AT_ZERO: AtomicU64 = AtomicU64::new(0);

const NANOSECONDS: u64 = 1_000_000_000;

/// Registers of the CMOS clock.
mod register {
    pub(super) const SECONDS: u8 = 0;
    pub(super) const MINUTES: u8 = 2;
    pub(super) const HOURS: u8 = 4;
    pub(super) const DAY: u8 = 7;
    pub(super) const MONTH: u8 = 8;
    pub(super) const YEAR: u8 = 9;
    pub(super) const STATUS_A: u8 = 0x0a;
    pub(super) const STATUS_B: u8 = 0x0b;
}
/// Status A: an update is under way.
const UPDATING: u8 = 1 << 7;
/// Status B: hours count to 24.
const HOURS_24: u8 = 1 << 1;
/// Status B: binary numbers.
const BINARY: u8 = 1 << 2;
/// Hours in 12-hour mode: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// Polls for an update to end.
const PATIENCE: u32 = 1_000_000;

fn read(register: u8) -> u8 {
    // SAFETY: the ports of the CMOS clock; index and data, on one processor at start-up.
    unsafe {
        Port::new(0x70).write(register);
        Port::new(0x71).read()
    }
}

/// Reads the clock; on the first processor, once the counter is calibrated.
pub(super) fn init() {
    let mut polls = 0;
    while read(register::STATUS_A) & UPDATING != 0 && polls < PATIENCE {
        polls += 1;
    }
    let mode = read(register::STATUS_B);
    let number = |value: u8| {
        if mode & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) }
    };
    let raw_hours = read(register::HOURS);
    let mut hours = number(raw_hours & !AFTERNOON);
    if mode & HOURS_24 == 0 {
        hours = hours % 12 + if raw_hours & AFTERNOON != 0 { 12 } else { 0 };
    }
    let field = |register| u64::from(number(read(register)));
    let days =
        days_since_1970(2000 + field(register::YEAR), field(register::MONTH), field(register::DAY));
    let seconds = ((days * 24 + u64::from(hours)) * 60 + field(register::MINUTES)) * 60
        + field(register::SECONDS);
    let elapsed = timer::nanoseconds(timer::now().0);
    AT_ZERO.store((seconds * NANOSECONDS).saturating_sub(elapsed), Ordering::Relaxed);
}

/// Days of the Gregorian calendar from 1970-01-01 to a date after 2000.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, (month + 9) % 12) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // Days from 0000-03-01 to 1970-01-01.
    (year * 365 + leap_days + (month * 153 + 2) / 5 + day).saturating_sub(719_469)
}

/// Nanoseconds since 1970-01-01 00:00 UTC.
pub(crate) fn unix_nanoseconds() -> u64 {
    AT_ZERO.load(Ordering::Relaxed).saturating_add(timer::nanoseconds(timer::now().0))
}
