//! Restarts the machine for ever, by each of the ways that PCs have.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use core::arch::asm;

    use guests::x86_64::{cpu, port, power};
    use guests::{entry, println};

    /// Keyboard controller, and its command that pulses the reset line.
    const KEYBOARD: (u16, u8) = (0x64, 0xfe);
    /// Reset control register of chip sets.
    const RESET_CONTROL: u16 = 0xcf9;

    fn triple_fault() -> ! {
        let nothing = [0u8; 10];
        // SAFETY: ends the machine: without a table no exception can be delivered.
        unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const nothing, options(noreturn)) }
    }

    fn main() -> ! {
        // Nothing of an earlier life is left to count with, but time goes on.
        match cpu::tsc() >> 12 & 3 {
            0 => {
                println!("reset by the ACPI register");
                power::reset()
            }
            1 => {
                println!("reset by the keyboard controller");
                port::write8(KEYBOARD.0, KEYBOARD.1);
            }
            2 => {
                println!("reset by the chip set");
                port::write8(RESET_CONTROL, 0x02);
                port::write8(RESET_CONTROL, 0x06);
            }
            _ => {
                println!("reset by a triple fault");
                triple_fault()
            }
        }
        cpu::stop()
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
