//! The report of a fault of the hypervisor itself.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::el2::console;
use crate::el2::context::Registers;
use crate::el2::registers::read_register;

/// Return addresses that a report shows at most.
const MAX_FRAMES: usize = 24;

/// Names of the vectors (Arm ARM D1.4.1).
const VECTORS: [&str; 8] = [
    "synchronous exception, SP_EL0",
    "IRQ, SP_EL0",
    "FIQ, SP_EL0",
    "SError, SP_EL0",
    "synchronous exception",
    "IRQ",
    "FIQ",
    "SError",
];

/// One CPU reports; what goes wrong after that is its consequence.
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Called by the vectors of EL2 itself, on the fault stack.
#[unsafe(no_mangle)]
extern "C" fn report_fault(registers: &Registers, vector: usize) -> ! {
    if !REPORTING.swap(true, Ordering::SeqCst) {
        let base = image_base();
        console::emergency(format_args!(
            "\nbunshin: fault in the hypervisor: {} on CPU {:#x}\n  esr {:x}  far {:x}  image {:x}  pc - image {:x}\n{}  sp {:x}\n",
            VECTORS.get(vector).copied().unwrap_or("unknown vector"),
            read_register!("mpidr_el1"),
            read_register!("esr_el2"),
            read_register!("far_el2"),
            base,
            registers.pc.wrapping_sub(base),
            registers,
            registers.sp,
        ));
        backtrace(registers.x[29]);
    }
    halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !REPORTING.swap(true, Ordering::SeqCst) {
        console::emergency(format_args!("\nbunshin: {info}\n"));
        let frame: u64;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, x29", out(reg) frame, options(nomem, nostack)) };
        backtrace(frame);
    }
    halt()
}

/// Prints the chain of return addresses, as offsets into the image, that
/// starts at frame record `frame`.
fn backtrace(mut frame: u64) {
    let base = image_base();
    console::emergency(format_args!("  return addresses, from the image's start:"));
    for _ in 0..MAX_FRAMES {
        // Frame records lie in memory that is ours: the image or a stack.
        if frame == 0 || !frame.is_multiple_of(8) || !crate::el2::mmu::is_stack(frame) {
            break;
        }
        // SAFETY: the address is aligned and on one of our stacks.
        let [next, address] = unsafe { *(frame as *const [u64; 2]) };
        console::emergency(format_args!(" {:x}", address.wrapping_sub(base)));
        if next <= frame {
            break;
        }
        frame = next;
    }
    console::emergency(format_args!("\n"));
}

/// Where the image was loaded.
pub(crate) fn image_base() -> u64 {
    unsafe extern "C" {
        static __image_start: u8;
    }
    &raw const __image_start as u64
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        aarch64_cpu::asm::wfi();
    }
}
