//! Enough line editing for a serial line.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Longest command, in bytes.
const LENGTH: usize = 200;
/// Commands that can be called back.
const HISTORY: usize = 16;

/// What a byte did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    /// The line went on by this text, which may be empty.
    Show(String),
    /// The line is a different one now.
    Redraw(String),
    /// The line is complete.
    Line(String),
}

/// Where in an escape sequence the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    Sequence,
}

/// The line that is being typed, and those before it.
#[derive(Debug)]
pub(super) struct LineEditor {
    line: String,
    escape: Escape,
    history: Vec<String>,
    /// The one of `history` that is shown; its length for none.
    recalled: usize,
    /// The last byte was a carriage return: a line feed belongs to it.
    returned: bool,
}

impl LineEditor {
    pub(super) const fn new() -> Self {
        LineEditor {
            line: String::new(),
            escape: Escape::None,
            history: Vec::new(),
            recalled: 0,
            returned: false,
        }
    }

    /// Takes a byte that was typed.
    pub(super) fn take(&mut self, byte: u8) -> Edit {
        const BACKSPACE: u8 = 0x08;
        const DELETE: u8 = 0x7f;
        const CTRL_C: u8 = 0x03;
        const CTRL_U: u8 = 0x15;
        const CTRL_W: u8 = 0x17;
        const ESC: u8 = 0x1b;
        let returned = core::mem::replace(&mut self.returned, byte == b'\r');
        match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => {
                self.escape = Escape::Sequence;
                return Edit::Show(String::new());
            }
            (Escape::Sequence, b'A') => return self.recall(self.recalled.saturating_sub(1)),
            (Escape::Sequence, b'B') => return self.recall(self.recalled.saturating_add(1)),
            (Escape::Sequence, b'0'..=b'9' | b';') => return Edit::Show(String::new()),
            (Escape::Begun | Escape::Sequence, _) => {
                self.escape = Escape::None;
                return Edit::Show(String::new());
            }
            (Escape::None, _) => {}
        }
        match byte {
            b'\n' if returned => Edit::Show(String::new()),
            b'\r' | b'\n' => Edit::Line(self.finish()),
            BACKSPACE | DELETE => match self.line.pop() {
                Some(_) => Edit::Show("\x08 \x08".to_string()),
                None => Edit::Show(String::new()),
            },
            CTRL_C | CTRL_U => {
                self.line.clear();
                Edit::Redraw(String::new())
            }
            CTRL_W => {
                let rest = self.line.trim_end();
                let end = rest.rfind(' ').map_or(0, |space| space.saturating_add(1));
                self.line.truncate(end);
                Edit::Redraw(self.line.clone())
            }
            ESC => {
                self.escape = Escape::Begun;
                Edit::Show(String::new())
            }
            b' '..=b'~' if self.line.len() < LENGTH => {
                self.line.push(char::from(byte));
                Edit::Show(char::from(byte).to_string())
            }
            _ => Edit::Show(String::new()),
        }
    }

    fn finish(&mut self) -> String {
        let line = core::mem::take(&mut self.line);
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            if self.history.len() >= HISTORY {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.recalled = self.history.len();
        line
    }

    fn recall(&mut self, which: usize) -> Edit {
        self.escape = Escape::None;
        self.recalled = which.min(self.history.len());
        self.line = self.history.get(self.recalled).cloned().unwrap_or_default();
        Edit::Redraw(self.line.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(typed: &[u8]) -> Vec<String> {
        let mut editor = LineEditor::new();
        let edits = typed.iter().map(|byte| editor.take(*byte));
        edits
            .filter_map(|edit| if let Edit::Line(line) = edit { Some(line) } else { None })
            .collect()
    }

    #[test]
    fn a_line_can_be_corrected_before_it_counts() {
        for (typed, expected) in [
            (&b"vms\r"[..], &["vms"][..]),
            (b"vms\r\nmem\r\n", &["vms", "mem"]),
            (b"vms\nmem\n", &["vms", "mem"]),
            (b"vnx\x08\x7fms\r", &["vms"]),
            (b"\x7f\x7fvms\r", &["vms"]),
            (b"start a\x17b\r", &["start b"]),
            (b"rubbish\x15vms\r", &["vms"]),
            (b"rubbish\x03\r", &[""]),
            (b"vms\rmem\r\x1b[A\x1b[A\r", &["vms", "mem", "vms"]),
            (b"vms\r\x1b[A\x1b[Bmem\r", &["vms", "mem"]),
            (b"v\x1b[3~\x1b[Cms\x01\r", &["vms"]),
            (b"\x1bxvms\r", &["vms"]),
        ] {
            assert_eq!(lines(typed), expected, "{:?}", String::from_utf8_lossy(typed));
        }
        assert_eq!(lines(&[&[b'x'; 1000][..], b"\r"].concat()), ["x".repeat(LENGTH)]);
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_editor(typed: Vec<u8>) {
            for line in lines(&typed) {
                prop_assert!(line.len() <= LENGTH && !line.contains(char::is_control));
            }
        }
    }
}
