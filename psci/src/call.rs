//! One call, and the form of its result.

use arm_psci::ErrorCode;

/// "Unknown function", in the result register.
///
/// Sign-extended to 64 bits, as all error codes are here: a caller of the 32-bit convention looks at the lower half
/// only.
pub const NOT_SUPPORTED: u64 = -1_i64 as u64;

/// The registers X0 to X3 of a call. No call that is answered here has more arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// W0: the function identifier. The upper half of X0 is ignored.
    pub function: u32,
    /// X1 to X3.
    arguments: [u64; 3],
}

impl Call {
    /// Bit 30 of a function identifier: the 64-bit convention.
    const WIDE: u32 = 1 << 30;

    /// The call with X0 to X3.
    #[inline]
    #[must_use]
    pub const fn new(registers: [u64; 4]) -> Self {
        let [x0, x1, x2, x3] = registers;
        Self { function: x0 as u32, arguments: [x1, x2, x3] }
    }

    /// Made in the 64-bit convention.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        self.function & Self::WIDE != 0
    }

    /// The three arguments, each as wide as the convention of the call has it.
    pub(crate) const fn arguments(&self) -> [u64; 3] {
        const LOW: u64 = 0xffff_ffff;
        let [a, b, c] = self.arguments;
        if self.is_wide() { [a, b, c] } else { [a & LOW, b & LOW, c & LOW] }
    }

    /// The first argument of a call that defines it as 32 bits wide in both conventions.
    pub(crate) const fn first_word(&self) -> u32 {
        let [first, ..] = self.arguments;
        first as u32
    }

    /// The second argument of a call that defines it as 32 bits wide in both conventions.
    pub(crate) const fn second_word(&self) -> u32 {
        let [_, second, _] = self.arguments;
        second as u32
    }
}

/// X0 to X3 for a function that succeeds with `SUCCESS`, or fails.
#[must_use]
pub const fn result(outcome: Result<(), ErrorCode>) -> [u64; 4] {
    value(match outcome {
        Ok(()) => 0,
        Err(code) => code as i32 as i64 as u64,
    })
}

/// X0 to X3 for a function with one result.
#[inline]
#[must_use]
pub const fn value(x0: u64) -> [u64; 4] {
    [x0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_as_wide_as_the_convention() {
        let registers = |function| [function, u64::MAX, 0x1_0000_0002, 3];
        assert_eq!(Call::new(registers(0x8400_0003)).arguments(), [0xffff_ffff, 2, 3]);
        assert_eq!(Call::new(registers(0xc400_0003)).arguments(), [u64::MAX, 0x1_0000_0002, 3]);
    }

    #[test]
    fn the_upper_half_of_the_function_register_is_ignored() {
        assert_eq!(Call::new([0xdead_beef_8400_0000, 0, 0, 0]).function, 0x8400_0000);
    }

    #[test]
    fn errors_are_negative_in_both_widths() {
        let table = [
            (ErrorCode::NotSupported, -1),
            (ErrorCode::InvalidParameters, -2),
            (ErrorCode::Denied, -3),
            (ErrorCode::AlreadyOn, -4),
            (ErrorCode::OnPending, -5),
            (ErrorCode::InternalFailure, -6),
            (ErrorCode::NotPresent, -7),
            (ErrorCode::Disabled, -8),
            (ErrorCode::InvalidAddress, -9),
        ];
        for (code, number) in table {
            let [x0, rest @ ..] = result(Err(code));
            assert_eq!((x0 as i64, x0 as i32), (number, number as i32), "{code:?}");
            assert_eq!(rest, [0; 3]);
        }
        assert_eq!(result(Ok(())), [0; 4]);
    }
}
