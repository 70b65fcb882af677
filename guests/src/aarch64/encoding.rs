//! Instructions made at run time, to reach every system register by number.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::exception::{self, Fault};
use super::{cache, smp};

/// `RET`.
pub const RET: u32 = 0xd65f_03c0;
/// `NOP`.
pub const NOP: u32 = 0xd503_201f;

/// The five numbers that name a system register or a system instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// 2 for debug and trace, 3 for all other registers, 1 for instructions.
    pub op0: u8,
    /// Usually the exception level.
    pub op1: u8,
    /// Group.
    pub crn: u8,
    /// Group in the group.
    pub crm: u8,
    /// Number.
    pub op2: u8,
}

impl Encoding {
    /// The encoding with number `index` in `0..16384` of one `op0`.
    pub const fn numbered(op0: u8, index: u32) -> Self {
        Encoding {
            op0,
            op1: (index >> 11 & 7) as u8,
            crn: (index >> 7 & 15) as u8,
            crm: (index >> 3 & 15) as u8,
            op2: (index & 7) as u8,
        }
    }

    /// Shorthand for tables.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Encoding { op0, op1, crn, crm, op2 }
    }

    const fn fields(self) -> u32 {
        (self.op0 as u32) << 19
            | (self.op1 as u32) << 16
            | (self.crn as u32) << 12
            | (self.crm as u32) << 8
            | (self.op2 as u32) << 5
    }

    /// `MRS x0, register`.
    pub const fn read(self) -> u32 {
        0xd520_0000 | self.fields()
    }

    /// `MSR register, x0`, or the system instruction with x0.
    pub const fn write(self) -> u32 {
        0xd500_0000 | self.fields()
    }

    const fn is_in(self, op1: u8, crn: u8, crm: u8) -> bool {
        self.op0 == 3 && self.op1 == op1 && self.crn == crn && self.crm == crm
    }

    /// What a guest may write without losing the ground under its feet.
    pub const fn write_policy(self) -> WritePolicy {
        let Encoding { op0, op1, crn, crm, op2 } = self;
        match (op0, op1, crn, crm, op2) {
            // SCTLR, SCTLR2, TTBR0, TTBR1, TCR, TCR2, guarded control stack, SPSR, ELR, SP_EL0,
            // SPSel, ALLINT, MAIR and its extensions, permission indirection, VBAR, TPIDR_EL1.
            (3, 0, 1, 0, 0 | 3)
            | (3, 0, 2, 0, 0..=3)
            | (3, 0 | 3, 2, 5, _)
            | (3, 0, 4, 0 | 1, _)
            | (3, 0, 4, 2, 0)
            | (3, 0, 4, 3, _)
            | (3, 0, 10, 2, _)
            | (3, 0, 12, 0, 0)
            | (3, 0, 13, 0, 4)
            // DAIF and NZCV, which the compiler owns.
            | (3, 3, 4, 2, 0 | 1) => WritePolicy::Never,
            // Implementation defined.
            (3, _, 11 | 15, _, _)
            // CPACR, which all other registers need; SVCR, a mode of the CPU.
            | (3, 0, 1, 0, 2)
            | (3, 3, 4, 2, 2)
            // Statistical profiling and trace buffer write to memory once they are on.
            | (3, 0, 9, 9..=11, _)
            // Limited ordering regions; errors to be reported.
            | (3, 0, 10, 4, _)
            | (3, 0, 5, 3 | 4, _)
            // The event stream ends waits.
            | (3, 0, 14, 1, 0)
            // Trace, branch records and debug control.
            | (2, 1, _, _, _)
            | (2, 0, 0, 2, 2) => WritePolicy::Same,
            _ => WritePolicy::Any,
        }
    }

    /// Whether the register is one of those that say what the CPU can do:
    /// `op0 == 3, op1 == 0, CRn == 0, CRm == 1..=7`.
    pub const fn is_identification(self) -> bool {
        self.op0 == 3 && self.op1 == 0 && self.crn == 0 && self.crm >= 1 && self.crm <= 7
    }

    /// Whether the register belongs to EL2, EL3 or secure state.
    pub const fn is_above_el1(self) -> bool {
        self.op0 == 3 && self.op1 >= 4
    }

    /// Whether a read has an effect: it acknowledges an interrupt.
    pub const fn read_acts(self) -> bool {
        self.op2 == 0 && (self.is_in(0, 12, 8) || self.is_in(0, 12, 12))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Encoding { op0, op1, crn, crm, op2 } = self;
        write!(formatter, "s{op0}_{op1}_c{crn}_c{crm}_{op2}")
    }
}

/// What may be written to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WritePolicy {
    /// Nothing.
    Never,
    /// What was read from it, or zero.
    Same,
    /// Anything, if it is put back.
    Any,
}

/// Words in a CPU's place for code: a page.
pub const WORDS: usize = 1024;

#[repr(C, align(4096))]
struct Code([[AtomicU32; WORDS]; smp::MAX_CPUS]);

static CODE: Code = Code([const { [const { AtomicU32::new(0) }; WORDS] }; smp::MAX_CPUS]);

/// Writes instructions into this CPU's place for code, which holds [`WORDS`];
/// returns the address of the first.
pub fn write_code(words: impl IntoIterator<Item = u32>) -> u64 {
    let code = &CODE.0[smp::index()];
    let mut length = 0;
    for (slot, word) in code.iter().zip(words) {
        slot.store(word, Ordering::Relaxed);
        length += 4;
    }
    let address = code.as_ptr() as u64;
    cache::synchronise_instructions(address, length);
    address
}

/// Calls code at `address` with `x0`; returns its x0 and the exception that it raised.
pub fn call(address: u64, x0: u64) -> (u64, Option<Fault>) {
    exception::catch(|| {
        let result;
        // SAFETY: the code consists of one instruction that leaves memory and the registers of
        // the caller alone, and a return; an exception goes to the return address.
        unsafe {
            asm!(
                "blr {}", in(reg) address, inlateout("x0") x0 => result, clobber_abi("C"),
            );
        }
        result
    })
}
