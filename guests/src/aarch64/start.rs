//! The first instructions: image header, relocation, stack, MMU.

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{console, cpu, exception, machine, mmu, psci, smp};

/// Bytes of stack for each CPU.
pub(super) const STACK: usize = 32 * 1024;

#[repr(C, align(16))]
pub(super) struct Stacks(pub(super) [[u8; STACK]; smp::MAX_CPUS]);

/// Only ever addressed, never read or written as an object.
pub(super) static mut STACKS: Stacks = Stacks([[0; STACK]; smp::MAX_CPUS]);

// Entry of the first CPU, with the MMU off, at EL1: x0 = device tree.
// Entry of another CPU by PSCI: x0 = its record, `smp::Record`, whose first
// word is the top of its stack.
//
// The 64-byte header is the arm64 kernel image header (Linux
// Documentation/arch/arm64/booting.rst): little-endian, 4 KiB pages, any place.
global_asm!(
    r#"
    .section .head, "ax"
    .global image_head
image_head:
    b       first_entry
    .long   0
    .quad   0
    .quad   image_size
    .quad   0b1010
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

first_entry:
    mrs     x21, cntvct_el0
    mrs     x22, cntpct_el0
    mov     x19, x0
    msr     daifset, #0xf
    msr     spsel, #1
    // Clear .bss.
    adrp    x1, bss_start
    add     x1, x1, :lo12:bss_start
    adrp    x2, bss_end
    add     x2, x2, :lo12:bss_end
1:  cmp     x1, x2
    b.hs    2f
    stp     xzr, xzr, [x1], #16
    b       1b
    // Add the load address to every R_AARCH64_RELATIVE word.
2:  adr     x20, image_head
    adrp    x1, rela_start
    add     x1, x1, :lo12:rela_start
    adrp    x2, rela_end
    add     x2, x2, :lo12:rela_end
3:  cmp     x1, x2
    b.hs    5f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027
    b.ne    3b
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       3b
    // What was written around the caches must not be hidden by a stale line.
5:  dsb     sy
    mov     x1, x20
    adrp    x2, bss_end
    add     x2, x2, :lo12:bss_end
6:  dc      ivac, x1
    add     x1, x1, #16
    cmp     x1, x2
    b.lo    6b
    dsb     sy
    adrp    x0, {boot_root}
    add     x0, x0, :lo12:{boot_root}
    bl      enable_mmu
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    mov     x2, #{stack}
    add     sp, x1, x2
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x21
    mov     x2, x22
    b       {first}

    .global secondary_entry
secondary_entry:
    mrs     x20, sctlr_el1
    mrs     x21, daif
    mrs     x22, currentel
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    ldr     x1, [x19]
    mov     sp, x1
    ldr     x0, [x19, #8]
    bl      enable_mmu
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x20
    mov     x2, x21
    mov     x3, x22
    b       {secondary}

// suspend_cpu(function, power_state, save): a PSCI call that may come back at
// another entry point; x0 = answer, or 1 after a power-down. `save` takes what
// a function keeps, the stack pointer and the root table.
    .global suspend_cpu
suspend_cpu:
    stp     x19, x20, [x2]
    stp     x21, x22, [x2, #16]
    stp     x23, x24, [x2, #32]
    stp     x25, x26, [x2, #48]
    stp     x27, x28, [x2, #64]
    stp     x29, x30, [x2, #80]
    mov     x9, sp
    mrs     x10, ttbr0_el1
    stp     x9, x10, [x2, #96]
    mrs     x9, vbar_el1
    mrs     x10, tpidr_el1
    stp     x9, x10, [x2, #112]
    mov     x19, x0
    mov     x20, x1
    mov     x21, x2
    dc      civac, x2
    add     x9, x2, #64
    dc      civac, x9
    dsb     sy
    adr     x11, resume_entry
    // CPU_SUSPEND(power_state, entry, context), SYSTEM_SUSPEND(entry, context).
    mov     x1, x20
    mov     x2, x11
    mov     x3, x21
    cmp     x20, #-1
    csel    x1, x11, x1, eq
    csel    x2, x21, x2, eq
    hvc     #0
    ldp     x19, x20, [x21]
    ldr     x21, [x21, #16]
    ret

resume_entry:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    ldr     x0, [x19, #104]
    bl      enable_mmu
    ldp     x9, x10, [x19, #112]
    msr     vbar_el1, x9
    msr     tpidr_el1, x10
    ldr     x9, [x19, #96]
    mov     sp, x9
    ldp     x21, x22, [x19, #16]
    ldp     x23, x24, [x19, #32]
    ldp     x25, x26, [x19, #48]
    ldp     x27, x28, [x19, #64]
    ldp     x29, x30, [x19, #80]
    ldp     x19, x20, [x19]
    isb
    mov     x0, #1
    ret

// x0 = root table. Uses x1 and x2.
enable_mmu:
    ldr     x1, ={mair}
    msr     mair_el1, x1
    ldr     x1, ={tcr}
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #7
    orr     x1, x1, x2, lsl #32
    msr     tcr_el1, x1
    msr     ttbr0_el1, x0
    mov     x1, #(3 << 20)
    msr     cpacr_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el1, x1
    isb
    ret
    .ltorg
    .previous
    "#,
    boot_root = sym mmu::BOOT_ROOT,
    stacks = sym STACKS,
    stack = const STACK,
    first = sym first,
    secondary = sym secondary,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR,
);

unsafe extern "C" {
    fn guest_main() -> !;
}

/// Virtual and physical counter at the first instructions.
static ENTERED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The virtual and the physical counter when the guest was entered.
pub(super) fn times() -> (u64, u64) {
    let [virtual_time, physical_time] = &ENTERED;
    (virtual_time.load(Ordering::Relaxed), physical_time.load(Ordering::Relaxed))
}

extern "C" fn first(device_tree: u64, virtual_time: u64, physical_time: u64) -> ! {
    for (slot, time) in ENTERED.iter().zip([virtual_time, physical_time]) {
        slot.store(time, Ordering::Relaxed);
    }
    smp::adopt(smp::boot_record());
    exception::install();
    machine::probe(device_tree);
    mmu::map_machine();
    cpu::start_event_stream();
    // SAFETY: every guest defines it through `entry!`.
    unsafe { guest_main() }
}

extern "C" fn secondary(record: &'static smp::Record, sctlr: u64, daif: u64, el: u64) -> ! {
    smp::adopt(record);
    record.note_entry(smp::EntryState { sctlr, daif, el: el >> 2 });
    exception::install();
    cpu::start_event_stream();
    smp::serve(record)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::mask_interrupts();
    console::print_last_line(format_args!("Bail out! {info}"));
    psci::system_off()
}
