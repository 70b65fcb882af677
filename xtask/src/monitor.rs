//! `cargo xtask monitor` and `cargo xtask trace`: the monitor of a hypervisor
//! that `cargo xtask run` has started.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::relay::RawTerminal;
use crate::workspace::Workspace;

/// Options of `cargo xtask monitor`.
#[derive(Debug, Args)]
pub struct Options {
    /// A command for the monitor, such as `vms` or `reset web`; without one, the terminal is attached
    pub command: Vec<String>,
}

/// Options of `cargo xtask trace`.
#[derive(Debug, Args)]
pub struct TraceOptions {
    /// The trace file, for ui.perfetto.dev or chrome://tracing
    #[arg(long, short, value_name = "FILE", default_value = "trace.json")]
    pub output: PathBuf,
}

/// What the monitor prints before it reads a command.
const PROMPT: &str = "bunshin> ";
/// Ctrl-A m, an empty line: the monitor prompts.
const ATTACH: &[u8] = b"\x01m\x15\r";
/// Ctrl-A b: back to whoever had the focus before.
const LEAVE: &[u8] = b"\x01b";
/// Ctrl-]: leaves an attached terminal.
const ESCAPE: u8 = 0x1d;

const PATIENCE: Duration = Duration::from_secs(20);

/// Attaches to the monitor, or has it obey one command.
///
/// # Errors
/// When nothing runs, or the monitor does not answer.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.command.is_empty() {
        return attach(connect(workspace)?);
    }
    let mut session = Session::open(connect(workspace)?)?;
    let answer = session.ask(&options.command.join(" "));
    session.close()?;
    print!("{}", answer?);
    Ok(())
}

/// Writes the last exits of all host CPUs as a trace file.
///
/// # Errors
/// As [`run`], and when the file cannot be written.
pub fn trace(workspace: &Workspace, options: &TraceOptions) -> Result<()> {
    let mut session = Session::open(connect(workspace)?)?;
    let mut answers = Vec::new();
    let outcome = (0..).try_for_each(|cpu| {
        let answer = session.ask(&format!("trace raw {cpu}"))?;
        let more = !answer.contains("no host CPU");
        answers.push(answer);
        if more { Ok(()) } else { Err(anyhow::anyhow!("no more")) }
    });
    session.close()?;
    if answers.len() < 2 {
        outcome?;
    }
    let events: Vec<Value> = answers.iter().flat_map(|answer| chrome(answer)).collect();
    let count = events.iter().filter(|event| event["ph"] == "i").count();
    let text = serde_json::to_string(&json!({ "traceEvents": events, "displayTimeUnit": "ns" }))?;
    fs::write(&options.output, text)
        .with_context(|| format!("can't write {}", options.output.display()))?;
    println!("{}: {count} exits", options.output.display());
    Ok(())
}

/// The events of one host CPU in Chrome's trace event format.
fn chrome(answer: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let (mut cpu, mut frequency) = (0u64, 1f64);
    for line in answer.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["trace", "cpu", number, "frequency", ticks, "now", _] => {
                cpu = number.parse().unwrap_or(0);
                frequency = ticks.parse().unwrap_or(1.0);
                let name = json!({ "name": format!("host CPU {cpu}") });
                events.push(json!({ "name": "process_name", "ph": "M", "pid": cpu, "args": name }));
            }
            [time, vm, vcpu, kind, cause, address] => {
                let Ok(time) = time.parse::<f64>() else { continue };
                events.push(json!({
                    "name": kind, "ph": "i", "s": "t", "ts": time / frequency * 1e6,
                    "pid": cpu, "tid": format!("{vm}/{vcpu}"),
                    "args": { "cause": cause, "address": address },
                }));
            }
            _ => {}
        }
    }
    events
}

fn connect(workspace: &Workspace) -> Result<UnixStream> {
    let socket = workspace.socket();
    UnixStream::connect(&socket).with_context(|| {
        format!("nothing listens at {}; start `cargo xtask run` first", socket.display())
    })
}

/// The user's terminal at the monitor.
fn attach(mut stream: UnixStream) -> Result<()> {
    println!(
        "Ctrl-] leaves; Ctrl-A 1, 2, ... are the consoles of the VMs, Ctrl-A m is the monitor."
    );
    let terminal = RawTerminal::take();
    stream.write_all(ATTACH)?;
    let mut output = stream.try_clone()?;
    let reader = thread::spawn(move || io::copy(&mut output, &mut io::stdout()));
    let mut buffer = [0; 256];
    let mut input = io::stdin();
    while let Ok(length @ 1..) = input.read(&mut buffer) {
        let typed = buffer.get(..length).unwrap_or_default();
        if typed.contains(&ESCAPE) || reader.is_finished() {
            break;
        }
        stream.write_all(typed)?;
    }
    drop(terminal);
    println!();
    Ok(())
}

/// A program at the monitor.
struct Session {
    stream: UnixStream,
}

impl Session {
    fn open(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut session = Session { stream };
        session.stream.write_all(ATTACH)?;
        session.read_until(|text| text.ends_with(PROMPT))?;
        Ok(session)
    }

    /// Types a command and gives what was printed before the next prompt.
    fn ask(&mut self, command: &str) -> Result<String> {
        self.stream.write_all(format!("{command}\r").as_bytes())?;
        let echo = format!("{command}\r\n");
        let text = self.read_until(|text| {
            text.find(&echo).is_some_and(|at| {
                let answer = text.get(at + echo.len()..).unwrap_or_default();
                answer.ends_with(&format!("\n{PROMPT}")) || answer == PROMPT
            })
        })?;
        let answer = text.split_once(&echo).map_or("", |(_, answer)| answer);
        Ok(answer.strip_suffix(PROMPT).unwrap_or(answer).replace('\r', ""))
    }

    fn close(&mut self) -> Result<()> {
        Ok(self.stream.write_all(LEAVE)?)
    }

    fn read_until(&mut self, done: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the emulator has ended"),
                Ok(length) => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            let text = String::from_utf8_lossy(&bytes);
            if done(&text) {
                return Ok(text.into_owned());
            }
            if Instant::now() > deadline {
                bail!("the monitor does not answer; is Bunshin still starting?");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_raw_trace_becomes_chrome_events() {
        let answer = "trace cpu 3 frequency 1000 now 99\n5 web 1 idle 0x7e 0x9\nrubbish\n";
        let events = chrome(answer);
        assert_eq!(events.len(), 2);
        assert_eq!(events[0]["args"]["name"], "host CPU 3");
        let event = &events[1];
        assert_eq!((&event["name"], &event["tid"]), (&json!("idle"), &json!("web/1")));
        assert_eq!((&event["ts"], &event["pid"]), (&json!(5000.0), &json!(3)));
        assert_eq!(event["args"]["cause"], "0x7e");
    }

    #[test]
    fn an_answer_is_what_stands_between_echo_and_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let monitor = thread::spawn(move || {
            let (mut line, _) = listener.accept().unwrap();
            let mut typed = [0; 4];
            line.read_exact(&mut typed).unwrap();
            assert_eq!(typed, ATTACH);
            line.write_all(b"noise\r\nbunshin> ").unwrap();
            let mut typed = [0; 4];
            line.read_exact(&mut typed).unwrap();
            for part in [&b"vm"[..], b"s\r\nweb run", b"ning\r\nbunshin", b"> "] {
                line.write_all(part).unwrap();
            }
        });
        let mut session = Session::open(UnixStream::connect(socket).unwrap()).unwrap();
        assert_eq!(session.ask("vms").unwrap(), "web running\n");
        monitor.join().unwrap();
    }
}
