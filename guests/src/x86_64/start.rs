//! The first instructions: Multiboot header, PVH note, long mode.

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{acpi, apic, boot, console, cpu, exception, power, smp, time};

/// Selector of 64-bit code.
pub(super) const CODE: u16 = 8;

/// Bytes of stack for each CPU.
pub(super) const STACK: usize = 32 * 1024;

#[repr(C, align(16))]
pub(super) struct Stacks(pub(super) [[u8; STACK]; smp::MAX_CPUS]);

/// The time-stamp counter at the first instructions.
static ENTERED: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter when the guest was entered.
pub(super) fn time() -> u64 {
    ENTERED.load(Ordering::Relaxed)
}

/// Only ever addressed, never read or written as an object.
pub(super) static mut STACKS: Stacks = Stacks([[0; STACK]; smp::MAX_CPUS]);

// Both protocols enter in 32-bit mode without paging, EBX = boot information. Multiboot 1 has its
// magic number in EAX; PVH has any other number there (Xen, docs/misc/pvh.pandoc).
//
// The pages map the first 4 GiB to themselves, in pages of 2 MiB.
global_asm!(
    r#"
    .section .head.header, "a"
    .balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x00010003
    .long -(0x1badb002 + 0x00010003)
    .long multiboot_header
    .long image_head
    .long data_end
    .long bss_end
    .long multiboot_entry

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

    .section .head.text, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    xor eax, eax
multiboot_entry:
    cli
    cld
    mov ebp, eax
    rdtsc
    mov [{entered}], eax
    mov [{entered} + 4], edx
    // Tables: one level 4, one level 3, four of level 2.
    mov edi, offset boot_tables
    mov ecx, 6 * 4096 / 4
    xor eax, eax
    rep stosd
    mov eax, offset boot_tables + 4096 + 3
    mov [boot_tables], eax
    mov eax, offset boot_tables + 2 * 4096 + 3
    mov edi, offset boot_tables + 4096
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    mov eax, 0x83
    mov edi, offset boot_tables + 2 * 4096
    mov ecx, 4 * 512
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 3b
    mov esi, offset boot_stack
    mov esp, esi
    call enter_long_mode
    .code64
    mov edi, ebp
    mov esi, ebx
    xor ebp, ebp
    call {first}
    ud2

    // ESI holds the top of the stack; comes back to the caller in long mode.
    .code32
enter_long_mode:
    pop edx
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset boot_tables
    mov cr3, eax
    push edx
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    pop edx
    mov eax, cr0
    and eax, 0x9ffffff3
    or eax, 0x80000023
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xea
    .long 4f
    .short {code}
    .code64
4:  xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, esi
    mov edx, edx
    jmp rdx

    // Copied below 1 MiB, to the page that the start-up message names; it
    // addresses itself through CS.
    .code16
    .global trampoline_start
    .global trampoline_end
trampoline_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .set gdt_pointer_offset, trampoline_gdt_pointer - trampoline_start
    lgdtd [gdt_pointer_offset]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long secondary_protected
    .short 24
    .balign 4
trampoline_gdt_pointer:
    .short 39
    .long boot_gdt
trampoline_end:

    .code32
secondary_protected:
    mov ax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esi, [{next_stack}]
    mov esp, esi
    call enter_long_mode
    .code64
    xor ebp, ebp
    call {secondary}
    ud2

    .section .rodata.gdt, "a"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0
boot_gdt_pointer:
    .short 39
    .long boot_gdt

    .section .bss.tables, "aw", @nobits
    .balign 4096
boot_tables:
    .skip 6 * 4096
    .skip 16384
boot_stack:
    .text
    "#,
    code = const CODE,
    first = sym first,
    secondary = sym secondary,
    next_stack = sym smp::NEXT_STACK,
    entered = sym ENTERED,
);

unsafe extern "C" {
    fn guest_main() -> !;
}

extern "C" fn first(magic: u32, information: u32) -> ! {
    exception::fill();
    exception::load();
    boot::note(magic, information);
    apic::enable();
    time::measure();
    acpi::probe();
    // SAFETY: every guest defines it through `entry!`.
    unsafe { guest_main() }
}

extern "C" fn secondary() -> ! {
    exception::load();
    apic::enable();
    smp::serve()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::disable_interrupts();
    console::print_last_line(format_args!("Bail out! {info}"));
    power::off()
}
