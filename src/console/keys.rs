//! What the user types: Ctrl-A commands the multiplexer, everything else is
//! for the channel that has the focus.

/// The byte that Ctrl-A sends.
pub const CTRL_A: u8 = 0x01;

/// One meaning of what was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A byte for the channel that has the focus.
    Byte(u8),
    /// Ctrl-A and a digit: the focus goes to this virtual machine, from 0 on
    /// in the order of the VM file. Ctrl-A 1 is the first, Ctrl-A 0 the tenth.
    Machine(usize),
    /// Ctrl-A m: the focus goes to the monitor.
    Monitor,
    /// Ctrl-A b: the focus goes back to whoever had it before.
    Back,
    /// Ctrl-A and any other key: the user wants to know the keys.
    Help,
}

/// Tells commands from other input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// Ctrl-A has been typed.
    escaped: bool,
}

impl Keys {
    /// Nothing typed yet.
    pub const fn new() -> Self {
        Keys { escaped: false }
    }

    /// What `byte` means; `None` when that depends on the next one.
    pub fn take(&mut self, byte: u8) -> Option<Key> {
        if !core::mem::take(&mut self.escaped) {
            self.escaped = byte == CTRL_A;
            return (!self.escaped).then_some(Key::Byte(byte));
        }
        Some(match byte {
            CTRL_A | b'a' | b'A' => Key::Byte(CTRL_A),
            b'm' | b'M' => Key::Monitor,
            b'b' | b'B' => Key::Back,
            b'0' => Key::Machine(9),
            b'1'..=b'9' => Key::Machine(usize::from(byte.saturating_sub(b'1'))),
            _ => Key::Help,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_and_a_key_is_a_command_and_the_rest_is_input() {
        let byte = |b: u8| Some(Key::Byte(b));
        for (typed, expected) in [
            (&b"x"[..], &[byte(b'x')][..]),
            (b"\x01", &[None]),
            (b"\x01\x01", &[None, byte(CTRL_A)]),
            (b"\x01a1", &[None, byte(CTRL_A), byte(b'1')]),
            (b"\x011", &[None, Some(Key::Machine(0))]),
            (b"\x019m", &[None, Some(Key::Machine(8)), byte(b'm')]),
            (b"\x010", &[None, Some(Key::Machine(9))]),
            (b"\x01m", &[None, Some(Key::Monitor)]),
            (b"\x01b", &[None, Some(Key::Back)]),
            (b"\x01?\x01x", &[None, Some(Key::Help), None, Some(Key::Help)]),
        ] {
            let mut keys = Keys::new();
            let meant: Vec<_> = typed.iter().map(|byte| keys.take(*byte)).collect();
            assert_eq!(meant, expected, "{typed:?}");
        }
    }
}
