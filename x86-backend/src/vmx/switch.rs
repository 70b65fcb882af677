//! The world switch.

use core::arch::global_asm;

use x86_backend::state::Registers;

// vmx_switch(RDI = general registers, RSI = whether the structure was launched): runs the guest of
// the current structure. Returns 0 after an exit, 1 when the entry failed. RSP of the guest is in
// the structure. The host's RSP is written at each entry (field 6C14h); its RIP is `vmx_exited`.
// No register holds a guest's value on return.
global_asm!(
    r#"
    .section .text.vmx, "ax", @progbits
    .global vmx_switch
vmx_switch:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov eax, 0x6c14
    vmwrite rax, rsp
    test esi, esi
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    jnz 2f
    vmlaunch
    jmp 3f
2:  vmresume
    // Only a failed entry comes here, with the guest's registers unchanged.
3:  mov eax, 1
    jmp 4f

    .global vmx_exited
vmx_exited:
    push rax
    mov rax, [rsp + 8]
    mov [rax + 8], rcx
    mov [rax + 16], rdx
    mov [rax + 24], rbx
    mov [rax + 40], rbp
    mov [rax + 48], rsi
    mov [rax + 56], rdi
    mov [rax + 64], r8
    mov [rax + 72], r9
    mov [rax + 80], r10
    mov [rax + 88], r11
    mov [rax + 96], r12
    mov [rax + 104], r13
    mov [rax + 112], r14
    mov [rax + 120], r15
    pop rcx
    mov [rax], rcx
    xor eax, eax
4:  add rsp, 8
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
    "#,
);

unsafe extern "sysv64" {
    fn vmx_switch(registers: *mut Registers, launched: u32) -> u32;
    static vmx_exited: u8;
}

/// Where exits arrive.
pub(super) fn exit_address() -> u64 {
    (&raw const vmx_exited) as u64
}

/// Runs the guest of the current structure until it exits; false when the
/// processor refused the structure.
pub(super) fn enter(registers: &mut Registers, launched: bool) -> bool {
    // SAFETY: VMX operation is on; the current structure confines the guest to its own memory by EPT
    // and intercepts whatever would reach the host; its host part is this processor's state.
    unsafe { vmx_switch(registers, u32::from(launched)) == 0 }
}
