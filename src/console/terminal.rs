//! What appears on the terminal, and in which order. Pure: bytes and time come
//! in, bytes go out.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use crate::address::Instant;

/// Bytes that wait for the serial line, for each channel.
const RING: usize = 32 << 10;
/// A line of a channel without the focus that is longer is cut in two.
const LONG_LINE: usize = 512;
/// What a channel with the focus may send in one turn, if it ends no line.
const TURN: usize = 512;
/// Lines of others wait so long for the rest of a line: a fraction of a second.
const PATIENCE: u64 = 10;

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The log: lines as they are.
    Log,
    /// The monitor: seen only with the focus.
    Monitor,
    /// A virtual machine.
    Machine,
}

#[derive(Debug)]
struct Output {
    name: String,
    kind: Kind,
    waiting: VecDeque<u8>,
    /// Line ends in `waiting`.
    lines: usize,
    /// Bytes lost for want of space since the last report.
    lost: u64,
}

impl Output {
    fn pop(&mut self) -> Option<u8> {
        let byte = self.waiting.pop_front()?;
        if byte == b'\n' {
            self.lines = self.lines.saturating_sub(1);
        }
        Some(byte)
    }
}

/// The state of the terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    outputs: Vec<Output>,
    focus: Option<usize>,
    /// Who had the focus before.
    previous: Option<usize>,
    /// Bytes on their way, a few lines at most.
    staged: VecDeque<u8>,
    /// What stands on the line that the channel with the focus has not ended.
    open: Vec<u8>,
    /// The cursor is not at the start of a line.
    within: bool,
    /// When that line was begun, and last went on.
    begun: Instant,
    touched: Instant,
    /// Bytes that the channel with the focus has sent in its turn.
    turn: usize,
    /// Who is asked first for the next line.
    next: usize,
    second: u64,
}

impl Terminal {
    pub(super) const fn new() -> Self {
        Terminal {
            outputs: Vec::new(),
            focus: None,
            previous: None,
            staged: VecDeque::new(),
            open: Vec::new(),
            within: false,
            begun: Instant(0),
            touched: Instant(0),
            turn: 0,
            next: 0,
            second: 0,
        }
    }

    /// Ticks per second of the times that it is given.
    pub(super) fn set_frequency(&mut self, ticks: u64) {
        self.second = ticks;
    }

    /// Adds a channel and gives its number.
    pub(super) fn add(&mut self, name: &str, kind: Kind) -> usize {
        let (name, waiting) = (name.into(), VecDeque::new());
        self.outputs.push(Output { name, kind, waiting, lines: 0, lost: 0 });
        self.outputs.len().saturating_sub(1)
    }

    pub(super) fn focus(&self) -> Option<usize> {
        self.focus
    }

    /// Who had the focus before.
    pub(super) fn previous(&self) -> Option<usize> {
        self.previous
    }

    /// The channel's name.
    pub(super) fn name(&self, channel: usize) -> &str {
        self.outputs.get(channel).map_or("", |output| &output.name)
    }

    /// Gives the focus to a channel; what it has not ended yet follows.
    pub(super) fn set_focus(&mut self, channel: Option<usize>) {
        if self.focus != channel {
            self.previous = self.focus;
        }
        self.focus = channel;
        self.turn = 0;
        self.open.clear();
        if core::mem::take(&mut self.within) {
            self.staged.extend(b"\r\n");
        }
    }

    /// Has everything shown that waits: first the rest of what the channel with the focus has
    /// begun, then the others' lines, which wait no longer.
    pub(super) fn finish(&mut self, now: Instant) {
        let focus = self.focus;
        if let Some(channel) = focus {
            while self.outputs.get(channel).is_some_and(|output| !output.waiting.is_empty()) {
                self.stage_byte(channel, now);
            }
        }
        self.set_focus(focus);
        // The log first: it says why this is the end.
        self.next = 0;
    }

    /// A channel sends.
    pub(super) fn push(&mut self, channel: usize, bytes: &[u8]) {
        let focused = self.focus == Some(channel);
        let Some(output) = self.outputs.get_mut(channel) else { return };
        if output.kind == Kind::Monitor && !focused {
            return;
        }
        for byte in bytes {
            if output.waiting.len() >= RING {
                output.lost = output.lost.saturating_add(1);
                continue;
            }
            output.waiting.push_back(*byte);
            if *byte == b'\n' {
                output.lines = output.lines.saturating_add(1);
            }
        }
    }

    /// The next byte for the serial line, if it is time for one.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u8> {
        // A line without text stages nothing.
        while self.staged.is_empty() && self.stage(now) {}
        self.staged.pop_front()
    }

    /// Takes back what [`Terminal::pop`] gave last.
    pub(super) fn unpop(&mut self, byte: u8) {
        self.staged.push_front(byte);
    }

    /// When lines that wait for the end of another may wait no longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = (0..self.outputs.len()).any(|channel| self.has_line(channel));
        (self.within && waits).then(|| self.patience_ends())
    }

    fn patience_ends(&self) -> Instant {
        let pause = self.second.checked_div(PATIENCE).unwrap_or(0);
        let end = self.touched.0.saturating_add(pause);
        Instant(end.min(self.begun.0.saturating_add(self.second)))
    }

    /// Whether a channel without the focus has a line to show.
    fn has_line(&self, channel: usize) -> bool {
        self.focus != Some(channel)
            && self.outputs.get(channel).is_some_and(|output| {
                output.kind != Kind::Monitor
                    && (output.lines > 0 || output.waiting.len() >= LONG_LINE || output.lost > 0)
            })
    }

    /// Stages what is next; false when it is nobody's turn.
    fn stage(&mut self, now: Instant) -> bool {
        let focused = self
            .focus
            .filter(|channel| self.outputs.get(*channel).is_some_and(|o| !o.waiting.is_empty()));
        let may_break = !self.within || now >= self.patience_ends();
        let goes_on = self.within && self.turn > 0 && self.turn < TURN;
        if let Some(channel) = focused
            && (goes_on || !may_break)
        {
            self.stage_byte(channel, now);
            return true;
        }
        if !may_break {
            return false;
        }
        let count = self.outputs.len();
        for step in 0..count {
            let channel = self.next.wrapping_add(step).checked_rem(count).unwrap_or(0);
            if focused == Some(channel) {
                self.next = channel.wrapping_add(1);
                self.turn = 0;
                self.stage_byte(channel, now);
                return true;
            }
            if self.has_line(channel) {
                self.next = channel.wrapping_add(1);
                self.stage_line(channel);
                return true;
            }
        }
        false
    }

    /// One byte of the channel with the focus, as it is.
    fn stage_byte(&mut self, channel: usize, now: Instant) {
        let Some(output) = self.outputs.get_mut(channel) else { return };
        let Some(byte) = output.pop() else { return };
        self.staged.push_back(byte);
        self.turn = self.turn.saturating_add(1);
        if output.lost > 0 && output.waiting.is_empty() {
            let lost = core::mem::take(&mut output.lost);
            let name = output.name.clone();
            self.report_loss(&name, lost);
        }
        match byte {
            b'\n' => {
                self.within = false;
                self.turn = 0;
                self.open.clear();
            }
            // The other half of a line's end, on either side.
            b'\r' => self.touched = now,
            _ => {
                if !self.within {
                    self.begun = now;
                }
                self.within = true;
                self.touched = now;
                if self.open.len() < LONG_LINE {
                    self.open.push(byte);
                }
            }
        }
    }

    /// A line of a channel without the focus. Control characters stay out:
    /// they could pretend to come from somebody else.
    fn stage_line(&mut self, channel: usize) {
        let broken = self.within;
        let of_monitor = self
            .focus
            .and_then(|channel| self.outputs.get(channel))
            .is_some_and(|focused| focused.kind == Kind::Monitor);
        let Some(output) = self.outputs.get_mut(channel) else { return };
        if broken {
            // The monitor's line is erased (ECMA-48 EL) and shown again below.
            self.staged.extend(if of_monitor { &b"\r\x1b[K"[..] } else { b"\r\n" });
        }
        let mut escape = Escape::None;
        if output.kind == Kind::Log {
            // A report stays together.
            while output.lines > 0 {
                match output.pop() {
                    Some(b'\n') => self.staged.extend(b"\r\n"),
                    Some(byte) => self.staged.push_back(byte),
                    None => break,
                }
            }
        } else {
            let mut text = Vec::new();
            while text.len() < LONG_LINE {
                match output.pop() {
                    Some(b'\n') | None => break,
                    Some(byte) => text.extend(escape.filter(byte)),
                }
            }
            if !text.is_empty() {
                self.staged.push_back(b'[');
                self.staged.extend(output.name.as_bytes());
                self.staged.extend(b"] ");
                self.staged.extend(text);
                self.staged.extend(b"\r\n");
            }
        }
        if output.lost > 0 && output.lines == 0 {
            let lost = core::mem::take(&mut output.lost);
            let name = output.name.clone();
            self.report_loss(&name, lost);
        }
        self.within = false;
        if broken && of_monitor {
            // The user goes on where he was.
            self.staged.extend(&self.open);
            self.within = true;
        }
    }

    fn report_loss(&mut self, name: &str, lost: u64) {
        let report = alloc::format!("\r\n[{name}] {lost} bytes lost: they came too fast\r\n");
        self.staged.extend(report.as_bytes());
    }
}

/// Drops control characters and escape sequences (ECMA-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    /// ESC has come.
    Begun,
    /// ESC and `[` have come: a final byte ends it.
    Sequence,
}

impl Escape {
    fn filter(&mut self, byte: u8) -> Option<u8> {
        const ESC: u8 = 0x1b;
        const DEL: u8 = 0x7f;
        match (*self, byte) {
            (_, ESC) => *self = Escape::Begun,
            (Escape::Begun, b'[') => *self = Escape::Sequence,
            (Escape::Begun, _) | (Escape::Sequence, 0x40..=0x7e) => *self = Escape::None,
            (Escape::None, b'\t' | b' '..) if byte != DEL => return Some(byte),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1000;

    /// A log, a monitor, and machines `a` (with the focus) and `b`.
    fn terminal() -> (Terminal, [usize; 4]) {
        let mut terminal = Terminal::new();
        terminal.set_frequency(SECOND);
        let channels = [
            terminal.add("log", Kind::Log),
            terminal.add("monitor", Kind::Monitor),
            terminal.add("a", Kind::Machine),
            terminal.add("b", Kind::Machine),
        ];
        terminal.set_focus(Some(channels[2]));
        (terminal, channels)
    }

    fn shown(terminal: &mut Terminal, now: u64) -> String {
        let bytes: Vec<u8> = std::iter::from_fn(|| terminal.pop(Instant(now))).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn the_channel_with_the_focus_appears_as_it_is_and_others_by_lines() {
        let (mut terminal, [log, monitor, a, b]) = terminal();
        terminal.push(a, b"login\x1b[1m: ");
        terminal.push(b, b"half");
        terminal.push(monitor, b"unseen\n");
        assert_eq!(shown(&mut terminal, 0), "login\x1b[1m: ");
        terminal.push(a, b"root\r\n");
        terminal.push(b, b" a \x1b[32mline\x07\r\nrest");
        assert_eq!(shown(&mut terminal, 1), "root\r\n[b] half a line\r\n");
        terminal.push(log, b"bunshin: two\nlines\n");
        assert_eq!(shown(&mut terminal, 2), "bunshin: two\r\nlines\r\n");
        terminal.set_focus(Some(b));
        assert_eq!(shown(&mut terminal, 3), "rest");
    }

    #[test]
    fn a_line_of_another_waits_for_the_end_of_the_open_one_but_not_for_long() {
        let (mut terminal, [log, _, a, b]) = terminal();
        terminal.push(a, b"prompt");
        assert_eq!(shown(&mut terminal, 0), "prompt");
        assert_eq!(terminal.deadline(), None);
        terminal.push(b, b"line\n");
        terminal.push(log, b"bunshin: x\n");
        assert_eq!(shown(&mut terminal, 50), "");
        assert_eq!(terminal.deadline(), Some(Instant(100)));
        assert_eq!(shown(&mut terminal, 100), "\r\n[b] line\r\nbunshin: x\r\n");
        assert_eq!(terminal.deadline(), None);
    }

    #[test]
    fn in_the_end_everything_is_shown_and_no_line_is_torn() {
        let (mut terminal, [log, _, a, b]) = terminal();
        terminal.push(a, b"TAP version");
        assert_eq!(shown(&mut terminal, 0), "TAP version");
        terminal.push(log, b"bunshin: off\n");
        terminal.push(a, b" 13\r\n1..1\r\n");
        terminal.push(b, b"line\n");
        terminal.finish(Instant(0));
        assert_eq!(shown(&mut terminal, 0), " 13\r\n1..1\r\nbunshin: off\r\n[b] line\r\n");
    }

    #[test]
    fn a_line_that_never_ends_holds_nobody_up_for_more_than_a_second() {
        let (mut terminal, [_, _, a, b]) = terminal();
        terminal.push(b, b"line\n");
        let mut now = 0;
        terminal.push(a, b".");
        let mut text = shown(&mut terminal, now);
        while !text.contains("line") {
            now += 10;
            terminal.push(a, b".");
            text += &shown(&mut terminal, now);
            assert!(now <= SECOND, "{text}");
        }
    }

    #[test]
    fn the_monitor_line_is_shown_again_after_it_was_broken() {
        let (mut terminal, [_, monitor, _, b]) = terminal();
        terminal.set_focus(Some(monitor));
        terminal.push(monitor, b"> sta");
        assert_eq!(shown(&mut terminal, 0), "> sta");
        terminal.push(b, b"line\n");
        assert_eq!(shown(&mut terminal, 100), "\r\x1b[K[b] line\r\n> sta");
        terminal.push(monitor, b"ts\r\n");
        assert_eq!(shown(&mut terminal, 100), "ts\r\n");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_reported() {
        let (mut terminal, [_, _, a, b]) = terminal();
        for channel in [a, b] {
            terminal.push(channel, &vec![b'x'; RING + 5]);
        }
        let text = shown(&mut terminal, 0) + &shown(&mut terminal, 10 * SECOND);
        for name in ["a", "b"] {
            assert!(text.contains(&format!("[{name}] 5 bytes lost: they came too fast\r\n")));
        }
        assert_eq!(text.matches('x').count(), 2 * RING);
    }

    /// A flood, whether with the focus or without, leaves others their turns.
    #[test]
    fn channels_take_turns_by_lines() {
        let (mut terminal, [log, _, a, b]) = terminal();
        for channel in [a, b] {
            terminal.push(channel, &b"y\n".repeat(1000));
        }
        terminal.push(log, b"bunshin: news\n");
        let text = shown(&mut terminal, 0);
        assert!(text.find("news").unwrap() < 30, "{text}");
        let start = &text[..200];
        let (of_b, all) = (start.matches("[b] y").count(), start.matches('y').count());
        assert!(of_b.abs_diff(all - of_b) <= 2, "{start}");
    }

    proptest! {
        /// Whatever is sent, when, and by whom: nothing is lost or made up
        /// while the rings have space, and everything is shown in the end.
        #[test]
        fn all_that_is_sent_is_shown(
            sends in prop::collection::vec((0usize..3, "[ -~\n]{0,40}", 0u64..60), 0..60),
            focus in 0usize..3,
        ) {
            let (mut terminal, [_, _, a, b]) = terminal();
            let c = terminal.add("c", Kind::Machine);
            let channels = [a, b, c];
            terminal.set_focus(Some(channels[focus]));
            let (mut text, mut now) = (String::new(), 0);
            let mut sent = [const { String::new() }; 3];
            for (who, what, pause) in &sends {
                now += pause;
                sent[*who] += what;
                terminal.push(channels[*who], what.as_bytes());
                text += &shown(&mut terminal, now);
            }
            for channel in channels {
                terminal.push(channel, b"\n");
                now += SECOND;
                text += &shown(&mut terminal, now);
            }
            prop_assert_eq!(terminal.deadline(), None);
            for (who, sent) in sent.iter().enumerate() {
                if who != focus {
                    let prefix = format!("[{}] ", ["a", "b", "c"][who]);
                    let lines: String = text.lines().filter_map(|l| l.strip_prefix(&prefix)).collect();
                    prop_assert_eq!(lines, sent.replace('\n', ""));
                }
            }
        }
    }
}
