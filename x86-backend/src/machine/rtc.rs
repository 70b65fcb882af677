//! The MC146818 real-time clock and its CMOS memory behind ports 0x70 and 0x71.
//!
//! The clock follows the host and cannot be set; what the guest writes to the
//! time registers is forgotten. There are no interrupts: neither alarm nor
//! periodic, as the machine's interrupt 8 is not connected.

use alloc::sync::Arc;
use bunshin::bus::{BusFault, Device, Width};
use bunshin::device::clock::WallClock;
use spin::mutex::TicketMutex;

/// Index port; the data port follows.
pub const PORT: u64 = 0x70;
/// Number of ports.
pub const WINDOW_SIZE: u64 = 2;

const OFFSET_INDEX: u64 = 0;
/// Index port: holds back non-maskable interrupts; not an index bit.
const INDEX_NMI_OFF: u8 = 1 << 7;

const REGISTER_SECONDS: u8 = 0x00;
const REGISTER_MINUTES: u8 = 0x02;
const REGISTER_HOURS: u8 = 0x04;
const REGISTER_WEEKDAY: u8 = 0x06;
const REGISTER_DAY: u8 = 0x07;
const REGISTER_MONTH: u8 = 0x08;
const REGISTER_YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const REGISTER_CENTURY: u8 = 0x32;

/// Register A: 32,768 Hz time base, 1,024 Hz rate; the update bit (7) is never
/// seen set, because an update takes no time.
const A_RESET: u8 = 0x26;
const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register B: hours count to 23.
const B_24_HOURS: u8 = 1 << 1;
/// Register B: binary, not decimal digits.
const B_BINARY: u8 = 1 << 2;
/// Register D: time and memory are valid.
const D_VALID: u8 = 1 << 7;
/// Hours: afternoon, in 12-hour mode.
const HOURS_PM: u8 = 1 << 7;

const SECONDS_PER_DAY: u64 = 86_400;

/// A point in civil time, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    /// 1 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// From seconds since 1970; years run from March in between, so that the
    /// leap day comes last.
    #[allow(clippy::arithmetic_side_effects, reason = "bounded by the clamp of `days`")]
    fn from_unix(seconds: u64) -> Self {
        const DAYS_TO_0000_03_01: u64 = 719_468;
        const DAYS_PER_400_YEARS: u64 = 146_097;
        // The century register ends with the year 9999.
        let days = (seconds / SECONDS_PER_DAY).min(2_932_896);
        let of_day = seconds % SECONDS_PER_DAY;
        let shifted = days + DAYS_TO_0000_03_01;
        let era = shifted / DAYS_PER_400_YEARS;
        let day_of_era = shifted % DAYS_PER_400_YEARS;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Civil {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 4) % 7 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }
}

struct State {
    index: u8,
    a: u8,
    b: u8,
    memory: [u8; 128],
}

impl State {
    const RESET: State = State { index: 0, a: A_RESET, b: B_24_HOURS, memory: [0; 128] };

    /// `value` below 100 in the format that register B selects.
    fn format(&self, value: u64) -> u8 {
        let value = (value % 100) as u8;
        if self.b & B_BINARY != 0 {
            value
        } else {
            let tens = value.checked_div(10).unwrap_or(0);
            (tens << 4) | (value % 10)
        }
    }

    fn hours(&self, hour: u64) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.format(hour);
        }
        let afternoon = if hour >= 12 { HOURS_PM } else { 0 };
        let hour = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.format(hour) | afternoon
    }

    fn read(&self, seconds: u64) -> u8 {
        let now = Civil::from_unix(seconds);
        match self.index {
            REGISTER_SECONDS => self.format(now.second),
            REGISTER_MINUTES => self.format(now.minute),
            REGISTER_HOURS => self.hours(now.hour),
            REGISTER_WEEKDAY => self.format(now.weekday),
            REGISTER_DAY => self.format(now.day),
            REGISTER_MONTH => self.format(now.month),
            REGISTER_YEAR => self.format(now.year),
            REGISTER_CENTURY => self.format(now.year.checked_div(100).unwrap_or(0)),
            REGISTER_A => self.a,
            REGISTER_B => self.b,
            // No interrupt is ever pending.
            REGISTER_C => 0,
            REGISTER_D => D_VALID,
            index => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    fn write(&mut self, value: u8) {
        match self.index {
            REGISTER_A => self.a = value & !A_UPDATE_IN_PROGRESS,
            REGISTER_B => self.b = value,
            REGISTER_SECONDS
            | REGISTER_MINUTES
            | REGISTER_HOURS
            | REGISTER_WEEKDAY..=REGISTER_YEAR
            | REGISTER_C
            | REGISTER_D
            | REGISTER_CENTURY => {}
            index => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }
}

/// The clock of a virtual machine.
pub struct Rtc {
    state: TicketMutex<State>,
    clock: Arc<dyn WallClock>,
}

impl Rtc {
    /// A clock that shows the time of `clock` in UTC.
    pub fn new(clock: Arc<dyn WallClock>) -> Self {
        Rtc { state: TicketMutex::new(State::RESET), clock }
    }
}

impl Device for Rtc {
    fn read(&self, offset: u64, _: Width) -> Result<u64, BusFault> {
        let state = self.state.lock();
        // The index port cannot be read on a PC.
        Ok(if offset == OFFSET_INDEX { 0xff } else { state.read(self.clock.seconds()).into() })
    }

    fn write(&self, offset: u64, _: Width, value: u64) -> Result<(), BusFault> {
        let [byte, ..] = value.to_le_bytes();
        let mut state = self.state.lock();
        if offset == OFFSET_INDEX {
            state.index = byte & !INDEX_NMI_OFF;
        } else {
            state.write(byte);
        }
        Ok(())
    }

    fn reset(&self) {
        // A battery keeps memory and modes; only the index is lost.
        self.state.lock().index = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clock::fake::FakeClock;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn clock() -> (Arc<FakeClock>, Rtc) {
        let clock = Arc::new(FakeClock::default());
        (clock.clone(), Rtc::new(clock))
    }

    fn read(rtc: &Rtc, index: u8) -> u8 {
        rtc.write(0, Width::Byte, index.into()).unwrap();
        rtc.read(1, Width::Byte).unwrap() as u8
    }

    fn write(rtc: &Rtc, index: u8, value: u8) {
        rtc.write(0, Width::Byte, index.into()).unwrap();
        rtc.write(1, Width::Byte, value.into()).unwrap();
    }

    #[test]
    fn the_registers_show_civil_time_in_the_format_of_register_b() {
        let (fake, rtc) = clock();
        // 2026-11-22 18:05:09 UTC, a Sunday.
        fake.set_unix(1_795_370_709);
        let all = |rtc: &Rtc| -> Vec<u8> {
            [0x32, 9, 8, 7, 6, 4, 2, 0].iter().map(|&index| read(rtc, index)).collect()
        };
        assert_eq!(all(&rtc), [0x20, 0x26, 0x11, 0x22, 0x01, 0x18, 0x05, 0x09]);
        write(&rtc, 0x0b, 0x06);
        assert_eq!(all(&rtc), [20, 26, 11, 22, 1, 18, 5, 9]);
        write(&rtc, 0x0b, 0x00);
        assert_eq!(read(&rtc, 4), 0x86, "six in the afternoon");
    }

    #[test]
    fn midnight_and_noon_are_twelve_on_a_12_hour_clock() {
        let (fake, rtc) = clock();
        write(&rtc, 0x0b, 0x04);
        for (hour, shown) in [(0, 12), (1, 1), (11, 11), (12, 0x8c), (13, 0x81), (23, 0x8b)] {
            fake.set_unix(hour * 3600);
            assert_eq!(read(&rtc, 4), shown);
        }
    }

    #[test]
    fn the_nmi_bit_is_no_part_of_the_index() {
        let (_, rtc) = clock();
        write(&rtc, 0x8f, 0x5a);
        assert_eq!(read(&rtc, 0x0f), 0x5a);
        rtc.reset();
        assert_eq!(read(&rtc, 0x0f), 0x5a, "a battery keeps it");
    }

    #[test]
    fn status_registers_say_valid_time_and_no_update() {
        let (_, rtc) = clock();
        write(&rtc, 0x0a, 0xff);
        assert_eq!(read(&rtc, 0x0a), 0x7f);
        assert_eq!(read(&rtc, 0x0c), 0);
        assert_eq!(read(&rtc, 0x0d), 0x80);
        write(&rtc, 0x00, 0x33);
        assert_eq!(read(&rtc, 0x00), 0, "the clock cannot be set");
    }

    /// Counts days one by one.
    fn slow(mut days: u64) -> (u64, u64, u64) {
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut year = 1970;
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let february = 28 + u64::from(leap(year));
        for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
            if days < length {
                return (year, month, days + 1);
            }
            days -= length;
        }
        unreachable!()
    }

    proptest! {
        #[test]
        fn dates_agree_with_counting_days(seconds in 0u64..253_402_300_800) {
            let civil = Civil::from_unix(seconds);
            prop_assert_eq!((civil.year, civil.month, civil.day), slow(seconds / 86_400));
            prop_assert_eq!(civil.hour * 3600 + civil.minute * 60 + civil.second, seconds % 86_400);
            prop_assert_eq!(civil.weekday, (seconds / 86_400 + 4) % 7 + 1);
        }

        #[test]
        fn no_moment_and_no_access_makes_the_clock_panic(
            seconds in any::<u64>(), index in any::<u8>(), value in any::<u8>()
        ) {
            let (fake, rtc) = clock();
            fake.set_unix(seconds);
            write(&rtc, index, value);
            read(&rtc, index);
        }
    }
}
