//! The world switch.

use core::arch::{asm, global_asm};

use x86_backend::state::Registers;

use super::processor::Processor;
use super::vmcb::Vmcb;

// svm_switch(RDI = general registers, RSI = control block, RDX = host's control block), addresses
// physical and linear alike. RAX and RSP of the guest are in its control block. The global
// interrupt flag is clear from CLGI to STGI; IF is set meanwhile, so that an interrupt of the host
// ends the guest's run (APM 15.21.1: with virtual masking the host's IF counts).
// VMRUN leaves FS, GS, TR, LDTR and some MSRs alone: VMLOAD and VMSAVE move them (APM 15.5.2).
// No register holds a guest's value on return.
global_asm!(
    r#"
    .section .text.svm, "ax", @progbits
    .global svm_switch
svm_switch:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rdi
    push rdx
    mov rax, rsi
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
    clgi
    sti
    vmload rax
    vmrun rax
    vmsave rax
    mov rax, [rsp]
    vmload rax
    cli
    stgi
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
    xor eax, eax
    xor ecx, ecx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    add rsp, 16
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
    fn svm_switch(registers: *mut Registers, vmcb: *mut Vmcb, host: u64);
}

/// Runs the guest of `vmcb` until it exits.
pub(super) fn enter(registers: &mut Registers, vmcb: &mut Vmcb, processor: &Processor) {
    // SAFETY: AMD-V is on; the control block confines the guest to its own memory by nested paging
    // and intercepts whatever would reach the host; all host state is restored.
    unsafe { svm_switch(registers, vmcb, processor.host()) }
}

/// Saves the host's state that VMRUN leaves alone to the control block `host`.
pub(super) fn save_host(host: u64) {
    // SAFETY: `host` is a page for this use alone, and AMD-V is on.
    unsafe { asm!("vmsave rax", in("rax") host, options(nostack, preserves_flags)) }
}
