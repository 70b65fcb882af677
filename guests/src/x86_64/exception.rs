//! Exceptions and interrupts: a gate for every vector, one handler in Rust.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{apic, start};

/// First vector that is no exception.
pub const FIRST_INTERRUPT: u8 = 32;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Invalid opcode.
pub const INVALID_OPCODE: u8 = 6;
/// General protection.
pub const GENERAL_PROTECTION: u8 = 13;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;

const VECTORS: usize = 256;
/// Bytes of a gate's code.
const STUB: usize = 16;

/// What the stubs save, lowest address first.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// R15 to R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// Error code, zero where the processor gives none.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

/// An exception that was provoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code.
    pub error: u64,
}

/// Where a provoked exception goes on; zero when none is expected. Only the first CPU provokes.
pub static RESUME: AtomicU64 = AtomicU64::new(0);
static PROVOKED: AtomicU64 = AtomicU64::new(NONE);
static PROVOKED_ERROR: AtomicU64 = AtomicU64::new(0);
const NONE: u64 = u64::MAX;

static COUNTS: [AtomicU64; VECTORS] = [const { AtomicU64::new(0) }; VECTORS];
static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Expects an exception. Between this and [`disarm`], assembly puts an address into [`RESUME`].
pub fn arm() {
    PROVOKED.store(NONE, Ordering::Relaxed);
}

/// Says which exception came since [`arm`].
///
/// # Errors
/// The exception.
pub fn disarm() -> Result<(), Fault> {
    RESUME.store(0, Ordering::Relaxed);
    match PROVOKED.load(Ordering::Relaxed) {
        NONE => Ok(()),
        vector => {
            Err(Fault { vector: vector as u8, error: PROVOKED_ERROR.load(Ordering::Relaxed) })
        }
    }
}

/// Executes an instruction that may fault; the operands are those of `asm!` without R10 and R11.
/// Gives `Result<(), Fault>`. For the first CPU.
#[macro_export]
macro_rules! attempt {
    ($instruction:literal $(, $($operands:tt)*)?) => {{
        $crate::x86_64::exception::arm();
        // SAFETY: the exception handler goes on behind the instruction with no register changed;
        // the instructions of tests touch nothing that Rust's code depends on.
        unsafe {
            ::core::arch::asm!(
                "lea r10, [rip + 2f]",
                "mov [r11], r10",
                $instruction,
                "2:",
                $($($operands)*,)?
                out("r10") _,
                in("r11") $crate::x86_64::exception::RESUME.as_ptr(),
            );
        }
        $crate::x86_64::exception::disarm()
    }};
}

/// How often `vector` came since [`forget`].
pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Ordering::Acquire)
}

/// Has interrupts call `handler` with their vector before they are ended.
pub fn set_handler(handler: fn(u8)) {
    HANDLER.store(handler as usize, Ordering::Release);
}

/// Forgets counts and handler.
pub fn forget() {
    HANDLER.store(0, Ordering::Release);
    COUNTS.iter().for_each(|count| count.store(0, Ordering::Release));
}

// A stub for each vector: error code (or zero), vector, common part. Exceptions 8, 10 to 14, 17, 21,
// 29 and 30 push an error code (SDM 6.15, APM 8.2).
global_asm!(
    r#"
    .section .text.exceptions, "ax"
    .balign 16
    .global exception_stubs
exception_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30)
    .else
    push 0
    .endif
    .byte 0x68
    .long vector
    jmp exception_common
    .set vector, vector + 1
    .endr

exception_common:
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
    mov rbp, rsp
    and rsp, -16
    cld
    call {handle}
    mov rsp, rbp
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
    .previous
    "#,
    handle = sym handle,
);

extern "C" fn handle(frame: &mut Frame) {
    let vector = frame.vector as u8;
    let resume = RESUME.swap(0, Ordering::Relaxed);
    if vector >= FIRST_INTERRUPT || vector == NMI {
        RESUME.store(resume, Ordering::Relaxed);
        COUNTS[usize::from(vector)].fetch_add(1, Ordering::AcqRel);
        let handler = HANDLER.load(Ordering::Acquire);
        if handler != 0 {
            // SAFETY: only `set_handler` stores there, a function of this type.
            let handler: fn(u8) = unsafe { core::mem::transmute(handler) };
            handler(vector);
        }
        if vector != NMI && vector != apic::SPURIOUS {
            apic::end_of_interrupt();
        }
        return;
    }
    assert!(resume != 0, "exception {vector} at {:#x}: {frame:#x?}", frame.rip);
    // A trap after an instruction of a provoking test must not come again.
    frame.rflags &= !(1 << 8);
    frame.rip = resume;
    PROVOKED_ERROR.store(frame.error, Ordering::Relaxed);
    PROVOKED.store(vector.into(), Ordering::Relaxed);
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; VECTORS]>);

// SAFETY: the first CPU fills it before any other is started.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; VECTORS]));

/// Fills the table; for the first CPU.
pub(super) fn fill() {
    unsafe extern "C" {
        static exception_stubs: u8;
    }
    const INTERRUPT_GATE: u64 = 0x8e << 40;
    for vector in 0..VECTORS {
        let target = (&raw const exception_stubs) as u64 + (vector * STUB) as u64;
        let low = target & 0xffff
            | u64::from(start::CODE) << 16
            | INTERRUPT_GATE
            | (target >> 16 & 0xffff) << 48;
        // SAFETY: see `Table`; no reference to it exists.
        unsafe { (*TABLE.0.get())[vector] = [low, target >> 32] };
    }
}

/// Has this CPU use the table.
pub(super) fn load() {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let pointer = Pointer { limit: (size_of::<Table>() - 1) as u16, base: TABLE.0.get() as u64 };
    // SAFETY: the table is filled and stays for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) }
}
