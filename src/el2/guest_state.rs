//! Guest state that stays in hardware across exits and moves only when
//! another virtual CPU is loaded: EL1 system registers, keys, timers, debug
//! and performance-monitor registers.

use crate::el2::features::Features;
use crate::el2::registers::{aliased_registers, read_register, write_register};

aliased_registers! {
    /// EL1 registers that E2H renames (Arm ARM D8.10.1).
    El1Registers {
        sctlr: "c1_c0_0" "0" "5",
        cpacr: "c1_c0_2" "0" "5",
        ttbr0: "c2_c0_0" "0" "5",
        ttbr1: "c2_c0_1" "0" "5",
        tcr: "c2_c0_2" "0" "5",
        spsr: "c4_c0_0" "0" "5",
        elr: "c4_c0_1" "0" "5",
        afsr0: "c5_c1_0" "0" "5",
        afsr1: "c5_c1_1" "0" "5",
        esr: "c5_c2_0" "0" "5",
        far: "c6_c0_0" "0" "5",
        mair: "c10_c2_0" "0" "5",
        amair: "c10_c3_0" "0" "5",
        vbar: "c12_c0_0" "0" "5",
        contextidr: "c13_c0_1" "0" "5",
        cntkctl: "c14_c1_0" "0" "5",
    }
}

aliased_registers! {
    /// The guest's timers: EL1 physical and virtual.
    TimerRegisters {
        cntp_ctl: "c14_c2_1" "3" "5",
        cntp_cval: "c14_c2_2" "3" "5",
        cntv_ctl: "c14_c3_1" "3" "5",
        cntv_cval: "c14_c3_2" "3" "5",
    }
}

/// `CNTx_CTL.ENABLE` and `CNTx_CTL.IMASK`.
const TIMER_ENABLE: u64 = 1 << 0;
const TIMER_IMASK: u64 = 1 << 1;

impl TimerRegisters {
    /// The count of the virtual counter's offset at which the first armed,
    /// unmasked timer fires: `(virtual, physical)` compare values.
    pub(crate) fn armed(&self) -> (Option<u64>, Option<u64>) {
        let armed = |ctl: u64, cval: u64| {
            (ctl & (TIMER_ENABLE | TIMER_IMASK) == TIMER_ENABLE).then_some(cval)
        };
        (armed(self.cntv_ctl, self.cntv_cval), armed(self.cntp_ctl, self.cntp_cval))
    }
}

/// Defines registers with one name each.
macro_rules! plain_registers {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $register:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default)]
        pub(crate) struct $name { $(pub(crate) $field: u64,)* }

        impl $name {
            fn save(&mut self) {
                $(self.$field = read_register!($register);)*
            }
            fn restore(&self) {
                $(write_register!($register, self.$field);)*
            }
        }
    };
}

plain_registers! {
    /// Registers of EL0 and EL1 with the same name everywhere.
    CommonRegisters {
        sp_el0: "sp_el0",
        sp_el1: "sp_el1",
        tpidr_el0: "tpidr_el0",
        tpidrro_el0: "tpidrro_el0",
        tpidr_el1: "tpidr_el1",
        par: "par_el1",
        csselr: "csselr_el1",
        mdscr: "mdscr_el1",
    }
}

plain_registers! {
    /// Pointer-authentication keys.
    Keys {
        ia_lo: "s3_0_c2_c1_0",
        ia_hi: "s3_0_c2_c1_1",
        ib_lo: "s3_0_c2_c1_2",
        ib_hi: "s3_0_c2_c1_3",
        da_lo: "s3_0_c2_c2_0",
        da_hi: "s3_0_c2_c2_1",
        db_lo: "s3_0_c2_c2_2",
        db_hi: "s3_0_c2_c2_3",
        ga_lo: "s3_0_c2_c3_0",
        ga_hi: "s3_0_c2_c3_1",
    }
}

plain_registers! {
    /// Performance monitors but for the event counters.
    MonitorRegisters {
        pmcr: "pmcr_el0",
        pmselr: "pmselr_el0",
        pmuserenr: "pmuserenr_el0",
        pmccntr: "pmccntr_el0",
        pmccfiltr: "pmccfiltr_el0",
    }
}

/// Calls `$do!(index)` for the first `$count` of 0..16; a system register's
/// number is part of its instruction.
macro_rules! for_each_number {
    ($count:expr, $do:ident) => {
        for_each_number!(@ $count, $do, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $count:expr, $do:ident, $($number:literal)*) => {
        $(if $count > $number { $do!($number); })*
    };
}

/// A value and its control register.
type Pair = (u64, u64);

/// Hardware breakpoints and watchpoints.
#[derive(Debug, Clone, Copy, Default)]
struct DebugRegisters {
    breakpoints: [Pair; 16],
    watchpoints: [Pair; 16],
    os_lock: bool,
}

/// `OSLSR_EL1.OSLK`.
const OS_LOCKED: u64 = 1 << 1;

impl DebugRegisters {
    fn save(&mut self, features: &Features) {
        macro_rules! breakpoint {
            ($n:literal) => {
                self.breakpoints[$n] = (
                    read_register!(concat!("dbgbvr", $n, "_el1")),
                    read_register!(concat!("dbgbcr", $n, "_el1")),
                )
            };
        }
        macro_rules! watchpoint {
            ($n:literal) => {
                self.watchpoints[$n] = (
                    read_register!(concat!("dbgwvr", $n, "_el1")),
                    read_register!(concat!("dbgwcr", $n, "_el1")),
                )
            };
        }
        for_each_number!(features.breakpoints, breakpoint);
        for_each_number!(features.watchpoints, watchpoint);
        self.os_lock = read_register!("oslsr_el1") & OS_LOCKED != 0;
    }

    fn restore(&self, features: &Features) {
        macro_rules! breakpoint {
            ($n:literal) => {{
                write_register!(concat!("dbgbvr", $n, "_el1"), self.breakpoints[$n].0);
                write_register!(concat!("dbgbcr", $n, "_el1"), self.breakpoints[$n].1);
            }};
        }
        macro_rules! watchpoint {
            ($n:literal) => {{
                write_register!(concat!("dbgwvr", $n, "_el1"), self.watchpoints[$n].0);
                write_register!(concat!("dbgwcr", $n, "_el1"), self.watchpoints[$n].1);
            }};
        }
        for_each_number!(features.breakpoints, breakpoint);
        for_each_number!(features.watchpoints, watchpoint);
        write_register!("oslar_el1", u64::from(self.os_lock));
    }
}

/// Event counters and the set registers, which are written through pairs.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// Count and type of each; at most 31 exist.
    events: [Pair; 31],
    enabled: u64,
    interrupts: u64,
    overflowed: u64,
}

impl Counters {
    fn save(&mut self, count: u64) {
        for (number, event) in (0..count).zip(&mut self.events) {
            write_register!("pmselr_el0", number);
            super::registers::synchronize();
            *event = (read_register!("pmxevcntr_el0"), read_register!("pmxevtyper_el0"));
        }
        self.enabled = read_register!("pmcntenset_el0");
        self.interrupts = read_register!("pmintenset_el1");
        self.overflowed = read_register!("pmovsset_el0");
        write_register!("pmcntenclr_el0", u64::from(u32::MAX));
        write_register!("pmintenclr_el1", u64::from(u32::MAX));
        write_register!("pmovsclr_el0", u64::from(u32::MAX));
    }

    fn restore(&self, count: u64) {
        write_register!("pmcntenclr_el0", u64::from(u32::MAX));
        write_register!("pmintenclr_el1", u64::from(u32::MAX));
        write_register!("pmovsclr_el0", u64::from(u32::MAX));
        for (number, event) in (0..count).zip(&self.events) {
            write_register!("pmselr_el0", number);
            super::registers::synchronize();
            write_register!("pmxevcntr_el0", event.0);
            write_register!("pmxevtyper_el0", event.1);
        }
        write_register!("pmovsset_el0", self.overflowed);
        write_register!("pmintenset_el1", self.interrupts);
        write_register!("pmcntenset_el0", self.enabled);
    }
}

unsafe extern "C" {
    /// Stores V0-V31, FPCR and FPSR.
    fn save_fp(registers: *mut FpRegisters);
    /// Loads V0-V31, FPCR and FPSR.
    fn restore_fp(registers: *const FpRegisters);
}

core::arch::global_asm!(include_str!("fp.S"), options(raw));

/// The FP and SIMD registers; the layout is known to `fp.S`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
struct FpRegisters {
    vectors: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

/// Reads vector register `number` of the guest that is loaded.
pub(crate) fn read_vector(number: u8) -> u128 {
    let mut registers = FpRegisters { vectors: [0; 32], fpcr: 0, fpsr: 0 };
    // SAFETY: as in `GuestState::save`.
    unsafe { save_fp(&raw mut registers) };
    registers.vectors.get(usize::from(number)).copied().unwrap_or(0)
}

/// Writes vector register `number` of the guest that is loaded.
pub(crate) fn write_vector(number: u8, value: u128) {
    let mut registers = FpRegisters { vectors: [0; 32], fpcr: 0, fpsr: 0 };
    // SAFETY: as in `GuestState::save`.
    unsafe { save_fp(&raw mut registers) };
    if let Some(register) = registers.vectors.get_mut(usize::from(number)) {
        *register = value;
    }
    // SAFETY: as above; every other register goes back as it was.
    unsafe { restore_fp(&raw const registers) };
}

/// Everything of one virtual CPU that moves on a switch.
#[derive(Debug)]
pub(crate) struct GuestState {
    pub(crate) el1: El1Registers,
    pub(crate) common: CommonRegisters,
    pub(crate) timers: TimerRegisters,
    keys: Keys,
    debug: DebugRegisters,
    monitors: MonitorRegisters,
    counters: Counters,
    fp: FpRegisters,
}

/// `SCTLR_EL1` after reset: MMU and caches off, and the bits that are RES1 in
/// ARMv8.0 (Arm ARM D24.2.175): EOS, TSCXT, EIS, SPAN, nTLSMD, LSMAOE, ITD off.
const SCTLR_RESET: u64 =
    1 << 11 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 28 | 1 << 29 | 1 << 8 | 1 << 7;

impl GuestState {
    /// The state after a CPU reset.
    pub(crate) fn at_reset() -> Self {
        GuestState {
            el1: El1Registers { sctlr: SCTLR_RESET, ..El1Registers::default() },
            common: CommonRegisters::default(),
            timers: TimerRegisters::default(),
            keys: Keys::default(),
            // The OS lock is set by a cold reset (Arm ARM H6.2).
            debug: DebugRegisters { os_lock: true, ..DebugRegisters::default() },
            monitors: MonitorRegisters::default(),
            counters: Counters::default(),
            fp: FpRegisters { vectors: [0; 32], fpcr: 0, fpsr: 0 },
        }
    }

    /// Takes the state out of the hardware and quietens its timers.
    pub(crate) fn save(&mut self, features: &Features) {
        self.el1.save(features.e2h);
        self.common.save();
        self.timers.save(features.e2h);
        TimerRegisters::default().restore(features.e2h);
        if features.pointer_authentication {
            self.keys.save();
        }
        self.debug.save(features);
        if features.event_counters.is_some() {
            self.monitors.save();
        }
        if let Some(count) = features.event_counters {
            self.counters.save(count);
        }
        // SAFETY: the register block is ours and of the layout that fp.S
        // documents; CPTR_EL2 lets EL2 use these registers.
        unsafe { save_fp(&raw mut self.fp) };
    }

    /// Puts the state into the hardware.
    pub(crate) fn restore(&self, features: &Features) {
        self.el1.restore(features.e2h);
        self.common.restore();
        if features.pointer_authentication {
            self.keys.restore();
        }
        self.debug.restore(features);
        if let Some(count) = features.event_counters {
            self.counters.restore(count);
            self.monitors.restore();
        }
        self.timers.restore(features.e2h);
        // SAFETY: as in `save`.
        unsafe { restore_fp(&raw const self.fp) };
    }
}
