//! Entry points: from the boot loader in 32-bit mode, and of the other
//! processors in real mode. Both end in 64-bit Rust on a stack of its own.

use core::arch::global_asm;

/// Bytes of the boot stack, which the first processor leaves soon.
const BOOT_STACK: usize = 32 * 1024;

// PVH (Xen `x86/HVM direct boot ABI`): flat 32-bit protected mode, paging off, EBX = start
// information. Multiboot2 3.3: the same, EAX = magic. Both arrive at `enter32` with EDI = magic
// or 0 and ESI = address. The loader has zeroed .bss.
//
// The early page tables map 4 GiB to themselves in 2 MiB pages, writable and executable; Rust
// replaces them first thing.
global_asm!(
    r#"
    .section .multiboot2, "a", @progbits
    .balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
    .word 0, 0
    .long 8
multiboot2_header_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_entry

    .section .boot.text, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    xor eax, eax
    .global multiboot2_entry
multiboot2_entry:
    cli
    cld
    mov edi, eax
    mov esi, ebx
    mov esp, offset boot_stack_top

    // Four page directories, 2048 entries of 2 MiB: present, writable, large.
    mov ebx, offset boot_pd
    mov eax, 0x83
    xor edx, edx
    mov ecx, 2048
2:  mov [ebx], eax
    mov [ebx + 4], edx
    add eax, 0x200000
    add ebx, 8
    loop 2b

    mov ebx, offset boot_pdpt
    mov eax, offset boot_pd
    or eax, 3
    mov ecx, 4
3:  mov [ebx], eax
    mov dword ptr [ebx + 4], 0
    add eax, 0x1000
    add ebx, 8
    loop 3b

    mov eax, offset boot_pdpt
    or eax, 3
    mov [boot_pml4], eax
    mov dword ptr [boot_pml4 + 4], 0

    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, 0x20           // CR4.PAE
    mov cr4, eax
    mov ecx, 0xc0000080     // EFER
    rdmsr
    or eax, 0x100           // LME
    wrmsr
    mov eax, 0x80010011     // CR0: PG, WP, ET, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    // A far jump whose selector is the 64-bit code segment.
    .byte 0xea
    .long enter64
    .word 0x08

    .code64
enter64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov edi, edi
    mov esi, esi
    mov rsp, offset boot_stack_top
    xor ebp, ebp
    call {start}
4:  cli
    hlt
    jmp 4b

    .section .rodata.boot, "a", @progbits
    .balign 8
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .word 23
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_stack: .skip {stack}
boot_stack_top:
    "#,
    start = sym super::start::start,
    stack = const BOOT_STACK,
);

// The other processors start in real mode at the page to which this is copied, with CS = page >> 4
// and IP = 0. They go to 64-bit mode in one step, with the final page tables, and on to
// `secondary64`. The fields behind the code are filled in by `Trampoline::install`.
global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .global trampoline_start
trampoline_start:
    .code16
    jmp 6f
    // Data at fixed offsets, where the code can name it.
    .org trampoline_start + 8
    .global trampoline_cr3
trampoline_cr3:
    .long 0
    .word 23
    .long boot_gdt
6:  cli
    cld
    mov ax, cs
    mov ds, ax
    mov eax, 0x20                                   // CR4.PAE
    mov cr4, eax
    mov eax, dword ptr ds:[8]
    mov cr3, eax
    mov ecx, 0xc0000080                             // EFER
    rdmsr
    or eax, 0x900                                   // LME, NXE
    wrmsr
    mov eax, 0x80010011                             // CR0: PG, WP, ET, PE
    mov cr0, eax
    // lgdt with a 32-bit base from offset 12
    .byte 0x66, 0x0f, 0x01, 0x16, 12, 0
    // A far jump with a 32-bit offset.
    .byte 0x66, 0xea
    .long secondary64
    .word 0x08
    .global trampoline_end
trampoline_end:

    .section .text.secondary, "ax", @progbits
    .code64
    .global secondary64
secondary64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    // The processor that starts us has left our stack and argument.
    mov rsp, [rip + {stack}]
    mov rdi, [rip + {argument}]
    xor ebp, ebp
    call {start}
5:  cli
    hlt
    jmp 5b
    "#,
    stack = sym super::smp::SECONDARY_STACK,
    argument = sym super::smp::SECONDARY_ARGUMENT,
    start = sym super::start::start_secondary,
);
