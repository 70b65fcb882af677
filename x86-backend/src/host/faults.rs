//! Interrupts and exceptions of the hypervisor itself: the table, the few
//! interrupts that it takes, and the report of its death.

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use spin::Once;
use x86_64::instructions::tables::lidt;
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::structures::DescriptorTablePointer;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::percpu::PerCpu;
use super::segments::InterruptStack;
use super::{apic, console, input, memory, paging};

/// Debug exception.
const DEBUG: u64 = 1;
/// Non-maskable interrupt.
const NMI: u64 = 2;
/// Double fault.
const DOUBLE_FAULT: u64 = 8;
/// Page fault.
const PAGE_FAULT: u64 = 14;
/// Machine check.
const MACHINE_CHECK: u64 = 18;
/// Exceptions have lower vectors.
const FIRST_INTERRUPT: u64 = 32;
/// Vectors.
const VECTORS: usize = 256;
/// Bytes of one stub.
const STUB: usize = 16;
/// Most frames of a backtrace.
const BACKTRACE: usize = 16;

/// Registers as the stubs push them.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// One stub a vector, 16 bytes each: push 0 where the processor pushes no error code (SDM 7.3.1),
// push the vector, go on with the rest, which is the same for all.
global_asm!(
    r#"
    .section .text.interrupts, "ax", @progbits
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    .byte 0x68              // push imm32, whatever the vector
    .long vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    lea rbp, [rsp + 64]
    call {serve}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    "#,
    serve = sym serve,
);

unsafe extern "C" {
    static interrupt_stubs: u8;
}

/// A gate of the interrupt descriptor table (SDM 7.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    stack: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// Present, privilege 0, 64-bit interrupt gate.
    const ATTRIBUTES: u8 = 0x8e;

    fn new(vector: usize, stacks: bool) -> Self {
        let address = (&raw const interrupt_stubs) as u64 + (vector * STUB) as u64;
        let stack = match vector as u64 {
            _ if !stacks => InterruptStack::Current,
            DOUBLE_FAULT | PAGE_FAULT => InterruptStack::Fault,
            NMI => InterruptStack::Nmi,
            MACHINE_CHECK => InterruptStack::MachineCheck,
            _ => InterruptStack::Current,
        };
        Gate {
            offset_low: address as u16,
            selector: x86_64::structures::gdt::SegmentSelector::new(1, PrivilegeLevel::Ring0).0,
            stack: stack as u8,
            attributes: Self::ATTRIBUTES,
            offset_middle: (address >> 16) as u16,
            offset_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The table of the start, while there are no other stacks, and the final one.
static EARLY: Once<[Gate; VECTORS]> = Once::new();
static FINAL: Once<[Gate; VECTORS]> = Once::new();

/// Loads the interrupt table on the processor that runs this; `stacks` says
/// that its task state with the interrupt stacks is loaded.
pub(super) fn load(stacks: bool) {
    let table = if stacks { &FINAL } else { &EARLY };
    let table = table.call_once(|| core::array::from_fn(|vector| Gate::new(vector, stacks)));
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(table) - 1) as u16,
        base: VirtAddr::from_ptr(table.as_ptr()),
    };
    // SAFETY: the table is constant from here on, and every gate leads to its stub.
    unsafe { lidt(&pointer) }
}

extern "sysv64" fn serve(frame: &Frame) {
    match frame.vector {
        NMI => count(&PerCpu::current().nmis),
        // A debug trap of the guest that the processor still had pending when it exited; the
        // hypervisor sets no breakpoints of its own. It comes before the host's task register and
        // GS are back: its gate must name no interrupt stack, and nothing may ask for `PerCpu`.
        DEBUG => {}
        vector if vector < FIRST_INTERRUPT => die_of(frame),
        vector if vector == u64::from(apic::TIMER_VECTOR) => {
            PerCpu::current().timer.expired();
            apic::end_of_interrupt();
        }
        vector if vector == u64::from(apic::KICK_VECTOR) => apic::end_of_interrupt(),
        vector if vector == u64::from(apic::CONSOLE_VECTOR) => {
            input::interrupt();
            apic::end_of_interrupt();
        }
        vector if vector == u64::from(apic::SPURIOUS_VECTOR) => {
            count(&PerCpu::current().spurious);
        }
        _ => {
            count(&PerCpu::current().spurious);
            apic::end_of_interrupt();
        }
    }
}

fn count(counter: &core::cell::Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

fn die_of(frame: &Frame) -> ! {
    let cr2 = Cr2::read_raw();
    console::last_words(format_args!(
        "\nbunshin: exception {} in the hypervisor: error code {:#x}, rip {:#x}, cr2 {cr2:#x}{}\n\
         rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}\n\
         rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}\n\
         r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}\n\
         r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}\n\
         cs {:04x} ss {:04x} rflags {:016x} cr3 {:016x}\n",
        frame.vector,
        frame.error,
        frame.rip,
        if frame.vector == PAGE_FAULT && paging::is_stack_guard(cr2) {
            " (stack overflow)"
        } else {
            ""
        },
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.rsp,
        frame.r8,
        frame.r9,
        frame.r10,
        frame.r11,
        frame.r12,
        frame.r13,
        frame.r14,
        frame.r15,
        frame.cs,
        frame.ss,
        frame.rflags,
        Cr3::read_raw().0.start_address(),
    ));
    backtrace(frame.rbp);
    stop()
}

/// Prints the return addresses that the chain of frame pointers leads to.
fn backtrace(mut rbp: u64) {
    let image = memory::image();
    for _ in 0..BACKTRACE {
        // Stacks lie in the upper half or in the image; anything else is a broken chain.
        let plausible = rbp.is_multiple_of(8)
            && (paging::is_stack(rbp) || (rbp >= image.start && rbp < image.end() - 16));
        if !plausible {
            break;
        }
        let frame = rbp as *const [u64; 2];
        // SAFETY: the address lies in a mapped stack or in the image.
        let [next, address] = unsafe { frame.read() };
        if address < image.start || address >= image.end() {
            break;
        }
        console::last_words(format_args!("  called from {address:#x}\n"));
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}

/// Stops this processor for ever.
pub(crate) fn stop() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::last_words(format_args!("\nbunshin: {info}\n"));
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) }
    backtrace(rbp);
    stop()
}
