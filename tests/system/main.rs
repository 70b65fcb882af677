//! System tests: boot the image in an emulator and judge what guests do.
//!
//! `cargo xtask test` builds what they need and runs them; a plain
//! `cargo test` lists them as ignored. Every trial starts one emulator, whose
//! console it drives; on failure the end of the console's log is shown.
//! `BUNSHIN_FULL=1` adds the rest of the matrix.

mod apple;
mod boards;
mod boot;
mod bundle;
mod emulator;
mod firmware;
mod guests;
mod host;
mod isolation;
mod linux;
mod monitor;
mod network;
mod passed;
mod storage;
mod tap;
mod vmfile;
mod x86;

use std::env;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

use libtest_mimic::{Arguments, Trial};

/// Most emulators at the same time.
const PARALLEL: usize = 2;

/// Cores of ours for one emulator. Each has several busy threads, and guests
/// that spin for a lock starve where those share too little.
const CORES: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let parallel = (cores / CORES).clamp(1, PARALLEL);
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(parallel));
    let enabled = env::var_os(xtask::test::ENABLE).is_some();
    let full = env::var_os(xtask::test::FULL).is_some();
    let mut trials = Vec::new();
    trials.extend(tap::trials());
    trials.extend(guests::trials(full));
    trials.extend(boot::trials());
    trials.extend(bundle::trials());
    trials.extend(linux::trials(full));
    trials.extend(monitor::trials(full));
    trials.extend(isolation::trials());
    trials.extend(firmware::trials(full));
    trials.extend(storage::trials(full));
    trials.extend(network::trials(full));
    trials.extend(x86::trials(full));
    trials.extend(boards::trials(full));
    trials.extend(passed::trials());
    trials.extend(apple::trials(full));
    let trials = trials
        .into_iter()
        .map(|(name, run)| {
            let trial =
                Trial::test(name, move || run().map_err(|error| format!("{error:#}").into()));
            trial.with_ignored_flag(!enabled)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test: its name and what it does.
type Case = (String, Box<dyn FnOnce() -> anyhow::Result<()> + Send>);

/// Makes a [`Case`].
fn case(
    name: impl Into<String>,
    run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Case {
    (name.into(), Box::new(run))
}
