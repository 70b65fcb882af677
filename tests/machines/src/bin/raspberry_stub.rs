//! What the firmware of a Raspberry Pi 4 runs on all four CPUs before the kernel: a stub at address 0.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("raspberry_stub.S"), options(raw));

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// On a host there is nothing to do.
#[cfg(not(target_os = "none"))]
fn main() {}
