// The guest that runs without a bundle: an arm64 Image that prints a few lines
// on the PL011 of QEMU's `virt` and turns its machine off.

.section .rodata.embedded, "a"
.balign 8
.global embedded_guest
embedded_guest:
    b       1f
    .word   0
    .quad   0
    .quad   embedded_guest_end - embedded_guest
    .quad   0x0a
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0
1:  adr     x1, embedded_text
    mov     x2, #0x09000000         // PL011 data register
2:  ldrb    w3, [x1], #1
    cbz     w3, 3f
    str     w3, [x2]
    b       2b
3:  movz    w0, #0x0008             // PSCI SYSTEM_OFF
    movk    w0, #0x8400, lsl #16
    hvc     #0
4:  wfi
    b       4b
embedded_text:
    .ascii  "Hello from a guest at EL1: Bunshin works.\r\n"
    .ascii  "To boot a VM of yours: cargo xtask pack my.toml -o my.itb, then give\r\n"
    .asciz  "my.itb as initial RAM disk (QEMU: -initrd; config.txt: initramfs).\r\n"
.balign 8
.global embedded_guest_end
embedded_guest_end:
