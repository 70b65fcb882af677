//! The registers that move at every exit.

use core::fmt;

/// General registers, program counter and PSTATE of a guest, or of EL2 itself
/// in a fault report. The layout is known to `switch.S`, for which it is a stack
/// while the guest runs: hence the alignment.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Registers {
    /// X0 to X30.
    pub(crate) x: [u64; 31],
    /// `ELR_EL2`. That of a guest is in the register while the guest is loaded.
    pub(crate) pc: u64,
    /// `SPSR_EL2`, as `pc`.
    pub(crate) pstate: u64,
    /// Stack pointer of EL2 in a fault report, and for after the exit.
    pub(crate) sp: u64,
    /// X19, X29 and X30 of EL2 for after the exit.
    caller: [u64; 3],
}

const _: () = assert!(core::mem::offset_of!(Registers, pc) == 8 * 31);
const _: () = assert!(core::mem::offset_of!(Registers, sp) == 8 * 33);
const _: () = assert!(core::mem::offset_of!(Registers, caller) == 8 * 34);
const _: () = assert!(size_of::<Registers>() == 304);

/// PSTATE of a CPU that starts in EL1 with its own stack pointer and all
/// interrupts masked (PSCI 6.4.3.4).
const PSTATE_EL1H_MASKED: u64 = 0b0101 | 0b1111 << 6;

impl Registers {
    /// A CPU that starts at `entry` with `context` in X0.
    pub(crate) fn starting(entry: u64, context: u64) -> Self {
        let mut x = [0; 31];
        x[0] = context;
        Registers { x, pc: entry, pstate: PSTATE_EL1H_MASKED, sp: 0, caller: [0; 3] }
    }

    /// General register `number` as an operand: 31 is the zero register.
    #[inline]
    pub(crate) fn get(&self, number: u8) -> u64 {
        self.x.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// Writes general register `number`; 31 is discarded.
    #[inline]
    pub(crate) fn set(&mut self, number: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(number)) {
            *register = value;
        }
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, values) in self.x.chunks(4).enumerate() {
            for (column, value) in values.iter().enumerate() {
                let number = row.wrapping_mul(4).wrapping_add(column);
                write!(f, "  x{number:<2} {value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  pc  {:016x}  pstate {:x}", self.pc, self.pstate)
    }
}
