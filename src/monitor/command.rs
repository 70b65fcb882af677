//! The monitor's commands.

use alloc::format;
use alloc::string::{String, ToString};

use crate::vm::Transition;

/// What to do with a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Resume,
    Request(Transition),
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Vms,
    /// Something for the virtual machine with this name or number.
    Control(Action, String),
    /// Counters of one or of all.
    Stats(Option<String>),
    /// Last exits of one host CPU or of all; `raw` for a program.
    Trace {
        cpu: Option<usize>,
        raw: bool,
    },
    Mem,
    /// The memory that a virtual machine is to have, in bytes.
    Balloon(String, u64),
    Log,
    Console(String),
    PowerOff,
}

/// What `help` shows.
pub(super) const HELP: &str = "\
vms              virtual machines and what they do
start VM         load the images of a VM that is off and let it run
stop VM          turn a VM off, as by pulling its plug
reset VM         restart a VM from its images
pause VM         stop a VM and its clocks
resume VM        let a paused VM go on
stats [VM]       exits by kind and time of the vCPUs, frames of the network ports
trace [CPU]      last exits of the host CPUs; `trace raw CPU` for programs
mem              memory of the host
balloon VM SIZE  ask a VM with a balloon to make do with SIZE (such as 96M) of memory
log              last lines of the log
console VM       type to a VM (also Ctrl-A and its number)
poweroff         stop all VMs and turn the host off
VM is a name or a number of the list that `vms` shows.
";

/// Parses a line; `None` for an empty one.
///
/// # Errors
/// What is wrong, and what would be right.
pub(super) fn parse(line: &str) -> Result<Option<Command>, String> {
    let mut words = line.split_whitespace();
    let Some(name) = words.next() else { return Ok(None) };
    let (first, second) = (words.next(), words.next());
    if words.next().is_some() {
        return Err(format!("{name}: too many words; `help` lists the commands"));
    }
    let nothing = |command: Command| match first {
        None => Ok(command),
        Some(word) => Err(format!("{name}: takes nothing, but found {word:?}")),
    };
    let vm = || match (first, second) {
        (Some(vm), None) => Ok(vm.to_string()),
        (Some(_), Some(word)) => Err(format!("{name}: takes one VM, but found {word:?}")),
        (None, _) => Err(format!("{name}: which VM? `vms` lists them")),
    };
    let control = |action: Action| vm().map(|vm| Command::Control(action, vm));
    let cpu = |word: &str| {
        word.parse().map_err(|_| format!("{name}: {word:?} is no number of a host CPU"))
    };
    let command = match name {
        "help" | "?" => nothing(Command::Help),
        "vms" => nothing(Command::Vms),
        "start" => control(Action::Start),
        "stop" => control(Action::Request(Transition::Off)),
        "reset" => control(Action::Request(Transition::Reset)),
        "pause" => control(Action::Request(Transition::Pause)),
        "resume" => control(Action::Resume),
        "stats" if first.is_none() => Ok(Command::Stats(None)),
        "stats" => vm().map(|vm| Command::Stats(Some(vm))),
        "trace" => match (first, second) {
            (None, _) => Ok(Command::Trace { cpu: None, raw: false }),
            (Some("raw"), None) => Err("trace: raw of which host CPU?".to_string()),
            (Some("raw"), Some(word)) => {
                cpu(word).map(|cpu| Command::Trace { cpu: Some(cpu), raw: true })
            }
            (Some(word), None) => {
                cpu(word).map(|cpu| Command::Trace { cpu: Some(cpu), raw: false })
            }
            (Some(_), Some(word)) => Err(format!("trace: takes one CPU, but found {word:?}")),
        },
        "mem" => nothing(Command::Mem),
        "balloon" => match (first, second) {
            (Some(vm), Some(word)) => size(word)
                .map(|bytes| Command::Balloon(vm.to_string(), bytes))
                .ok_or_else(|| format!("{name}: {word:?} is no size; give one such as 96M or 1G")),
            (Some(_), None) => Err(format!("{name}: what size? Give one such as 96M or 1G")),
            (None, _) => Err(format!("{name}: which VM? `vms` lists them")),
        },
        "log" => nothing(Command::Log),
        "console" => vm().map(Command::Console),
        "poweroff" => nothing(Command::PowerOff),
        _ => Err(format!("{name}: no such command; `help` lists them")),
    };
    command.map(Some)
}

/// A number of bytes with its unit.
fn size(word: &str) -> Option<u64> {
    let word = word.strip_suffix("iB").unwrap_or(word);
    let (digits, shift) = match word.as_bytes().last()? {
        b'K' | b'k' => (word.get(..word.len().saturating_sub(1))?, 10),
        b'M' | b'm' => (word.get(..word.len().saturating_sub(1))?, 20),
        b'G' | b'g' => (word.get(..word.len().saturating_sub(1))?, 30),
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_or_a_reason() {
        let control = |action| Command::Control(action, "web".into());
        for (line, expected) in [
            ("", None),
            ("  ", None),
            ("help", Some(Command::Help)),
            (" vms ", Some(Command::Vms)),
            ("start web", Some(control(Action::Start))),
            ("stop web", Some(control(Action::Request(Transition::Off)))),
            ("reset  web", Some(control(Action::Request(Transition::Reset)))),
            ("pause web", Some(control(Action::Request(Transition::Pause)))),
            ("resume web", Some(control(Action::Resume))),
            ("stats", Some(Command::Stats(None))),
            ("stats 2", Some(Command::Stats(Some("2".into())))),
            ("trace", Some(Command::Trace { cpu: None, raw: false })),
            ("trace 3", Some(Command::Trace { cpu: Some(3), raw: false })),
            ("trace raw 0", Some(Command::Trace { cpu: Some(0), raw: true })),
            ("console 1", Some(Command::Console("1".into()))),
            ("balloon web 96M", Some(Command::Balloon("web".into(), 96 << 20))),
            ("balloon web 98304KiB", Some(Command::Balloon("web".into(), 96 << 20))),
            ("balloon 1 1g", Some(Command::Balloon("1".into(), 1 << 30))),
        ] {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
        for (line, part) in [
            ("strat", "no such command"),
            ("start", "which VM?"),
            ("start a b", "takes one VM"),
            ("vms a", "takes nothing"),
            ("balloon", "which VM"),
            ("balloon web", "what size"),
            ("balloon web 96", "no size"),
            ("balloon web M", "no size"),
            ("balloon web 99999999999999G", "no size"),
            ("trace x", "no number"),
            ("trace raw", "which host CPU"),
            ("trace 1 2", "takes one CPU"),
            ("a b c d", "too many words"),
        ] {
            let reason = parse(line).unwrap_err();
            assert!(reason.contains(part), "{line}: {reason}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for line in HELP.lines().filter(|line| !line.starts_with("VM ")) {
            let name = line.split_whitespace().next().unwrap();
            let refusal = parse(&format!("{name} a b c")).unwrap_err();
            assert!(!refusal.contains("no such command"), "{name}");
            let refused = parse(name).is_err_and(|reason| reason.contains("no such command"));
            assert!(!refused, "{name}");
        }
    }
}
