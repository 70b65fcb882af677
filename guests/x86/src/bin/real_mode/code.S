// What a processor does in real mode: routines that the first CPU calls by number.
//
// They are copied to 1000:0000, where the start-up message leads. The stack is at the end of that
// segment, the table of handlers at 2000:0000. `command` holds the number of a routine until that
// is done; results are words.

    .set TABLE_SEGMENT, 0x2000
    .set TABLE_BASE, 0x20000
    .set DATA_SEGMENT, 0x3000
    .set STACK, 0xfff0
    .set VECTORS, 256
    .set FLAG_TF, 1 << 8
    .set CR0_TS, 1 << 3
    .set CR4_PAE, 1 << 5
    .set CR0_PG, 1 << 31
    .set LINE_STATUS, 0x3fd
    .set DELAY_PORT, 0x80
    .set APIC_BASE, 0x1b
    .set APIC_EOI, 0x80b
    .set APIC_SVR, 0x80f
    .set NO_REGISTER, 0x1234

    // Names the offset of what follows.
    .macro at name
    .set \name, . - real_mode_start
    .endm

    // Has the common handler take a vector, and return `skip` bytes behind where it came from.
    .macro handle vector, skip
    mov cx, \vector
    mov word ptr [at_skip], \skip
    call take_vector
    .endm

    // A result is AX.
    .macro result number
    mov word ptr [at_results + 2 * \number], ax
    .endm

    // A result is a word in memory.
    .macro result_of number, place
    mov ax, word ptr [\place]
    result \number
    .endm

    .section .text.real_mode, "ax"
    .code16
    .global real_mode_start
    .global real_mode_end
    .global real_mode_mailbox
real_mode_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, STACK
    call expect_nothing
    lidt [at_table]
    mov word ptr [at_command], 0
serve:
    mov ax, cs
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, STACK
2:  pause
    mov bx, word ptr [at_command]
    test bx, bx
    jz 2b
    mov word ptr [at_hits], 0
    shl bx, 1
    lea ax, [at_done]
    // The assembler's calls and returns are of 32 bits here.
    movzx eax, ax
    push eax
    jmp word ptr [bx + at_routines - 2]
    at at_done
    cli
    lidt [at_table]
    call expect_nothing
    mov word ptr [at_command], 0
    jmp serve

    // Every vector leads to `unexpected`.
expect_nothing:
    push es
    mov ax, TABLE_SEGMENT
    mov es, ax
    xor di, di
    mov cx, VECTORS
2:  lea ax, [at_unexpected]
    stosw
    mov ax, cs
    stosw
    loop 2b
    pop es
    ret

    // CX = vector.
take_vector:
    push es
    mov ax, TABLE_SEGMENT
    mov es, ax
    mov di, cx
    shl di, 2
    lea ax, [at_handler]
    stosw
    mov ax, cs
    stosw
    pop es
    ret

    at at_unexpected
    mov bp, sp
    mov ax, [bp]
    mov word ptr cs:[at_strange], ax
    mov word ptr cs:[at_command], 0
    jmp serve

    at at_handler
    push bp
    mov bp, sp
    push ax
    mov ax, [bp + 2]
    mov word ptr cs:[at_frame], ax
    mov ax, [bp + 4]
    mov word ptr cs:[at_frame + 2], ax
    mov ax, [bp + 6]
    mov word ptr cs:[at_frame + 4], ax
    pushf
    pop ax
    mov word ptr cs:[at_inside], ax
    inc word ptr cs:[at_hits]
    mov ax, word ptr cs:[at_skip]
    add [bp + 2], ax
    pop ax
    pop bp
    iret

    // INT n: hits, distance of the return address from the next instruction, CS, FLAGS there, FLAGS
    // inside, FLAGS afterwards.
    at at_interrupt
    handle 0x21, 0
    sti
    int 0x21
    at at_next
    pushf
    pop ax
    cli
    result 5
    result_of 0, at_hits
    mov ax, word ptr [at_frame]
    lea bx, [at_next]
    sub ax, bx
    result 1
    result_of 2, at_frame + 2
    result_of 3, at_frame + 4
    result_of 4, at_inside
    ret

    // Faults: hits of undefined opcode, division by zero, BOUND.
    at at_faults
    handle 6, 2
    ud2
    result_of 0, at_hits
    handle 0, 2
    xor cx, cx
    div cx
    result_of 1, at_hits
    handle 5, 4
    mov ax, 5
    bound ax, [at_bounds]
    result_of 2, at_hits
    ret

    // Traps: hits of INT3, INTO, INT1, and the distances of their return addresses.
    at at_traps
    handle 3, 0
    int3
    at at_after_int3
    lea bx, [at_after_int3]
    mov ax, word ptr [at_frame]
    sub ax, bx
    result 1
    handle 4, 0
    mov al, 0x7f
    add al, 1
    into
    at at_after_into
    lea bx, [at_after_into]
    mov ax, word ptr [at_frame]
    sub ax, bx
    result 2
    handle 1, 0
    .byte 0xf1
    at at_after_int1
    lea bx, [at_after_int1]
    mov ax, word ptr [at_frame]
    sub ax, bx
    result 3
    result_of 0, at_hits
    ret

    // Single steps: hits, FLAGS inside.
    at at_steps
    handle 1, 0
    pushf
    pop ax
    or ax, FLAG_TF
    push ax
    popf
    nop
    nop
    mov ebx, cr0
    in al, DELAY_PORT
    pushf
    pop ax
    and ax, ~FLAG_TF
    push ax
    popf
    nop
    result_of 0, at_hits
    result_of 1, at_inside
    ret

    // Ports: the serial line's status, and that as strings; what is left of CX, how far DI and SI go.
    at at_ports
    mov dx, LINE_STATUS
    in al, dx
    xor ah, ah
    result 0
    mov cx, 4
    lea di, [at_buffer]
    rep insb
    mov ax, cx
    result 1
    lea ax, [at_buffer]
    sub ax, di
    neg ax
    result 2
    result_of 3, at_buffer
    result_of 4, at_buffer + 2
    mov dx, DELAY_PORT
    mov ecx, 3
    lea si, [at_buffer]
    movzx esi, si
    .byte 0x67
    rep outsb
    mov ax, cx
    result 5
    lea ax, [at_buffer]
    sub ax, si
    neg ax
    result 6
    out DELAY_PORT, al
    out DELAY_PORT, ax
    out DELAY_PORT, eax
    ret

    // Control registers: the low word of CR0 with TS set, after CLTS, by SMSW after LMSW with TS, and with LMSW
    // from memory without; the low words of CR3 and CR4 after a write.
    at at_control
    mov eax, cr0
    mov ebx, eax
    or eax, CR0_TS
    mov cr0, eax
    mov eax, cr0
    result 0
    clts
    mov eax, cr0
    result 1
    mov ax, bx
    or ax, CR0_TS
    lmsw ax
    smsw ax
    result 2
    mov word ptr [at_buffer], bx
    lmsw [at_buffer]
    clts
    smsw ax
    result 3
    mov eax, 0x12345000
    mov cr3, eax
    mov eax, cr3
    result 4
    shr eax, 16
    result 5
    mov eax, cr4
    mov ebx, eax
    or eax, CR4_PAE
    mov cr4, eax
    mov eax, cr4
    result 6
    mov cr4, ebx
    ret

    // The coprocessor with TS: hits.
    at at_coprocessor
    handle 7, 2
    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
    fnop
    clts
    fnop
    result_of 0, at_hits
    ret

    // Model-specific registers: the low word of the local APIC's base; hits of one that does not exist.
    at at_registers
    mov ecx, APIC_BASE
    rdmsr
    wrmsr
    result 0
    handle 13, 2
    mov ecx, NO_REGISTER
    rdmsr
    result_of 1, at_hits
    wrmsr
    result_of 2, at_hits
    mov eax, 0x40000000
    cpuid
    wbinvd
    ret

    // Descriptor tables: limit and base of GDTR after loads with 32 and 24 bits of base; IDTR.
    at at_tables
    mov word ptr [at_buffer], 0x1234
    mov dword ptr [at_buffer + 2], 0x56789abc
    lgdtd [at_buffer]
    sgdtd [at_buffer + 8]
    result_of 0, at_buffer + 8
    result_of 1, at_buffer + 10
    result_of 2, at_buffer + 12
    lgdtw [at_buffer]
    sgdtd [at_buffer + 8]
    result_of 3, at_buffer + 12
    sidtd [at_buffer + 8]
    result_of 4, at_buffer + 8
    result_of 5, at_buffer + 10
    result_of 6, at_buffer + 12
    ret

    // A breakpoint on data: hits, the low word of DR6, of DR0 and of DR7.
    at at_breakpoint
    handle 1, 0
    xor eax, eax
    mov dr6, eax
    mov ax, cs
    movzx eax, ax
    shl eax, 4
    lea bx, [at_buffer]
    movzx ebx, bx
    add eax, ebx
    mov dr0, eax
    // Local, on writes of a byte.
    mov eax, 0x00010001
    mov dr7, eax
    mov byte ptr [at_buffer], 1
    nop
    mov eax, dr7
    result 3
    xor eax, eax
    mov dr7, eax
    mov eax, dr6
    result 1
    mov eax, dr0
    result 2
    result_of 0, at_hits
    ret

    // HLT with interrupts on, twice: hits. The first CPU sends vector 50h.
    at at_halt
    handle 0x50, 0
    mov ecx, APIC_BASE
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, APIC_SVR
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov bx, 2
    mov word ptr [at_waits], 1
3:  sti
    hlt
    cli
    mov ecx, APIC_EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    result_of 0, at_hits
    cmp ax, 2
    jb 3b
    ret

    // NMIs with interrupts off, the second after the handler of the first: hits.
    at at_nmi
    handle 2, 0
    mov word ptr [at_waits], 1
3:  hlt
    result_of 0, at_hits
    cmp ax, 2
    jb 3b
    ret

    // To protected mode of 16 bits and back: CS, DS there before they are loaded; a word written to a segment of there;
    // MSW there; the same word from real mode; MSW here.
    at at_protected
    lgdtd [at_descriptors]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov dx, ds
    mov word ptr [at_results + 2], dx
    .byte 0xea
    .short at_far, 8
    at at_far
    mov ax, 16
    mov ds, ax
    mov ss, ax
    mov ax, 24
    mov es, ax
    mov word ptr es:[0x10], 0x4321
    mov word ptr es:[0x7fff], 0x8765
    smsw ax
    result 3
    mov ax, cs
    result 0
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .short at_near, 0x1000
    at at_near
    mov ax, cs
    mov ds, ax
    mov ss, ax
    smsw ax
    result 5
    mov ax, DATA_SEGMENT
    mov es, ax
    mov ax, word ptr es:[0x10]
    result 2
    mov ax, word ptr es:[0x7fff]
    result 4
    mov ax, cs
    mov es, ax
    ret

    // The stack's pointer wraps around: SP inside the handler, its flags.
    at at_wrap
    handle 0x21, 0
    pop edx
    mov bx, sp
    xor sp, sp
    int 0x21
    mov ax, sp
    result 0
    mov ax, word ptr [0xfffe]
    result 1
    mov ax, word ptr [0xfffc]
    result 2
    result_of 3, at_hits
    mov sp, bx
    push edx
    ret

    // A table that ends before a vector: hits of general protection.
    at at_short_table
    handle 13, 2
    mov word ptr [at_buffer], 32 * 4 - 1
    mov dword ptr [at_buffer + 2], TABLE_BASE
    lidtd [at_buffer]
    int 0x20
    result_of 0, at_hits
    ret

    // 32-bit flags: what changes when ID is flipped; AC likewise.
    at at_flags
    pushfd
    pop eax
    mov ebx, eax
    xor eax, 0x240000
    push eax
    popfd
    pushfd
    pop eax
    push ebx
    popfd
    xor eax, ebx
    shr eax, 16
    result 0
    ret

    // Beyond a segment's end: where an INT faults whose number lies there; hits by a word from a port that goes there.
    at at_edge
    handle 0x21, 2
    handle 13, 2
    mov ax, DATA_SEGMENT
    mov es, ax
    mov byte ptr es:[0xffff], 0xcd
    call put_way_back
    mov ax, DATA_SEGMENT + 0x1000
    mov es, ax
    mov byte ptr es:[0], 0x21
    call put_way_back
    .byte 0xea
    .short 0xffff, DATA_SEGMENT
    at at_edge_back
    result_of 0, at_frame
    handle 13, 1
    mov word ptr [at_hits], 0
    mov ax, DATA_SEGMENT
    mov es, ax
    mov di, 0xffff
    mov dx, LINE_STATUS
    insw
    result_of 1, at_hits
    ret

    // Three NOPs, for whatever skips something there, and a jump.
put_way_back:
    mov dword ptr es:[1], 0xea909090
    lea ax, [at_edge_back]
    mov word ptr es:[5], ax
    mov word ptr es:[7], cs
    ret

    // PAE paging with a directory pointer that has a reserved bit: the fault alone leads on.
    at at_pae
    lgdtd [at_descriptors]
    lidtd [at_gates_pointer]
    mov eax, cr4
    or eax, CR4_PAE
    mov cr4, eax
    lea eax, [at_pointers]
    or eax, 0x10000
    mov cr3, eax
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0xea
    .short at_pae_protected, 8
    at at_pae_protected
    mov ax, 16
    mov ds, ax
    mov ss, ax
    mov bp, sp
    mov eax, cr0
    or eax, CR0_PG
    mov cr0, eax
    hlt
    at at_pae_fault
    mov sp, bp
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .short at_pae_real, 0x1000
    at at_pae_real
    mov ax, cs
    mov ds, ax
    mov ss, ax
    mov eax, cr4
    and eax, ~CR4_PAE
    mov cr4, eax
    ret

    // Exits for ever.
    at at_always
    cli
2:  in al, DELAY_PORT
    jmp 2b

    .balign 32
    at at_pointers
    .quad 3, 0, 0, 0
    // A gate of 16 bits for vector 13.
    at at_gates
    .skip 13 * 8
    .short at_pae_fault, 8, 0x8600, 0
    at at_gates_pointer
    .short 14 * 8 - 1
    .long 0x10000 + at_gates
    .balign 8
    at at_gdt
    .quad 0
    .quad 0x00009b010000ffff
    .quad 0x000093010000ffff
    .quad 0x000093030000ffff
    at at_descriptors
    .short 31
    .long 0x10000 + at_gdt
    at at_table
    .short VECTORS * 4 - 1
    .long TABLE_BASE
    at at_routines
    .short at_interrupt, at_faults, at_traps, at_steps, at_ports, at_control, at_coprocessor, at_registers
    .short at_tables, at_breakpoint, at_halt, at_nmi, at_protected, at_wrap, at_short_table, at_flags
    .short at_edge, at_pae, at_always
    at at_bounds
    .short 1, 3
    at at_skip
    .short 0
    at at_frame
    .short 0, 0, 0
    at at_inside
    .short 0
    at at_hits
    .short 0
    .balign 4
    at at_buffer
    .skip 32
    // What the first CPU reads and writes.
    .balign 4
real_mode_mailbox:
    at at_command
    .short 0xffff
    at at_strange
    .short 0
    at at_waits
    .short 0
    at at_results
    .skip 16
real_mode_end:
    .code64
    .text
