//! The last lines of the log.

use alloc::collections::VecDeque;
use alloc::string::String;

/// Lines that are kept.
const LINES: usize = 128;
/// Longest line that is kept, in bytes; the rest of a longer one is cut off.
const LENGTH: usize = 240;

/// A ring of lines.
#[derive(Debug)]
pub(super) struct History(VecDeque<String>);

impl History {
    pub(super) const fn new() -> Self {
        History(VecDeque::new())
    }

    /// Adds a line, at the cost of the oldest.
    pub(super) fn add(&mut self, line: &str) {
        if self.0.len() >= LINES {
            self.0.pop_front();
        }
        let end = (0..=LENGTH.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
        self.0.push_back(line.get(..end.unwrap_or(0)).unwrap_or_default().into());
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_long_ones_cut() {
        let mut history = History::new();
        for number in 0..LINES + 3 {
            history.add(&format!("line {number}"));
        }
        history.add(&"ä".repeat(LENGTH));
        let lines: Vec<_> = history.lines().collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "line 4");
        assert_eq!(*lines[LINES - 1], "ä".repeat(LENGTH / 2));
    }
}
