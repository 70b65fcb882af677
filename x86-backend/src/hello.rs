//! The guest that runs when there is no bundle: it greets and turns its
//! machine off.

use core::arch::global_asm;

use bunshin::config::{Payload, VmConfig};

/// Memory of the virtual machine.
const MEMORY: u64 = 16 << 20;

// A Multiboot 1 kernel as a flat binary: header with addresses (flag 16), greeting, code. It runs at
// 1 MiB in 32-bit mode and writes to COM1 (3F8h), then turns off by ACPI's sleep register (600h).
global_asm!(
    r#"
    .section .rodata.hello, "a", @progbits
    .balign 4
    .global hello_start
hello_start:
    .long 0x1badb002
    .long 0x00010000
    .long -(0x1badb002 + 0x00010000)
    .long 0x100000
    .long 0x100000
    .long 0x100000 + hello_end - hello_start
    .long 0
    .long 0x100000 + hello_code - hello_start
hello_text:
    .asciz "Hello from a guest! Give Bunshin a bundle to run your own.\r\n"
hello_code:
    .code32
    .byte 0xbe                      // mov esi, the text
    .long 0x100000 + hello_text - hello_start
    mov dx, 0x3f8
2:  lodsb
    test al, al
    jz 3f
    out dx, al
    jmp 2b
3:  mov dx, 0x600
    mov al, 0x34
    out dx, al
4:  hlt
    jmp 4b
    .global hello_end
hello_end:
    .code64
    "#
);

unsafe extern "C" {
    static hello_start: u8;
    static hello_end: u8;
}

/// The kernel, in place of a bundle.
pub(crate) fn bytes() -> &'static [u8] {
    let start = &raw const hello_start;
    let size = (&raw const hello_end) as usize - start as usize;
    // SAFETY: the two symbols enclose constant bytes of the image.
    unsafe { core::slice::from_raw_parts(start, size) }
}

/// Its virtual machine.
pub(crate) fn config() -> VmConfig {
    VmConfig::new("hello", 1, MEMORY, Payload { offset: 0, size: bytes().len() })
}
