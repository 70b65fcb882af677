//! Exceptions: unexpected ones end the guest, expected ones are recorded and
//! the instruction that raised them is skipped.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{cache, cpu, machine, smp};
use crate::msr;

/// Stands for the syndrome when an interrupt, which has none, ended a run at EL0.
pub const USER_INTERRUPTED: u64 = u64::MAX;

/// What the CPU held when it took an exception.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    vector: u64,
    /// Where the exception returns to.
    pub elr: u64,
    /// The state that it returns to.
    pub spsr: u64,
    /// Syndrome.
    pub esr: u64,
    /// Faulting address.
    pub far: u64,
}

/// Exception classes, `ESR_EL1.EC`.
pub mod class {
    /// Unknown reason: an undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// Branch target exception.
    pub const BRANCH_TARGET: u64 = 0x0d;
    /// SVC from AArch64.
    pub const SVC: u64 = 0x15;
    /// Trapped MSR, MRS or system instruction.
    pub const SYSTEM_REGISTER: u64 = 0x18;
    /// Failed pointer authentication (FEAT_FPAC).
    pub const POINTER_AUTHENTICATION: u64 = 0x1c;
    /// Instruction abort from the same level.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// PC alignment fault.
    pub const PC_ALIGNMENT: u64 = 0x22;
    /// Data abort from the same level.
    pub const DATA_ABORT: u64 = 0x25;
    /// SError.
    pub const SERROR: u64 = 0x2f;
    /// Breakpoint from a lower level.
    pub const BREAKPOINT_LOWER: u64 = 0x30;
    /// Breakpoint from the same level.
    pub const BREAKPOINT: u64 = 0x31;
    /// Software step from a lower level.
    pub const STEP_LOWER: u64 = 0x32;
    /// Software step from the same level.
    pub const STEP: u64 = 0x33;
    /// Watchpoint from the same level.
    pub const WATCHPOINT: u64 = 0x35;
    /// BRK instruction.
    pub const BRK: u64 = 0x3c;
}

/// Fault status codes, `ESR_EL1.DFSC` and `IFSC`.
pub mod status {
    /// Translation fault, level 0; levels follow.
    pub const TRANSLATION: u64 = 0x04;
    /// Synchronous external abort.
    pub const EXTERNAL: u64 = 0x10;
    /// Synchronous external abort on a translation table walk, level 0; levels follow.
    pub const EXTERNAL_WALK: u64 = 0x14;
    /// Alignment fault.
    pub const ALIGNMENT: u64 = 0x21;
}

/// `SPSR_EL1.SS`: step one instruction.
pub const SPSR_SS: u64 = 1 << 21;
const SPSR_IL: u64 = 1 << 20;
const SPSR_BTYPE: u64 = 3 << 10;
/// `SPSR_EL1.D`.
pub const SPSR_D: u64 = 1 << 9;
/// `SPSR_EL1.I`.
pub const SPSR_I: u64 = 1 << 7;
/// EL1 with its own stack pointer, everything masked.
const SPSR_EL1H: u64 = 0x3c5;
/// Vectors from 8 on are those of exceptions from EL0.
const FIRST_LOWER: u64 = 8;

/// An exception that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Syndrome.
    pub esr: u64,
    /// Faulting address.
    pub far: u64,
    /// Address of the instruction.
    pub elr: u64,
}

impl Fault {
    /// Exception class.
    pub const fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// Fault status code, for aborts.
    pub const fn status(&self) -> u64 {
        self.esr & 0x3f
    }

    /// Whether the bus refused the access.
    pub const fn is_external_abort(&self) -> bool {
        match self.class() {
            class::DATA_ABORT | class::INSTRUCTION_ABORT => self.status() == status::EXTERNAL,
            class::SERROR => true,
            _ => false,
        }
    }
}

/// A function that sees synchronous exceptions first; `true` means handled.
pub type Hook = fn(&mut Frame) -> bool;

/// Part of a CPU's record: what exceptions it expects.
pub(super) struct Expectation {
    armed: AtomicBool,
    taken: AtomicU32,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
    hook: AtomicUsize,
    interrupt: AtomicUsize,
}

impl Expectation {
    pub(super) const fn new() -> Self {
        Expectation {
            armed: AtomicBool::new(false),
            taken: AtomicU32::new(0),
            esr: AtomicU64::new(0),
            far: AtomicU64::new(0),
            elr: AtomicU64::new(0),
            hook: AtomicUsize::new(0),
            interrupt: AtomicUsize::new(0),
        }
    }

    fn record(&self, frame: &Frame, esr: u64) {
        if self.taken.fetch_add(1, Ordering::Relaxed) == 0 {
            self.esr.store(esr, Ordering::Relaxed);
            self.far.store(frame.far, Ordering::Relaxed);
            self.elr.store(frame.elr, Ordering::Relaxed);
        }
    }

    fn fault(&self) -> Fault {
        Fault {
            esr: self.esr.load(Ordering::Relaxed),
            far: self.far.load(Ordering::Relaxed),
            elr: self.elr.load(Ordering::Relaxed),
        }
    }
}

// Each vector makes room for a `Frame`, saves x0 and x1 and passes its number.
// `user_enter(pc, x0, x1)` runs code at EL0 until its first exception that no
// hook handles; it returns what EL0 had in x0.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
exception_vectors:
    .set    number, 0
    .rept   16
    .balign 128
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #number
    b       exception_common
    .set    number, number + 1
    .endr
    .balign 128
exception_common:
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
    stp     x30, x0, [sp, #240]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    mrs     x3, esr_el1
    mrs     x4, far_el1
    stp     x1, x2, [sp, #256]
    stp     x3, x4, [sp, #272]
    mov     x0, sp
    bl      {handler}
    ldp     x1, x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp]
    add     sp, sp, #288
    eret

    .global user_enter
user_enter:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    msr     elr_el1, x0
    msr     spsr_el1, x3
    mov     x0, x1
    mov     x1, x2
    isb
    eret
    .global user_return
user_return:
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret
    .previous
    "#,
    handler = sym handle,
);

unsafe extern "C" {
    static exception_vectors: u8;
    static text_end: u8;
    fn user_enter(pc: u64, x0: u64, x1: u64, spsr: u64) -> u64;
    fn user_return();
}

/// Makes this CPU take its exceptions here.
pub(super) fn install() {
    msr!("vbar_el1", &raw const exception_vectors as u64);
    // SAFETY: SErrors now reach the handler above.
    unsafe { asm!("msr daifclr, #4", options(nostack)) };
}

/// Runs `action` and skips each instruction in it that raises an exception.
/// Returns the first exception beside the result.
pub fn catch<R>(action: impl FnOnce() -> R) -> (R, Option<Fault>) {
    let expectation = &smp::this().expectation;
    expectation.taken.store(0, Ordering::Relaxed);
    expectation.armed.store(true, Ordering::SeqCst);
    let result = action();
    // An asynchronous abort arrives before the barriers end.
    cache::barrier();
    cpu::isb();
    expectation.armed.store(false, Ordering::SeqCst);
    let fault = (expectation.taken.load(Ordering::SeqCst) != 0).then(|| expectation.fault());
    (result, fault)
}

/// The exception that `action` raises, if any.
pub fn fault_of(action: impl FnOnce()) -> Option<Fault> {
    catch(action).1
}

/// Lets `hook` see this CPU's synchronous exceptions first.
pub fn set_hook(hook: Hook) {
    smp::this().expectation.hook.store(hook as *const () as usize, Ordering::SeqCst);
}

/// Calls `handler` for each interrupt that this CPU takes.
pub fn set_interrupt_handler(handler: fn()) {
    let interrupt = &smp::this().expectation.interrupt;
    interrupt.store(handler as *const () as usize, Ordering::SeqCst);
}

/// Forgets hook and interrupt handler of this CPU.
pub fn forget_handlers() {
    let expectation = &smp::this().expectation;
    expectation.hook.store(0, Ordering::SeqCst);
    expectation.interrupt.store(0, Ordering::SeqCst);
}

/// Runs code at EL0 until it raises an exception; returns its x0 and the exception.
/// `spsr` is added to the state of EL0 with interrupts masked.
pub fn run_user(pc: u64, x0: u64, x1: u64, spsr: u64) -> (u64, Option<Fault>) {
    const EL0T_MASKED: u64 = 0x3c0;
    // SAFETY: the exception that ends the run returns here with the registers that a function
    // must keep; the code has no access to the guest's own data.
    catch(|| unsafe { user_enter(pc, x0, x1, EL0T_MASKED ^ spsr) })
}

/// Whether an address lies in the code of this image.
fn in_text(address: u64) -> bool {
    let (start, _) = machine::image();
    (start..&raw const text_end as u64).contains(&address)
}

extern "C" fn handle(frame: &mut Frame) {
    const SYNCHRONOUS: u64 = 0;
    const IRQ: u64 = 1;
    const SERROR: u64 = 3;
    let expectation = &smp::this().expectation;
    let armed = expectation.armed.load(Ordering::SeqCst);
    let lower = frame.vector >= FIRST_LOWER;
    match frame.vector & 3 {
        SYNCHRONOUS => {
            let hook = expectation.hook.load(Ordering::SeqCst);
            if hook != 0 {
                // SAFETY: `set_hook` stored a function of this type.
                let hook: Hook = unsafe { core::mem::transmute::<usize, Hook>(hook) };
                if hook(frame) {
                    return;
                }
            }
            if armed {
                expectation.record(frame, frame.esr);
                if lower {
                    frame.elr = user_return as *const () as u64;
                    frame.spsr = SPSR_EL1H;
                } else {
                    skip(frame);
                }
                return;
            }
        }
        IRQ => {
            let handler = expectation.interrupt.load(Ordering::SeqCst);
            if handler != 0 {
                // SAFETY: `set_interrupt_handler` stored a function of this type.
                let handler: fn() = unsafe { core::mem::transmute::<usize, fn()>(handler) };
                handler();
                return;
            }
            if armed && lower {
                expectation.record(frame, USER_INTERRUPTED);
                frame.elr = user_return as *const () as u64;
                frame.spsr = SPSR_EL1H;
                return;
            }
        }
        SERROR if armed => {
            expectation.record(frame, class::SERROR << 26 | frame.esr & 0x1ff_ffff);
            return;
        }
        _ => {}
    }
    panic!(
        "unexpected exception: CPU {} vector {} ESR {:#x} FAR {:#x} ELR {:#x} SPSR {:#x} x30 {:#x} image {:#x}",
        smp::index(),
        frame.vector,
        frame.esr,
        frame.far,
        frame.elr,
        frame.spsr,
        frame.x[30],
        machine::image().0
    );
}

/// Goes on behind the instruction that raised the exception; from outside of
/// the image, and when the fetch itself failed, with the caller.
fn skip(frame: &mut Frame) {
    let class = frame.esr >> 26 & 0x3f;
    let fetched = class != class::INSTRUCTION_ABORT && class != class::PC_ALIGNMENT;
    // SVC and the like return behind themselves.
    if class == class::SVC {
        return;
    }
    frame.elr = if fetched && in_text(frame.elr) { frame.elr + 4 } else { frame.x[30] };
    frame.spsr &= !(SPSR_IL | SPSR_BTYPE | SPSR_SS);
}
