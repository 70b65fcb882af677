//! The monitor: a command line for whoever operates the host.
//!
//! It is served on the host's serial line (Ctrl-A m) and, for a control
//! virtual machine, on a console of that machine. A session reads bytes and
//! gives text; it owns no machine and waits for none. What takes long, such as
//! loading images, is done by the host CPU that is the home of the machine's
//! first virtual CPU.

mod command;
mod execute;
mod line;
mod report;

use alloc::string::String;

use crate::backend::Backend;
use crate::hypervisor::Hypervisor;
use line::{Edit, LineEditor};

/// What stands before a command.
const PROMPT: &str = "bunshin> ";

/// A user, or a program, at the monitor.
#[derive(Debug)]
pub struct Session {
    editor: LineEditor,
    /// What is typed is shown: there is a person on the other side, who sits at the terminal.
    echo: bool,
}

impl Session {
    /// A session before its first command. With `echo` it shows what it reads.
    pub const fn new(echo: bool) -> Self {
        Session { editor: LineEditor::new(), echo }
    }

    /// Reads `bytes`, obeys the commands in them, and gives what to show.
    pub fn feed<B: Backend>(&mut self, hypervisor: &Hypervisor<B>, bytes: &[u8]) -> String {
        let mut shown = String::new();
        for byte in bytes {
            match self.editor.take(*byte) {
                Edit::Show(text) => {
                    if self.echo {
                        shown.push_str(&text);
                    }
                }
                Edit::Redraw(text) => {
                    if self.echo {
                        // Carriage return, erase the line (ECMA-48 CR, EL).
                        shown.push_str("\r\x1b[K");
                        shown.push_str(PROMPT);
                        shown.push_str(&text);
                    }
                }
                Edit::Line(line) => {
                    if self.echo {
                        shown.push_str("\r\n");
                    }
                    let answer = match command::parse(&line) {
                        Ok(Some(command)) => execute::execute(hypervisor, &command, self.echo),
                        Ok(None) => String::new(),
                        Err(reason) => alloc::format!("{reason}\n"),
                    };
                    for line in answer.lines() {
                        shown.push_str(line);
                        shown.push_str("\r\n");
                    }
                    shown.push_str(PROMPT);
                }
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests;
