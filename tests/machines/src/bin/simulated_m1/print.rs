//! What the machine itself has to say, on the serial port of the emulator.

use core::fmt::{self, Write};

use crate::uart;

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            uart::put(byte);
        }
        Ok(())
    }
}

/// Says why this machine cannot go on, and stops this CPU.
pub(crate) fn fail(text: fmt::Arguments<'_>) -> ! {
    // Writing to this port never fails.
    let _ = writeln!(Port, "\r\nsimulated M1: {text}\r");
    loop {
        // SAFETY: waits.
        unsafe { core::arch::asm!("wfi", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}

/// A vector that nothing should come to.
#[unsafe(no_mangle)]
extern "C" fn report(vector: u64) -> ! {
    let (cause, address): (u64, u64);
    // SAFETY: reads registers of EL3.
    unsafe {
        core::arch::asm!("mrs {}, esr_el3", "mrs {}, elr_el3", out(reg) cause, out(reg) address, options(nomem, nostack));
    }
    fail(format_args!("vector {vector}, esr {cause:#x}, elr {address:#x}"))
}
