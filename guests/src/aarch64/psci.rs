//! Calls to firmware: SMCCC and PSCI.

use core::arch::asm;

/// Function identifiers (Arm DEN 0022, DEN 0028, DEN 0057, DEN 0098).
pub mod function {
    /// `PSCI_VERSION`.
    pub const VERSION: u64 = 0x8400_0000;
    /// `CPU_SUSPEND`, 32-bit.
    pub const CPU_SUSPEND: u64 = 0x8400_0001;
    /// `CPU_OFF`.
    pub const CPU_OFF: u64 = 0x8400_0002;
    /// `CPU_ON`, 32-bit.
    pub const CPU_ON: u64 = 0x8400_0003;
    /// `AFFINITY_INFO`, 32-bit.
    pub const AFFINITY_INFO: u64 = 0x8400_0004;
    /// `MIGRATE`, 32-bit.
    pub const MIGRATE: u64 = 0x8400_0005;
    /// `MIGRATE_INFO_TYPE`.
    pub const MIGRATE_INFO_TYPE: u64 = 0x8400_0006;
    /// `MIGRATE_INFO_UP_CPU`, 32-bit.
    pub const MIGRATE_INFO_UP_CPU: u64 = 0x8400_0007;
    /// `SYSTEM_OFF`.
    pub const SYSTEM_OFF: u64 = 0x8400_0008;
    /// `SYSTEM_RESET`.
    pub const SYSTEM_RESET: u64 = 0x8400_0009;
    /// `PSCI_FEATURES`.
    pub const FEATURES: u64 = 0x8400_000a;
    /// `SYSTEM_SUSPEND`, 32-bit.
    pub const SYSTEM_SUSPEND: u64 = 0x8400_000e;
    /// `SYSTEM_RESET2`, 32-bit.
    pub const SYSTEM_RESET2: u64 = 0x8400_0012;
    /// Makes a 32-bit identifier the 64-bit one.
    pub const CALL_64: u64 = 0x4000_0000;
    /// `SMCCC_VERSION`.
    pub const SMCCC_VERSION: u64 = 0x8000_0000;
    /// `SMCCC_ARCH_FEATURES`.
    pub const ARCH_FEATURES: u64 = 0x8000_0001;
    /// `TRNG_VERSION`.
    pub const TRNG_VERSION: u64 = 0x8400_0050;
    /// `TRNG_FEATURES`.
    pub const TRNG_FEATURES: u64 = 0x8400_0051;
    /// `TRNG_GET_UUID`.
    pub const TRNG_GET_UUID: u64 = 0x8400_0052;
    /// `TRNG_RND`, 64-bit.
    pub const TRNG_RND64: u64 = 0xc400_0053;
    /// `PV_TIME_FEATURES`.
    pub const PV_TIME_FEATURES: u64 = 0xc500_0020;
    /// `PV_TIME_ST`.
    pub const PV_TIME_ST: u64 = 0xc500_0021;
    /// Vendor-specific hypervisor service: UID.
    pub const HYPERVISOR_UID: u64 = 0x8600_ff01;
}

/// Return values, sign-extended.
pub mod result {
    /// Done.
    pub const SUCCESS: i64 = 0;
    /// No such function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// A parameter is wrong.
    pub const INVALID_PARAMETERS: i64 = -2;
    /// Not in this state.
    pub const DENIED: i64 = -3;
    /// The CPU is on.
    pub const ALREADY_ON: i64 = -4;
    /// The CPU is about to be on.
    pub const ON_PENDING: i64 = -5;
    /// The entry address is wrong.
    pub const INVALID_ADDRESS: i64 = -9;
}

/// Registers x0 to x17 of a call.
pub type Registers = [u64; 18];

macro_rules! conduit {
    ($name:ident, $instruction:literal, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(registers: &mut Registers) {
            // SAFETY: the callee keeps x18 and above and all memory but what it was given.
            unsafe {
                asm!(
                    "stp x29, x30, [sp, #-32]!",
                    "str x16, [sp, #16]",
                    "mov x30, x16",
                    "ldp x0, x1, [x30]",
                    "ldp x2, x3, [x30, #16]",
                    "ldp x4, x5, [x30, #32]",
                    "ldp x6, x7, [x30, #48]",
                    "ldp x8, x9, [x30, #64]",
                    "ldp x10, x11, [x30, #80]",
                    "ldp x12, x13, [x30, #96]",
                    "ldp x14, x15, [x30, #112]",
                    "ldp x16, x17, [x30, #128]",
                    $instruction,
                    "ldr x30, [sp, #16]",
                    "stp x0, x1, [x30]",
                    "stp x2, x3, [x30, #16]",
                    "stp x4, x5, [x30, #32]",
                    "stp x6, x7, [x30, #48]",
                    "stp x8, x9, [x30, #64]",
                    "stp x10, x11, [x30, #80]",
                    "stp x12, x13, [x30, #96]",
                    "stp x14, x15, [x30, #112]",
                    "stp x16, x17, [x30, #128]",
                    "ldp x29, x30, [sp], #32",
                    inout("x16") registers.as_mut_ptr() => _,
                    out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _,
                    out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x17") _,
                );
            }
        }
    };
}

conduit!(hvc, "hvc #0", "A call by HVC with all registers of the convention.");
conduit!(smc, "smc #0", "A call by SMC with all registers of the convention.");

/// A call by HVC with up to three arguments; returns x0.
pub fn call(function: u64, a: u64, b: u64, c: u64) -> i64 {
    let mut registers = [0; 18];
    registers[..4].copy_from_slice(&[function, a, b, c]);
    hvc(&mut registers);
    registers[0] as i64
}

/// A call whose result is 32 bits wide.
pub fn call32(function: u64, a: u64, b: u64, c: u64) -> i64 {
    i64::from(call(function, a, b, c) as i32)
}

/// Switches the machine off.
pub fn system_off() -> ! {
    call(function::SYSTEM_OFF, 0, 0, 0);
    loop {
        super::cpu::wait_for_interrupt();
    }
}

/// How a call that suspends ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspended {
    /// The call returned, with this answer.
    Returned(i64),
    /// The CPU lost its state and came back at its entry point.
    Resumed,
}

/// What the CPU needs to go on after a power-down.
#[repr(C, align(128))]
struct Saved([u64; 16]);

fn suspend(function: u64, power_state: u64) -> Suspended {
    unsafe extern "C" {
        fn suspend_cpu(function: u64, power_state: u64, save: *mut Saved) -> i64;
    }
    let mut saved = Saved([0; 16]);
    // SAFETY: `saved` outlives the call, which comes back with all that a function keeps.
    match unsafe { suspend_cpu(function, power_state, &mut saved) } {
        1 => Suspended::Resumed,
        answer => Suspended::Returned(i64::from(answer as i32)),
    }
}

/// `CPU_SUSPEND` of this CPU.
pub fn cpu_suspend(power_state: u32) -> Suspended {
    suspend(function::CPU_SUSPEND | function::CALL_64, u64::from(power_state))
}

/// `SYSTEM_SUSPEND`.
pub fn system_suspend() -> Suspended {
    suspend(function::SYSTEM_SUSPEND | function::CALL_64, u64::MAX)
}

/// Starts a CPU at `entry` with `context` in x0.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> i64 {
    call(function::CPU_ON | function::CALL_64, affinity, entry, context)
}

/// Whether a hypervisor that names itself answers calls.
pub fn under_hypervisor() -> bool {
    call32(function::HYPERVISOR_UID, 0, 0, 0) != result::NOT_SUPPORTED
}
