//! Start-up code of AArch64 guests and their access to the machine.

pub(crate) mod bench;
pub mod cache;
pub mod console;
pub mod cpu;
pub mod encoding;
pub mod exception;
pub mod gic;
pub mod machine;
pub mod mmio;
pub mod mmu;
pub mod psci;
pub mod smp;
mod start;
pub mod sysreg;
pub mod timer;

pub use machine::machine;

use crate::tap::{self, Test};

/// Brings the machine of the test back to a known state before each test.
pub fn quiesce() {
    cpu::mask_interrupts();
    exception::forget_handlers();
    timer::stop();
    gic::reset_distributor();
    gic::reset_cpu();
}

/// Runs the tests, then switches the machine off.
pub fn run(tests: &[Test]) -> ! {
    tap::run(tests, quiesce);
    psci::system_off()
}

/// Names the function where a guest begins, `fn() -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_os = "none")]
        /// Called by the start-up code.
        // SAFETY: no other symbol has this name; the start-up code expects this type.
        #[unsafe(no_mangle)]
        pub extern "C" fn guest_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}
