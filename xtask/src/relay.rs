//! Between the emulator's serial line, the user's terminal, and whoever
//! attaches through a socket.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::process;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The user's terminal, with every key passed on as it is; back to what it was when dropped.
pub struct RawTerminal(Option<String>);

impl RawTerminal {
    /// Takes the terminal, if the standard input is one.
    pub fn take() -> Self {
        let stty = |arguments: &[&str]| {
            let output = Command::new("stty").args(arguments).stdin(Stdio::inherit()).output();
            output.ok().filter(|output| output.status.success())
        };
        let before = io::stdin()
            .is_terminal()
            .then(|| stty(&["-g"]))
            .flatten()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
        if before.is_some() {
            stty(&["raw", "-echo"]);
        }
        RawTerminal(before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = Command::new("stty").arg(before).stdin(Stdio::inherit()).status();
        }
    }
}

/// An emulator and its serial line.
pub struct Line {
    /// The emulator.
    pub child: Child,
    /// Takes what is typed.
    pub input: Box<dyn Write + Send>,
    /// Says what is printed; ends with the emulator.
    pub output: Box<dyn Read>,
    /// The emulator knows no keys of its own: [`ESCAPE`] and [`QUIT`] at the terminal end it.
    pub escapes: bool,
}

/// The key before the emulator's own commands: Ctrl-].
pub const ESCAPE: u8 = 0x1d;
/// The command that ends the emulator.
pub const QUIT: u8 = b'x';

impl Line {
    /// Starts `command`, which has its serial line on its standard streams.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start `{}`", process::shown(command)))?;
        let input = child.stdin.take().context("the emulator has no input")?;
        let output = child.stdout.take().context("the emulator has no output")?;
        Ok(Line { child, input: Box::new(input), output: Box::new(output), escapes: false })
    }
}

/// Runs the emulator that `start` starts with its serial line on the terminal, and on `socket` for
/// others.
///
/// # Errors
/// When it cannot be started.
pub fn run(socket: &Path, start: impl FnOnce() -> Result<Line>) -> Result<ExitStatus> {
    // What an emulator that was killed has left behind.
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("can't listen at {}", socket.display()))?;
    let terminal = RawTerminal::take();
    let status = start().and_then(|line| relay(line, listener));
    drop(terminal);
    let _ = fs::remove_file(socket);
    status
}

fn relay(line: Line, listener: UnixListener) -> Result<ExitStatus> {
    let Line { child, input, mut output, escapes } = line;
    let child = Arc::new(Mutex::new(child));
    let line = Arc::new(Mutex::new(input));
    let attached: Arc<Mutex<Vec<UnixStream>>> = Arc::default();

    let typed = Arc::clone(&line);
    let quitter = escapes.then(|| Arc::clone(&child));
    thread::spawn(move || match quitter {
        None => pass_on(io::stdin(), &typed),
        Some(child) => {
            let mut keys = Keys { from: io::stdin(), escaped: false, quit: false };
            pass_on(&mut keys, &typed);
            if keys.quit {
                let _ = lock(&child).kill();
            }
        }
    });
    let clients = Arc::clone(&attached);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(reader) = client.try_clone() else { continue };
            lock(&clients).push(client);
            let line = Arc::clone(&line);
            thread::spawn(move || pass_on(reader, &line));
        }
    });

    let mut buffer = [0; 4096];
    let mut screen = io::stdout();
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        let bytes = buffer.get(..length).unwrap_or_default();
        // A terminal or client that is gone does not end the emulator.
        let _ = screen.write_all(bytes).and_then(|()| screen.flush());
        lock(&attached).retain_mut(|client| client.write_all(bytes).is_ok());
    }
    Ok(lock(&child).wait()?)
}

/// What is typed, until the keys that end the emulator.
struct Keys<R> {
    from: R,
    /// The last key was [`ESCAPE`].
    escaped: bool,
    quit: bool,
}

impl<R: Read> Read for Keys<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        for (place, key) in buffer.iter().take(length).enumerate() {
            if self.escaped && *key == QUIT {
                self.quit = true;
                return Ok(place.saturating_sub(1));
            }
            self.escaped = *key == ESCAPE;
        }
        Ok(length)
    }
}

/// Types what `from` sends, until it ends.
fn pass_on(mut from: impl Read, line: &Mutex<Box<dyn Write + Send>>) {
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut line = lock(line);
        let typed = line.write_all(buffer.get(..length).unwrap_or_default());
        if typed.and_then(|()| line.flush()).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_command_to_quit() {
        for (typed, expected, quits) in [
            (&b"ls\n"[..], &b"ls\n"[..], false),
            (b"a\x1dxb", b"a", true),
            (b"\x1dx", b"", true),
            (b"x\x1da\x1d", b"x\x1da\x1d", false),
        ] {
            let mut keys = Keys { from: typed, escaped: false, quit: false };
            let mut text = Vec::new();
            keys.read_to_end(&mut text).unwrap();
            assert_eq!((&text[..], keys.quit), (expected, quits));
        }
    }

    #[test]
    fn a_client_types_and_reads_along() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = Command::new("sh");
        let line = Line::start(command.args(["-c", "read line; echo \"got $line\""])).unwrap();
        let client = thread::spawn(move || {
            let mut client = UnixStream::connect(socket).unwrap();
            client.write_all(b"hello\n").unwrap();
            let mut text = [0; 9];
            client.read_exact(&mut text).map(|()| text)
        });
        assert!(relay(line, listener).unwrap().success());
        assert_eq!(&client.join().unwrap().unwrap(), b"got hello");
    }
}
