//! Start-up code of x86 guests and their access to the PC.

pub mod acpi;
pub mod apic;
pub(crate) mod bench;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod exception;
pub mod ioapic;
pub mod mmio;
pub mod port;
pub mod power;
pub mod smp;
mod start;
pub mod time;

use crate::tap::{self, Stop, Test, Verdict};

/// Brings the machine of the test back to a known state before each test.
pub fn quiesce() {
    cpu::disable_interrupts();
    exception::forget();
    apic::quiesce();
    ioapic::mask_all();
}

/// Runs the tests, then switches the machine off.
pub fn run(tests: &[Test]) -> ! {
    tap::run(tests, quiesce);
    power::off()
}

/// Skips a test that judges how a hypervisor behaves, not what the architecture promises.
///
/// # Errors
/// [`Stop::Skip`] on the bare machine.
pub fn needs_hypervisor() -> Verdict {
    match cpu::has_kvm_interface() {
        true => Ok(()),
        false => Err(Stop::Skip("for guests of a hypervisor")),
    }
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
