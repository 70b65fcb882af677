//! The generic timer (Arm ARM D12).

use crate::{mrs, msr};

use super::cpu;

/// `CNT*_CTL.ENABLE`.
pub const ENABLE: u64 = 1 << 0;
/// `CNT*_CTL.IMASK`.
pub const IMASK: u64 = 1 << 1;
/// `CNT*_CTL.ISTATUS`.
pub const ISTATUS: u64 = 1 << 2;

/// Seconds after which a test gives up waiting.
const PATIENCE: u64 = 20;

/// The timers of EL1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// `CNTV_*`, against `CNTVCT_EL0`.
    Virtual,
    /// `CNTP_*`, against `CNTPCT_EL0`.
    Physical,
}

impl Timer {
    /// Both.
    pub const ALL: [Timer; 2] = [Timer::Virtual, Timer::Physical];

    /// The private interrupt (`virt` machine, BSA 3.8.1).
    pub const fn interrupt(self) -> u32 {
        match self {
            Timer::Virtual => 27,
            Timer::Physical => 30,
        }
    }

    /// The counter that the timer compares.
    pub fn now(self) -> u64 {
        cpu::isb();
        match self {
            Timer::Virtual => mrs!("cntvct_el0"),
            Timer::Physical => mrs!("cntpct_el0"),
        }
    }

    /// Control register.
    pub fn control(self) -> u64 {
        cpu::isb();
        match self {
            Timer::Virtual => mrs!("cntv_ctl_el0"),
            Timer::Physical => mrs!("cntp_ctl_el0"),
        }
    }

    /// Writes the control register.
    pub fn set_control(self, value: u64) {
        match self {
            Timer::Virtual => msr!("cntv_ctl_el0", value),
            Timer::Physical => msr!("cntp_ctl_el0", value),
        }
    }

    /// Compare value.
    pub fn deadline(self) -> u64 {
        match self {
            Timer::Virtual => mrs!("cntv_cval_el0"),
            Timer::Physical => mrs!("cntp_cval_el0"),
        }
    }

    /// Writes the compare value.
    pub fn set_deadline(self, value: u64) {
        match self {
            Timer::Virtual => msr!("cntv_cval_el0", value),
            Timer::Physical => msr!("cntp_cval_el0", value),
        }
    }

    /// Timer value: ticks left, 32 bits with sign.
    pub fn left(self) -> u64 {
        cpu::isb();
        match self {
            Timer::Virtual => mrs!("cntv_tval_el0"),
            Timer::Physical => mrs!("cntp_tval_el0"),
        }
    }

    /// Writes the timer value.
    pub fn set_left(self, value: u64) {
        match self {
            Timer::Virtual => msr!("cntv_tval_el0", value),
            Timer::Physical => msr!("cntp_tval_el0", value),
        }
    }

    /// Enables the timer with a deadline `ticks` from now; returns the deadline.
    pub fn arm(self, ticks: u64) -> u64 {
        let deadline = self.now() + ticks;
        self.set_deadline(deadline);
        self.set_control(ENABLE);
        deadline
    }
}

/// Ticks in a second.
pub fn frequency() -> u64 {
    mrs!("cntfrq_el0") & 0xffff_ffff
}

/// Ticks in a number of microseconds.
pub fn microseconds(number: u64) -> u64 {
    frequency() * number / 1_000_000
}

/// Disables both timers of this CPU.
pub fn stop() {
    for timer in Timer::ALL {
        timer.set_control(0);
    }
}

/// Spins for a number of ticks.
pub fn spin(ticks: u64) {
    let end = Timer::Virtual.now() + ticks;
    while Timer::Virtual.now() < end {}
}

/// Waits until the condition holds; whether it did within some seconds.
pub fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let end = Timer::Virtual.now() + frequency() * PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if Timer::Virtual.now() > end {
            return condition();
        }
        cpu::relax();
    }
}
