//! One emulator with its console on pipes: wait for a text, type, wait for the end.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Lines of the console that a failure shows.
const TAIL_LINES: usize = 60;

/// A guest that floods its console is cut off here.
const LOG_LIMIT: usize = 16 << 20;

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn pump(&self, mut from: impl Read, last: bool) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut log = self.lock();
            if log.bytes.len() < LOG_LIMIT {
                log.bytes.extend_from_slice(&buffer[..length]);
            }
            self.changed.notify_all();
        }
        if last {
            self.lock().ended = true;
            self.changed.notify_all();
        }
    }
}

/// A running emulator; killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    /// Takes what is typed.
    console: Box<dyn Write + Send>,
    shown: String,
    shared: Arc<Shared>,
    /// What lies before was seen by an earlier `expect`.
    cursor: usize,
    deadline: Instant,
    /// Files that the emulator reads; removed with it.
    _files: Option<TempDir>,
}

impl Emulator {
    /// Starts `command`, which has to be done after `limit`.
    pub(crate) fn start(
        mut command: Command,
        limit: Duration,
        files: Option<TempDir>,
    ) -> Result<Self> {
        let shown = xtask::process::shown(&command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start `{shown}`"))?;
        let console = child.stdin.take().context("the emulator has no input")?;
        let output = child.stdout.take().context("the emulator has no output")?;
        let errors = child.stderr.take();
        let emulator = Emulator::attached(child, Box::new(console), output, shown, limit, files);
        if let Some(stderr) = errors {
            let shared = Arc::clone(&emulator.shared);
            thread::spawn(move || shared.pump(stderr, false));
        }
        Ok(emulator)
    }

    /// An emulator that runs already, with its console on these streams.
    pub(crate) fn attached(
        child: Child,
        console: Box<dyn Write + Send>,
        output: impl Read + Send + 'static,
        shown: String,
        limit: Duration,
        files: Option<TempDir>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let pumped = Arc::clone(&shared);
        thread::spawn(move || pumped.pump(output, true));
        let deadline = Instant::now() + limit;
        Emulator { child, console, shown, shared, cursor: 0, deadline, _files: files }
    }

    /// Waits until `text` is printed and returns what came before it since
    /// the last call.
    pub(crate) fn expect(&mut self, text: &str) -> Result<String> {
        match self.wait_for(text, self.deadline) {
            Ok(before) => Ok(before),
            Err(why) => bail!("{why} before {text:?} was printed\n{}", self.report()),
        }
    }

    /// Waits for `text`, but not longer than `time`; whether it came.
    pub(crate) fn expect_within(&mut self, text: &str, time: Duration) -> Result<bool> {
        match self.wait_for(text, self.deadline.min(Instant::now() + time)) {
            Ok(_) => Ok(true),
            Err(_) if !self.is_late() && !self.shared.lock().ended => Ok(false),
            Err(why) => bail!("{why} before {text:?} was printed\n{}", self.report()),
        }
    }

    /// Whether its time is up.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits for `text` and returns what came before it; or why it did not come.
    fn wait_for(
        &mut self,
        text: &str,
        deadline: Instant,
    ) -> std::result::Result<String, &'static str> {
        let needle = text.as_bytes();
        let mut log = self.shared.lock();
        loop {
            let unseen = log.bytes.get(self.cursor..).unwrap_or_default();
            if let Some(at) = unseen.windows(needle.len()).position(|window| window == needle) {
                let before = String::from_utf8_lossy(&unseen[..at]).into_owned();
                self.cursor += at + needle.len();
                return Ok(before);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if log.ended {
                return Err("the emulator ended");
            }
            if left.is_zero() {
                return Err("the time was up");
            }
            (log, _) = self
                .shared
                .changed
                .wait_timeout(log, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Waits for a line that starts with `prefix` (after other text, maybe)
    /// and returns the rest of it.
    pub(crate) fn expect_line(&mut self, prefix: &str) -> Result<String> {
        self.expect(prefix)?;
        Ok(self.expect("\n")?.trim().to_string())
    }

    /// Types `text`.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.console.write_all(text.as_bytes())?;
        Ok(self.console.flush()?)
    }

    /// Waits for the emulator's end, which has to be a successful one, and
    /// returns all that was printed.
    pub(crate) fn finish(mut self) -> Result<String> {
        let status = self.wait()?;
        if !status.success() {
            bail!("the emulator ended with {status}\n{}", self.report());
        }
        Ok(self.text())
    }

    /// Waits for the emulator's end, whatever it is.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.drain();
                return Ok(status);
            }
            if Instant::now() > self.deadline {
                bail!("the emulator did not end in time\n{}", self.report());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the emulator run for `time`; it must not end.
    pub(crate) fn survive(&mut self, time: Duration) -> Result<()> {
        thread::sleep(time);
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the emulator ended with {status}\n{}", self.report()),
        }
    }

    /// Ends the emulator as a cut of power does, and keeps what it has printed.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.drain();
        Ok(())
    }

    /// All that was printed so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// Waits for the last output of an emulator that has ended.
    fn drain(&self) {
        let limit = Instant::now() + Duration::from_secs(5);
        let mut log = self.shared.lock();
        while !log.ended && Instant::now() < limit {
            let wait = self.shared.changed.wait_timeout(log, Duration::from_millis(100));
            (log, _) = wait.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// The command line and the end of the log, for a failure's message.
    pub(crate) fn report(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        let tail: String =
            tail.iter().map(|line| format!("    {}\n", line.escape_debug())).collect();
        format!("  command: {}\n  the console's last lines:\n{tail}", self.shown)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
