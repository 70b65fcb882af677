// The reset vector, and exceptions from EL2 to EL3.

.equ STACK_SHIFT, 14

.section .reset, "ax"
.global reset
reset:
    mrs     x0, mpidr_el1
    and     x0, x0, #0xff
    adrp    x1, stacks
    add     x1, x1, :lo12:stacks
    add     x2, x0, #1
    lsl     x2, x2, #STACK_SHIFT
    add     sp, x1, x2
    adr     x1, vectors
    msr     vbar_el3, x1
    isb
    bl      start
1:  wfi
    b       1b

.macro unexpected number
.balign 128
    mov     x0, #\number
    b       report
.endm

.balign 2048
vectors:
    unexpected 0
    unexpected 1
    unexpected 2
    unexpected 3
    unexpected 4
    unexpected 5
    unexpected 6
    unexpected 7
.balign 128
    sub     sp, sp, #256
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    b       synchronous
    unexpected 9
    unexpected 10
    unexpected 11
    unexpected 12
    unexpected 13
    unexpected 14
    unexpected 15

.balign 128
synchronous:
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #240]
    mov     x0, sp
    bl      handle
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    add     sp, sp, #256
    eret

// Goes to x1 at EL2 with x0; nothing else is left in registers.
.global enter
enter:
    msr     elr_el3, x1
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    mov     x4, xzr
    isb
    eret

// Where CPUs wait at EL2 until the word at x0 holds an address. Copied to the boot loader's memory.
.global parked
parked:
    mov     x5, x0
1:  wfe
    ldr     x4, [x5]
    cbz     x4, 1b
    mov     x0, xzr
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    blr     x4
    b       1b
.global parked_end
parked_end:

.section .bss.stacks, "aw", %nobits
.balign 4096
stacks:
    .skip   4 << STACK_SHIFT
