//! The consoles of all virtual machines, the log and the monitor on one
//! serial line.
//!
//! Lock order: `history` and `state` are each taken alone. Under `state` the
//! host's line is called; no guest's port ever is.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use spin::mutex::TicketMutex;

use super::history::History;
use super::keys::{Key, Keys};
use super::terminal::{Kind, Terminal};
use super::{ConsoleInput, HostLine};
use crate::address::Instant;
use crate::device::console::ConsoleSink;

/// Bytes that the user typed and nobody has taken, for each channel. More is
/// dropped, as by a serial port without flow control.
const INPUT: usize = 4096;

/// Polls for space in the transmitter of a line that is not being used yet or
/// any more by interrupts; a line that is stuck hangs nobody.
const POLLS: u32 = 1_000_000;

/// The log, as a channel.
const LOG: usize = 0;
/// The monitor, as a channel.
const MONITOR: usize = 1;

const HELP: &str =
    "Ctrl-A and: 1 to 9, 0: console of that VM; m: monitor; b: back; Ctrl-A or a: send Ctrl-A";

/// The console of one virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel(usize);

/// What the user has typed for one channel.
#[derive(Default)]
struct Input {
    waiting: VecDeque<u8>,
    ports: Vec<Arc<dyn ConsoleInput>>,
    /// The port that the guest used last: it gets what the user types.
    current: usize,
    /// Somebody is giving bytes to the port.
    busy: bool,
    /// The port has got space meanwhile.
    again: bool,
    /// It leads to the monitor.
    commands_only: bool,
    /// What the monitor has not read yet.
    commands: VecDeque<u8>,
}

struct State {
    terminal: Terminal,
    keys: Keys,
    /// What came over the line, before it is looked at.
    typed: VecDeque<u8>,
    /// By channel.
    inputs: Vec<Input>,
    /// Channels of virtual machines, in the order in which they were added.
    machines: Vec<usize>,
    /// The line is to interrupt when it has space.
    wants_space: bool,
}

/// The consoles. One for the whole host.
pub struct Console {
    line: Once<&'static dyn HostLine>,
    state: TicketMutex<State>,
    history: TicketMutex<History>,
    /// There is something that [`Console::work`] has to look at.
    attention: AtomicBool,
    /// Output waits for the interrupt of the line; before and after that time
    /// it waits for the line itself.
    by_interrupt: AtomicBool,
}

impl Console {
    /// A console without a line yet.
    pub const fn new() -> Self {
        Console {
            line: Once::new(),
            state: TicketMutex::new(State {
                terminal: Terminal::new(),
                keys: Keys::new(),
                typed: VecDeque::new(),
                inputs: Vec::new(),
                machines: Vec::new(),
                wants_space: false,
            }),
            history: TicketMutex::new(History::new()),
            attention: AtomicBool::new(false),
            by_interrupt: AtomicBool::new(false),
        }
    }

    /// Connects the host's serial line. Only the first call counts.
    pub fn open(&self, line: &'static dyn HostLine) {
        self.line.call_once(|| {
            let mut state = self.state.lock();
            state.terminal.set_frequency(line.frequency());
            state.add("log", Kind::Log);
            let monitor = state.add("monitor", Kind::Monitor);
            if let Some(input) = state.inputs.get_mut(monitor) {
                input.commands_only = true;
            }
            line
        });
    }

    /// From now on the line's interrupt comes when it has space, and nobody
    /// waits for it. To be called when interrupts work.
    pub fn use_interrupts(&self) {
        if let Some(line) = self.line.get() {
            self.state.lock().terminal.set_frequency(line.frequency());
        }
        self.by_interrupt.store(true, Ordering::Release);
    }

    /// Adds the console of a virtual machine. With `wants_focus` it gets the
    /// focus, unless another one has it.
    pub fn add(&self, name: &str, wants_focus: bool) -> Channel {
        let mut state = self.state.lock();
        let channel = state.add(name, Kind::Machine);
        state.machines.push(channel);
        if wants_focus && state.terminal.focus().is_none() {
            state.terminal.set_focus(Some(channel));
        }
        Channel(channel)
    }

    /// The virtual machine called `name` could not be made: the next one gets its number, so that
    /// numbers are those of the machines that there are.
    pub fn forget(&self, name: &str) {
        self.withdraw_focus(name);
        let mut state = self.state.lock();
        let State { machines, terminal, .. } = &mut *state;
        machines.retain(|channel| terminal.name(*channel) != name);
    }

    /// Adds a way to the monitor for a program in a virtual machine: what it
    /// sends through a [`Console::port`] of the channel are commands, what it
    /// receives are answers.
    pub fn add_control(&self, name: &str) -> Channel {
        let mut state = self.state.lock();
        let channel = state.add(name, Kind::Monitor);
        if let Some(input) = state.inputs.get_mut(channel) {
            input.commands_only = true;
        }
        Channel(channel)
    }

    /// A port of `channel`: what the guest sends through it appears on the
    /// terminal. [`Port::connect`] makes the way back.
    pub fn port(&'static self, channel: Channel) -> Arc<Port> {
        Arc::new(Port { console: self, channel: channel.0, number: Once::new() })
    }

    /// Takes the focus from the virtual machine called `name`, if it has it:
    /// the next that wants it gets it.
    pub fn withdraw_focus(&self, name: &str) {
        let mut state = self.state.lock();
        if state.terminal.focus().is_some_and(|channel| state.terminal.name(channel) == name) {
            state.terminal.set_focus(None);
        }
    }

    /// The host's line interrupted: takes in what came and sends what waits.
    pub fn interrupt(&self) {
        let Some(line) = self.line.get() else { return };
        let mut state = self.state.lock();
        let mut came = false;
        while let Some(byte) = line.get() {
            came = true;
            if state.typed.len() < INPUT {
                state.typed.push_back(byte);
            }
        }
        self.pump(*line, &mut state);
        drop(state);
        if came {
            self.attention.store(true, Ordering::Release);
        }
    }

    /// Whether [`Console::work`] has something to do.
    #[inline]
    pub fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Looks at what the user typed and at output that had to wait. Returns
    /// when output has to be looked at again. Called by a host CPU that is
    /// between two exits.
    pub fn work(&self) -> Option<Instant> {
        self.attention.store(false, Ordering::Release);
        loop {
            let action = {
                let mut state = self.state.lock();
                let Some(byte) = state.typed.pop_front() else { break };
                state.keys.take(byte)
            };
            match action {
                None => {}
                Some(Key::Byte(byte)) => self.type_byte(byte),
                Some(Key::Machine(number)) => {
                    self.focus_machine(number);
                }
                Some(Key::Monitor) => self.focus_monitor(),
                Some(Key::Back) => self.focus_previous(),
                Some(Key::Help) => self.tell(HELP),
            }
        }
        let mut state = self.state.lock();
        let focus = state.terminal.focus();
        if let Some(line) = self.line.get() {
            self.pump(*line, &mut state);
        }
        let deadline = state.terminal.deadline();
        drop(state);
        if let Some(channel) = focus {
            self.deliver(channel);
        }
        deadline
    }

    /// Commands for the monitor that nobody has read yet, and where they come from.
    pub fn take_commands(&self) -> Option<(Channel, Vec<u8>)> {
        let mut state = self.state.lock();
        let (channel, input) =
            state.inputs.iter_mut().enumerate().find(|(_, input)| !input.commands.is_empty())?;
        let commands = core::mem::take(&mut input.commands);
        Some((Channel(channel), commands.into()))
    }

    /// Whether a person at the host's terminal sends through `channel`, not a program.
    pub fn is_terminal(&self, channel: Channel) -> bool {
        channel.0 == MONITOR
    }

    /// The monitor's answer to commands from `channel`. What a program does not
    /// read is dropped after 64 KiB.
    pub fn answer(&self, channel: Channel, text: &str) {
        const LIMIT: usize = 64 << 10;
        if self.is_terminal(channel) {
            return self.send(MONITOR, text.as_bytes());
        }
        {
            let mut state = self.state.lock();
            let Some(input) = state.inputs.get_mut(channel.0) else { return };
            let space = LIMIT.saturating_sub(input.waiting.len());
            input.waiting.extend(text.bytes().take(space));
        }
        self.deliver(channel.0);
    }

    /// Gives the focus to virtual machine `number` in the order in which they
    /// were added; false when there is none.
    pub fn focus_machine(&self, number: usize) -> bool {
        let mut state = self.state.lock();
        let Some(channel) = state.machines.get(number).copied() else {
            drop(state);
            self.tell(&format!("there is no VM {}", number.saturating_add(1)));
            return false;
        };
        state.terminal.set_focus(Some(channel));
        let name = String::from(state.terminal.name(channel));
        drop(state);
        self.tell(&format!("console of vm \"{name}\""));
        self.deliver(channel);
        true
    }

    fn focus_previous(&self) {
        let mut state = self.state.lock();
        match state.terminal.previous() {
            Some(MONITOR) => {
                drop(state);
                self.focus_monitor();
            }
            Some(channel) => {
                state.terminal.set_focus(Some(channel));
                drop(state);
                self.deliver(channel);
            }
            None => {}
        }
    }

    /// Gives the focus to the monitor, and a line end, so that it prompts.
    pub fn focus_monitor(&self) {
        let mut state = self.state.lock();
        if state.terminal.focus() == Some(MONITOR) {
            return;
        }
        state.terminal.set_focus(Some(MONITOR));
        if let Some(input) = state.inputs.get_mut(MONITOR) {
            input.commands.push_back(b'\r');
        }
        drop(state);
        self.tell("monitor; `help` lists its commands");
    }

    /// The last lines of the log, oldest first.
    pub fn history(&self) -> Vec<String> {
        self.history.lock().lines().cloned().collect()
    }

    /// Sends all that waits, however long that takes: the host is about to end.
    pub fn flush(&self) {
        self.by_interrupt.store(false, Ordering::Release);
        let Some(line) = self.line.get() else { return };
        let mut state = self.state.lock();
        state.terminal.finish(line.now());
        self.pump(*line, &mut state);
    }

    fn type_byte(&self, byte: u8) {
        let mut state = self.state.lock();
        let Some(channel) = state.terminal.focus() else { return };
        let Some(input) = state.inputs.get_mut(channel) else { return };
        let queue = if input.commands_only { &mut input.commands } else { &mut input.waiting };
        if queue.len() < INPUT {
            queue.push_back(byte);
        }
        drop(state);
        self.deliver(channel);
    }

    /// Hands waiting input to the guest as far as it has space. No lock is
    /// held while the guest's port is called, which may call back.
    fn deliver(&self, channel: usize) {
        loop {
            let (port, byte) = {
                let mut state = self.state.lock();
                let Some(input) = state.inputs.get_mut(channel) else { return };
                if input.busy {
                    input.again = true;
                    return;
                }
                let Some(port) = input.ports.get(input.current).cloned() else { return };
                let Some(byte) = input.waiting.pop_front() else { return };
                input.busy = true;
                (port, byte)
            };
            let taken = port.receive(byte);
            let mut state = self.state.lock();
            let Some(input) = state.inputs.get_mut(channel) else { return };
            input.busy = false;
            let again = core::mem::take(&mut input.again);
            if !taken {
                input.waiting.push_front(byte);
                if !again {
                    return;
                }
            }
        }
    }

    fn send(&self, channel: usize, bytes: &[u8]) {
        let Some(line) = self.line.get() else { return };
        let mut state = self.state.lock();
        state.terminal.push(channel, bytes);
        self.pump(*line, &mut state);
        let waits = state.terminal.deadline().is_some();
        drop(state);
        if waits {
            self.call_attention();
        }
    }

    /// Has this CPU's loop call [`Console::work`] soon.
    pub(crate) fn call_attention(&self) {
        if let Some(line) = self.line.get()
            && self.by_interrupt.load(Ordering::Acquire)
            && !self.attention.swap(true, Ordering::AcqRel)
        {
            line.nudge();
        }
    }

    /// A word of the console itself.
    fn tell(&self, text: &str) {
        self.send(LOG, format!("bunshin: {text}\n").as_bytes());
    }

    /// Gives the line what it has space for, or everything while interrupts
    /// are not used.
    fn pump(&self, line: &dyn HostLine, state: &mut State) {
        let by_interrupt = self.by_interrupt.load(Ordering::Acquire);
        let now = line.now();
        let mut polls = 0u32;
        let mut full = false;
        while !full && let Some(byte) = state.terminal.pop(now) {
            while !line.put(byte) {
                if by_interrupt || polls > POLLS {
                    state.terminal.unpop(byte);
                    full = true;
                    break;
                }
                polls = polls.saturating_add(1);
                core::hint::spin_loop();
            }
        }
        let wanted = full && by_interrupt;
        if wanted != state.wants_space {
            state.wants_space = wanted;
            line.want_space(wanted);
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Console::new()
    }
}

impl State {
    fn add(&mut self, name: &str, kind: Kind) -> usize {
        self.inputs.push(Input::default());
        self.terminal.add(name, kind)
    }
}

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the drivers' crate has to say when all is well is of use to its authors only.
        let chatter = metadata.target().starts_with("virtio_drivers");
        metadata.level() <= if chatter { LevelFilter::Warn } else { log::max_level() }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mark = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let mut text = String::new();
        // Writing to a string fails only with the memory that the report would need.
        let _ = writeln!(text, "bunshin: {mark}{}", record.args());
        self.send(LOG, text.as_bytes());
        let mut history = self.history.lock();
        for line in text.lines() {
            history.add(line);
        }
    }

    fn flush(&self) {}
}

/// One of the serial ports of a virtual machine, seen from the terminal.
pub struct Port {
    console: &'static Console,
    channel: usize,
    /// Among the ports of its channel.
    number: Once<usize>,
}

impl Port {
    /// Connects the guest's device, which gets what the user types when the
    /// guest has used this port last.
    pub fn connect(&self, input: Arc<dyn ConsoleInput>) {
        self.number.call_once(|| {
            let mut state = self.console.state.lock();
            let Some(channel) = state.inputs.get_mut(self.channel) else { return usize::MAX };
            channel.ports.push(input);
            channel.ports.len().saturating_sub(1)
        });
    }

    /// What the guest uses is what the user types to. True when `bytes` were
    /// commands.
    fn used(&self, bytes: &[u8]) -> bool {
        let Some(number) = self.number.get() else { return false };
        let mut state = self.console.state.lock();
        let Some(input) = state.inputs.get_mut(self.channel) else { return false };
        input.current = *number;
        if input.commands_only {
            let space = INPUT.saturating_sub(input.commands.len());
            input.commands.extend(bytes.iter().take(space));
        }
        input.commands_only
    }
}

impl ConsoleSink for Port {
    fn put(&self, byte: u8) {
        self.write(&[byte]);
    }

    fn write(&self, bytes: &[u8]) {
        if self.used(bytes) {
            self.console.call_attention();
        } else {
            self.console.send(self.channel, bytes);
        }
    }

    fn ready(&self) {
        self.console.deliver(self.channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_could_not_be_made_has_no_number() {
        let console = Console::new();
        for name in ["broken", "web", "db"] {
            console.add(name, true);
        }
        console.forget("broken");
        assert!(console.focus_machine(0));
        let focus = |console: &Console| {
            let state = console.state.lock();
            state.terminal.focus().map(|channel| String::from(state.terminal.name(channel)))
        };
        assert_eq!(focus(&console).as_deref(), Some("web"));
        assert!(console.focus_machine(1));
        assert_eq!(focus(&console).as_deref(), Some("db"));
        assert!(!console.focus_machine(2));
    }
}
