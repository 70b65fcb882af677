// The state in which the stub of a Raspberry Pi 4's firmware leaves each CPU, as far as an emulator
// can tell. The loader writes two words: the device tree's address to 0xf8, the kernel's to 0xfc.

.equ LOCAL_CONTROL,     0xff800000
.equ TIMER_PRESCALER,   0x08
.equ GICD,              0xff841000
.equ GICC,              0xff842000
.equ GICD_IGROUPR,      0x080
.equ GICC_CTLR,         0x000
.equ GICC_PMR,          0x004
.equ OSCILLATOR,        54000000
.equ SCR_NS,            1 << 0
.equ SCR_RES1,          3 << 4
.equ SCR_SMD,           1 << 7          // SMC is undefined
.equ SCR_HCE,           1 << 8
.equ SCR_RW,            1 << 10
.equ SCTLR_EL2_RES1,    0x30c50830
.equ SPSR_EL2H_MASKED,  0x3c9
.equ CPUECTLR_SMPEN,    1 << 6

.section .reset, "ax"
.global reset
reset:
    ldr     x0, =LOCAL_CONTROL
    str     wzr, [x0]
    mov     w1, #0x80000000
    str     w1, [x0, #TIMER_PRESCALER]
    ldr     x0, =OSCILLATOR
    msr     cntfrq_el0, x0
    msr     cntvoff_el2, xzr
    msr     cptr_el3, xzr
    mov     x0, #(SCR_NS | SCR_RES1 | SCR_SMD | SCR_HCE | SCR_RW)
    msr     scr_el3, x0
    mrs     x0, s3_1_c15_c2_1           // CPUECTLR_EL1
    orr     x0, x0, #CPUECTLR_SMPEN
    msr     s3_1_c15_c2_1, x0
    // All interrupts to the Non-secure world; every CPU does it, for the first word is its own.
    ldr     x0, =(GICD + GICD_IGROUPR)
    mov     w1, #0xffffffff
    mov     x2, #8
1:  str     w1, [x0], #4
    subs    x2, x2, #1
    b.ne    1b
    ldr     x0, =GICC
    mov     w1, #0x1e7
    str     w1, [x0, #GICC_CTLR]
    mov     w1, #0xff
    str     w1, [x0, #GICC_PMR]
    ldr     x0, =SCTLR_EL2_RES1
    msr     sctlr_el2, x0
    mov     x0, #SPSR_EL2H_MASKED
    msr     spsr_el3, x0
    adr     x0, at_el2
    msr     elr_el3, x0
    b       enter

// The mailboxes of the spin table, one for each CPU, and the loader's words.
.org 0xd8
mailboxes:
    .quad   0, 0, 0, 0
.org 0xf8
tree:
    .word   0
kernel:
    .word   0

enter:
    eret

at_el2:
    mrs     x6, mpidr_el1
    ands    x6, x6, #3
    b.ne    2f
    ldr     w4, kernel
    ldr     w0, tree
    b       4f
2:  adr     x5, mailboxes
3:  wfe
    ldr     x4, [x5, x6, lsl #3]
    cbz     x4, 3b
    mov     x0, xzr
4:  mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    br      x4
.ltorg
