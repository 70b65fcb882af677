//! Between the emulator's serial line, the user's terminal, and whoever
//! attaches through a socket.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
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

/// Runs the emulator `command` with its serial line on the terminal, and on
/// `socket` for others.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command, socket: &Path) -> Result<ExitStatus> {
    // What an emulator that was killed has left behind.
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("can't listen at {}", socket.display()))?;
    let terminal = RawTerminal::take();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start `{}`", process::shown(command)))?;
    let status = relay(&mut child, listener);
    drop(terminal);
    let _ = fs::remove_file(socket);
    status
}

fn relay(child: &mut Child, listener: UnixListener) -> Result<ExitStatus> {
    let line = Arc::new(Mutex::new(child.stdin.take().context("the emulator has no input")?));
    let mut output = child.stdout.take().context("the emulator has no output")?;
    let attached: Arc<Mutex<Vec<UnixStream>>> = Arc::default();

    let typed = Arc::clone(&line);
    thread::spawn(move || pass_on(io::stdin(), &typed));
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
    Ok(child.wait()?)
}

/// Types what `from` sends, until it ends.
fn pass_on(mut from: impl Read, line: &Mutex<ChildStdin>) {
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
    fn a_client_types_and_reads_along() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "read line; echo \"got $line\""])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let client = thread::spawn(move || {
            let mut client = UnixStream::connect(socket).unwrap();
            client.write_all(b"hello\n").unwrap();
            let mut text = [0; 9];
            client.read_exact(&mut text).map(|()| text)
        });
        assert!(relay(&mut child, listener).unwrap().success());
        assert_eq!(&client.join().unwrap().unwrap(), b"got hello");
    }
}
