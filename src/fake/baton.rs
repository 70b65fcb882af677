//! Lets one of several threads run at a time and decides at each point who
//! goes on: first by a list of choices, then at random.

use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Turns after which the host CPUs are thought to go round in circles.
const MAX_TURNS: u64 = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ready,
    Blocked,
    Done,
}

#[derive(Debug)]
struct State {
    current: usize,
    turns: Vec<Turn>,
    choices: std::vec::IntoIter<u8>,
    random: u32,
    count: u64,
    /// Nobody can go on any more.
    over: bool,
}

/// Who runs.
#[derive(Debug)]
pub(crate) struct Baton {
    state: Mutex<State>,
    changed: Condvar,
}

/// What unwinds the threads when nobody can go on.
pub(crate) struct Over;

impl Baton {
    pub(crate) fn new(threads: usize, choices: Vec<u8>) -> Self {
        let state = State {
            current: 0,
            turns: vec![Turn::Ready; threads],
            choices: choices.into_iter(),
            random: 1,
            count: 0,
            over: false,
        };
        Baton { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Whether the host CPUs went on for too long.
    pub(crate) fn went_round_in_circles(&self) -> bool {
        self.state.lock().unwrap().count >= MAX_TURNS
    }

    /// Waits for the first turn.
    pub(crate) fn begin(&self, me: usize) {
        self.wait(self.state.lock().unwrap(), me);
    }

    /// Offers the turn to others.
    pub(crate) fn pass(&self, me: usize) {
        let mut state = self.state.lock().unwrap();
        state.choose(|| None);
        self.wait(state, me);
    }

    /// Gives the turn away until somebody unblocks `me`.
    pub(crate) fn block(&self, me: usize, timer: impl FnOnce() -> Option<usize>) {
        let mut state = self.state.lock().unwrap();
        state.turns[me] = Turn::Blocked;
        state.choose(timer);
        self.wait(state, me);
    }

    pub(crate) fn unblock(&self, other: usize) {
        let mut state = self.state.lock().unwrap();
        if state.turns[other] == Turn::Blocked {
            state.turns[other] = Turn::Ready;
        }
    }

    /// Gives the turn away for ever.
    pub(crate) fn end(&self, me: usize, timer: impl FnOnce() -> Option<usize>) {
        let mut state = self.state.lock().unwrap();
        state.turns[me] = Turn::Done;
        state.choose(timer);
        self.changed.notify_all();
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, me: usize) {
        if state.current != me || state.over {
            self.changed.notify_all();
        }
        while state.current != me && !state.over {
            state = self.changed.wait(state).unwrap();
        }
        if state.over {
            drop(state);
            resume_unwind(Box::new(Over));
        }
    }
}

impl State {
    fn choose(&mut self, timer: impl FnOnce() -> Option<usize>) {
        self.count += 1;
        if !self.turns.contains(&Turn::Ready)
            && let Some(cpu) = timer()
            && self.turns[cpu] == Turn::Blocked
        {
            self.turns[cpu] = Turn::Ready;
        }
        let ready: Vec<usize> =
            (0..self.turns.len()).filter(|i| self.turns[*i] == Turn::Ready).collect();
        let choice = self.choices.next().map_or_else(|| self.random(), u32::from);
        match ready.get(choice as usize % ready.len().max(1)) {
            Some(next) if self.count < MAX_TURNS => self.current = *next,
            _ => self.over = true,
        }
    }

    /// Marsaglia's xorshift.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}
