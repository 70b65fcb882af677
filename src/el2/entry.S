// First instructions of the image, on the boot CPU and on all others.
//
// The boot CPU comes from a boot loader by the arm64 Linux protocol: MMU off,
// x0 = address of the flattened device tree, image at any 2 MiB boundary.
// It relocates the image, turns the MMU on with a coarse identity map (image
// and device tree only) so that Rust never runs on uncached memory, and calls
// boot_main. A CPU that came at EL1 or EL3 does the same with that level's
// registers, so that boot_main can say on the console what is wrong.

.equ SCTLR_M,            1 << 0
.equ SCTLR_A,            1 << 1
.equ SCTLR_C,            1 << 2
.equ SCTLR_SA,           1 << 3
.equ SCTLR_I,            1 << 12
// RES1 where FEAT_VHE is not in use; harmless in the EL1 layout.
.equ SCTLR_RES1,         0x30c50830

.equ HCR_FMO,            1 << 3
.equ HCR_IMO,            1 << 4
.equ HCR_AMO,            1 << 5
.equ HCR_RW,             1 << 31
.equ HCR_E2H_SHIFT,      34

.equ MAIR_NORMAL,        0xff        // Attr0: write-back, allocating
.equ MAIR_DEVICE,        0x00        // Attr1: Device-nGnRnE
.equ MAIR_VALUE,         MAIR_NORMAL | (MAIR_DEVICE << 8)

.equ TCR_T0SZ_48,        16
.equ TCR_IRGN0_WB,       1 << 8
.equ TCR_ORGN0_WB,       1 << 10
.equ TCR_SH0_INNER,      3 << 12
.equ TCR_COMMON,         TCR_T0SZ_48 | TCR_IRGN0_WB | TCR_ORGN0_WB | TCR_SH0_INNER
.equ TCR_SINGLE_RES1,    (1 << 31) | (1 << 23)
.equ TCR_SINGLE_PS_SHIFT, 16
.equ TCR_SPLIT_EPD1,     1 << 23
.equ TCR_SPLIT_IPS_SHIFT, 32
.equ PARANGE_48,         5

.equ DESC_TABLE,         3
.equ DESC_BLOCK,         1
.equ DESC_AF,            1 << 10
.equ DESC_SH_INNER,      3 << 8
.equ BLOCK_ATTR,         DESC_BLOCK | DESC_AF | DESC_SH_INNER
.equ BLOCK_SHIFT,        21
.equ BLOCK_SIZE,         1 << BLOCK_SHIFT

.equ FDT_MAGIC_LE,       0xedfe0dd0

// \register = sum of the bits in \value, up to 64 bits.
.macro mov64 register, value
    movz    \register, #((\value) & 0xffff)
    movk    \register, #(((\value) >> 16) & 0xffff), lsl #16
    movk    \register, #(((\value) >> 32) & 0xffff), lsl #32
    movk    \register, #(((\value) >> 48) & 0xffff), lsl #48
.endm

.section .head, "ax"
.global _head
_head:
    b       boot                    // code0
    .word   0                       // code1
    .quad   0                       // text_offset: any 2 MiB boundary
    .quad   __image_end - _head     // image_size, .bss and stack included
    .quad   0x0a                    // flags: little endian, 4 KiB, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

// In: x0 = device tree. Clobbers everything; does not return.
boot:
    mov     x21, x0                 // x21: device tree, 0 when it is none
    msr     daifset, #0xf
    adr     x20, _head              // x20: base of the image
    mrs     x22, CurrentEL
    ubfx    x22, x22, #2, #2        // x22: exception level
    cmp     x22, #2
    b.ne    1f
    bl      reset_hcr
1:
    // Relocate: every entry is R_AARCH64_RELATIVE {offset, info, addend}.
    adrp    x0, __rela_start
    add     x0, x0, :lo12:__rela_start
    adrp    x1, __rela_end
    add     x1, x1, :lo12:__rela_end
2:  cmp     x0, x1
    b.hs    3f
    ldp     x2, x3, [x0], #16
    ldr     x4, [x0], #8
    cmp     w3, #1027
    b.ne    2b
    add     x4, x4, x20
    str     x4, [x20, x2]
    b       2b
3:
    // A device tree starts with its magic number, on an 8-byte boundary.
    cbz     x21, 4f
    tst     x21, #7
    csel    x21, xzr, x21, ne
    cbz     x21, 4f
    ldr     w0, [x21]
    mov64   x1, FDT_MAGIC_LE
    cmp     w0, w1
    csel    x21, xzr, x21, ne
4:
    // The coarse map: two levels of tables from a small pool, then blocks.
    adrp    x23, early_tables       // x23: level-0 table
    add     x24, x23, #4096         // x24: next free table
    mov64   x25, BLOCK_ATTR         // x25: attributes of a block
    mov     x0, x20
    adrp    x1, __image_end
    bl      map_range
    cbz     x21, 5f
    mov     x0, x21
    ldr     w1, [x21, #4]           // totalsize
    rev     w1, w1
    add     x1, x1, x21
    // No tree is longer than this; the parser refuses it later.
    add     x2, x21, #BLOCK_SIZE
    cmp     x1, x2
    csel    x1, x2, x1, hi
    bl      map_range
5:
    // What was written with the MMU off must not be hidden by stale lines.
    mov     x0, x20
    adrp    x1, __data_end
    bl      invalidate_range

    mov     x0, x23
    bl      mmu_on

    // With caches on: the stack, .bss, the vectors, and Rust.
    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
6:  cmp     x0, x1
    b.hs    7f
    stp     xzr, xzr, [x0], #16
    b       6b
7:
    adrp    x0, __boot_stack_top
    mov     sp, x0
    cmp     x22, #2
    b.ne    8f
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el2, x0
    isb
8:
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x21
    mov     x1, x22
    bl      boot_main
9:  wfi
    b       9b

// Secondary CPUs, from PSCI or a spin table, at EL2 with the MMU off. Finds its
// record in `secondary_boot` {mpidr, stack top, argument} by MPIDR affinity.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    adrp    x2, secondary_boot
    add     x2, x2, :lo12:secondary_boot
    ldr     x0, [x2, #24]           // E2H as on the boot CPU
    msr     hcr_el2, x0
    isb
    mrs     x0, mpidr_el1
    mov64   x1, 0xff00ffffff
    and     x0, x0, x1
    ldp     x3, x4, [x2]            // records, number of them
1:  cbz     x4, 9b
    ldp     x5, x6, [x3], #24
    sub     x4, x4, #1
    cmp     x5, x0
    b.ne    1b
    ldur    x19, [x3, #-8]          // argument
    mov     x20, x6                 // stack
    ldr     x0, [x2, #16]           // level-0 table
    bl      mmu_on
    mov     sp, x20
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el2, x0
    isb
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    bl      secondary_main
    b       9b

// Writes HCR_EL2: interrupts come here, EL1 is AArch64, nothing is trapped. E2H stays as
// the boot loader left it where it exists: some CPUs have it fixed.
// Clobbers x0-x2.
reset_hcr:
    mrs     x0, id_aa64mmfr1_el1
    ubfx    x0, x0, #8, #4          // VH
    mrs     x1, hcr_el2
    ubfx    x1, x1, #HCR_E2H_SHIFT, #1
    cmp     x0, #0
    csel    x1, xzr, x1, eq
    mov64   x2, (HCR_RW | HCR_AMO | HCR_IMO | HCR_FMO)
    orr     x2, x2, x1, lsl #HCR_E2H_SHIFT
    msr     hcr_el2, x2
    isb
    ret

// Maps the blocks that hold x0..x1 one to one. Clobbers x0-x5; x23-x25 as above.
map_range:
    lsr     x0, x0, #BLOCK_SHIFT
    lsl     x0, x0, #BLOCK_SHIFT
1:  cmp     x0, x1
    b.hs    4f
    ubfx    x2, x0, #39, #9
    add     x2, x23, x2, lsl #3     // level-0 entry
    mov     x5, #2                  // tables still to walk
    mov     x4, #30
2:  ldr     x3, [x2]
    cbnz    x3, 3f
    orr     x3, x24, #DESC_TABLE
    str     x3, [x2]
    add     x24, x24, #4096
3:  and     x3, x3, #~0xfff
    lsr     x2, x0, x4
    and     x2, x2, #0x1ff
    add     x2, x3, x2, lsl #3
    sub     x4, x4, #9
    sub     x5, x5, #1
    cbnz    x5, 2b
    orr     x3, x0, x25
    str     x3, [x2]
    add     x0, x0, #BLOCK_SIZE
    b       1b
4:  ret

// Invalidates the data cache for x0..x1 to the point of coherency. Clobbers x0-x3.
invalidate_range:
    mrs     x2, ctr_el0
    ubfx    x2, x2, #16, #4         // DminLine, log2 of words
    mov     x3, #4
    lsl     x2, x3, x2
1:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret

// Turns the MMU on at the current exception level with the level-0 table x0.
// The identity map makes the next instruction the same one. Clobbers x0-x7.
.global mmu_on
mmu_on:
    mrs     x1, id_aa64mmfr0_el1
    and     x1, x1, #0xf
    mov     x2, #PARANGE_48
    cmp     x1, x2
    csel    x1, x2, x1, hi          // x1: physical address size
    mov64   x3, MAIR_VALUE
    mov64   x4, TCR_COMMON
    mov64   x5, (SCTLR_RES1 | SCTLR_M | SCTLR_C | SCTLR_I | SCTLR_SA)
    mrs     x6, CurrentEL
    ubfx    x6, x6, #2, #2
    cmp     x6, #2
    b.lo    1f
    b.hi    2f
    mrs     x7, hcr_el2
    tbz     x7, #HCR_E2H_SHIFT, 3f
    // EL2 with E2H: TCR_EL2 has the layout of TCR_EL1.
    lsl     x1, x1, #32
    orr     x4, x4, x1
    orr     x4, x4, #TCR_SPLIT_EPD1
    b       4f
3:  mov64   x7, TCR_SINGLE_RES1
    orr     x4, x4, x7
    orr     x4, x4, x1, lsl #TCR_SINGLE_PS_SHIFT
4:  msr     mair_el2, x3
    msr     tcr_el2, x4
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el2, x5
    isb
    ret
1:  lsl     x1, x1, #TCR_SPLIT_IPS_SHIFT
    orr     x4, x4, x1
    orr     x4, x4, #TCR_SPLIT_EPD1
    msr     mair_el1, x3
    msr     tcr_el1, x4
    msr     ttbr0_el1, x0
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el1, x5
    isb
    ret
2:  mov64   x7, TCR_SINGLE_RES1
    orr     x4, x4, x7
    orr     x4, x4, x1, lsl #TCR_SINGLE_PS_SHIFT
    msr     mair_el3, x3
    msr     tcr_el3, x4
    msr     ttbr0_el3, x0
    isb
    tlbi    alle3
    ic      iallu
    dsb     nsh
    isb
    msr     sctlr_el3, x5
    isb
    ret

// Replaces the level-0 table by x0 without a moment at which both are live.
// Clobbers x0-x8.
.global switch_tables
switch_tables:
    mov     x8, x30
    mrs     x6, CurrentEL
    ubfx    x6, x6, #2, #2
    cmp     x6, #2
    b.lo    1f
    b.hi    2f
    mrs     x1, sctlr_el2
    bic     x1, x1, #SCTLR_M
    msr     sctlr_el2, x1
    b       3f
1:  mrs     x1, sctlr_el1
    bic     x1, x1, #SCTLR_M
    msr     sctlr_el1, x1
    b       3f
2:  mrs     x1, sctlr_el3
    bic     x1, x1, #SCTLR_M
    msr     sctlr_el3, x1
3:  isb
    bl      mmu_on
    ret     x8

.section .early_tables, "aw"
.balign 4096
early_tables:
    .fill   4096 * 9, 1, 0
