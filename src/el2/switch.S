// The world switch and the exception vectors.
//
// struct Registers (src/el2/context.rs): x0..x30, pc, pstate, sp, and x19, x29 and x30 of EL2.
// PC and PSTATE of the guest stay in ELR_EL2 and SPSR_EL2 while it is loaded.
.equ REG_X30, 8 * 30
.equ REG_SP, 8 * 33
.equ REG_X29, 8 * 35
.equ REGISTERS_SIZE, 304

.section .text

// enter_guest: runs the guest until it exits. In: x0 = address of its Registers.
// Out: x0 = the kind of vector that it came through. Keeps x19 and x29, which a compiler
// does not let an asm block change, and SP; all other registers are lost, so that
// the caller saves no more than what it needs. While the guest runs, SP_EL2 is the
// address of its Registers.
.global enter_guest
enter_guest:
    mov     x1, sp
    stp     x1, x19, [x0, #REG_SP]
    stp     x29, x30, [x0, #REG_X29]
    mov     sp, x0
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #REG_X30]
    ldp     x0, x1, [x0]
    eret
    // Nothing may be executed ahead of the return.
    dsb     nsh
    isb

// A vector of a lower exception level: the way back to the caller of enter_guest.
.macro lower number
.balign 128
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
    stp     x28, x29, [sp, #224]
    str     x30, [sp, #REG_X30]
    ldp     x1, x19, [sp, #REG_SP]
    ldp     x29, x30, [sp, #REG_X29]
    mov     sp, x1
    mov     x0, #\number
    ret
.endm

// A vector of EL2 itself: a fault of ours. The stack may be what is broken, so
// the report gets one of its own, found through TPIDR_EL2 (0 before it is set).
.macro own number
.balign 128
    msr     tpidr_el1, x0           // the guest's, but nobody goes on from here
    mov     x0, #\number
    b       own_fault
.endm

.balign 2048
.global vectors
vectors:
    own     0
    own     1
    own     2
    own     3
    own     4
    own     5
    own     6
    own     7
    lower   0
    lower   1
    lower   2
    lower   3
    lower   0                       // from AArch32 the same
    lower   1
    lower   2
    lower   3

// In: x0 = vector number, TPIDR_EL1 = x0 at the fault. Builds a Registers on
// the fault stack and calls report_fault(registers, vector).
own_fault:
    msr     tpidrro_el0, x1
    mrs     x1, tpidr_el2
    cbnz    x1, 1f
    adrp    x1, __boot_stack_top
1:  sub     x1, x1, #REGISTERS_SIZE
    stp     x2, x3, [x1, #16]
    stp     x4, x5, [x1, #32]
    stp     x6, x7, [x1, #48]
    stp     x8, x9, [x1, #64]
    stp     x10, x11, [x1, #80]
    stp     x12, x13, [x1, #96]
    stp     x14, x15, [x1, #112]
    stp     x16, x17, [x1, #128]
    stp     x18, x19, [x1, #144]
    stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    mrs     x2, tpidr_el1
    mrs     x3, tpidrro_el0
    stp     x2, x3, [x1]
    mrs     x2, elr_el2
    stp     x30, x2, [x1, #240]
    mrs     x2, spsr_el2
    mov     x3, sp
    stp     x2, x3, [x1, #256]
    mov     sp, x1
    mov     x2, x0
    mov     x0, x1
    mov     x1, x2
    bl      report_fault
2:  wfi
    b       2b
