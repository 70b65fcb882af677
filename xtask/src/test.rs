//! `cargo xtask test`: the quality gate, from fast to slow.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::bench;
use crate::boards;
use crate::build::{self, cargo};
use crate::packages;
use crate::process;
use crate::setup;
use crate::size;
use crate::workspace::Workspace;

/// Tells the system tests to run; without it they only list themselves.
pub const ENABLE: &str = "BUNSHIN_SYSTEM_TESTS";

/// Asks the system tests for the whole matrix of machines.
pub const FULL: &str = "BUNSHIN_FULL";

/// Crates whose tests Miri can run in its time: pure logic without files, processes or device registers.
const PURE: [&str; 2] = ["stage2", "psci"];

/// Miri is some hundred times slower than the processor.
const MIRI_LIMIT: Duration = Duration::from_secs(120);

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub struct Options {
    /// Every machine of the matrix, not a selection
    #[arg(long)]
    pub full: bool,
    /// Run only the system tests whose name holds TEXT
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Leave the system tests out
    #[arg(long, conflicts_with = "filter")]
    pub host: bool,
}

/// Runs the gate and stops at the first step that fails.
///
/// # Errors
/// When a step fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    setup::run(workspace, &setup::Options::default())?;
    if options.filter.is_none() {
        format(workspace)?;
        lints(workspace)?;
        documentation(workspace)?;
        step(
            "host tests",
            cargo(workspace).args([
                "test",
                "--workspace",
                "--exclude",
                "guests",
                "--exclude",
                "guests-x86",
            ]),
        )?;
        miri(workspace)?;
    }
    if !options.host {
        trees(workspace, options)?;
        system(workspace, options)?;
    }
    println!("\nall passed in {}", shown(start.elapsed()));
    Ok(())
}

fn shown(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// Runs one step of the gate under a heading.
fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("\n== {what}: {}", process::shown(command));
    let start = Instant::now();
    process::run(command)?;
    println!("== {what}: passed in {}", shown(start.elapsed()));
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    step("format", cargo(workspace).args(["fmt", "--all", "--check"]))
}

fn lints(workspace: &Workspace) -> Result<()> {
    let deny = ["--", "-D", "warnings"];
    let host = ["clippy", "--workspace", "--all-targets"];
    step("lints of the host", cargo(workspace).args(host).args(deny))?;
    for (target, packages) in [
        (Arch::Aarch64.target(), &["-p", "bunshin", "-p", "guests", "-p", "machines"][..]),
        (Arch::X86_64.target(), &["-p", "x86-backend", "-p", "guests-x86"]),
    ] {
        let bare = ["clippy", "--target", target, "--lib", "--bins"];
        let what = format!("lints of {target}");
        step(&what, cargo(workspace).args(bare).args(packages).args(deny))?;
    }
    Ok(())
}

fn documentation(workspace: &Workspace) -> Result<()> {
    // Guests of both architectures have the same names, and so would their pages.
    for packages in [&["--workspace", "--exclude", "guests-x86"][..], &["-p", "guests-x86"]] {
        let mut doc = cargo(workspace);
        doc.args(["doc", "--no-deps"]).args(packages).env("RUSTDOCFLAGS", "-D warnings");
        step("documentation", &mut doc)?;
    }
    Ok(())
}

/// Runs the pure crates under Miri where a nightly toolchain has it.
fn miri(workspace: &Workspace) -> Result<()> {
    let cargo = || {
        let mut command = Command::new("cargo");
        // The variables of the running stable toolchain would override `+nightly`.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
            command.env_remove(name);
        }
        command.current_dir(workspace.root()).arg("+nightly").arg("miri");
        command
    };
    let present = cargo().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !present.is_ok_and(|status| status.success()) {
        println!("\n== Miri: not installed; `rustup +nightly component add miri` adds it");
        return Ok(());
    }
    for package in PURE {
        let mut command = cargo();
        command
            .args(["test", "-p", package, "--lib"])
            .env("MIRIFLAGS", "-Zmiri-disable-isolation")
            .env("PROPTEST_CASES", "4");
        println!("\n== Miri on {package}: {}", process::shown(&command));
        if !run_within(&mut command, MIRI_LIMIT)? {
            println!(
                "== Miri on {package}: no fault in {}; the rest is left out",
                shown(MIRI_LIMIT)
            );
        }
    }
    Ok(())
}

/// Runs `command` for at most `limit`; `false` when that was not enough.
fn run_within(command: &mut Command, limit: Duration) -> Result<bool> {
    // A group of its own, so that what Cargo has started ends with it.
    let mut child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("can't start `{}`", process::shown(command)))?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "`{}` failed ({status})", process::shown(command));
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(100));
    }
    process::output(Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]))?;
    child.wait()?;
    Ok(false)
}

/// Reads the device trees of all boards of Debian's kernels and of all Apple machines that Linux knows; in a full run
/// also what is left of each when it is cut and damaged.
fn trees(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.filter.is_some() {
        return Ok(());
    }
    boards::fetch(workspace)?;
    let mut command = cargo(workspace);
    command.args(["test", "-p", "platform", "--test", "corpus"]);
    if options.full {
        // Two hundred thousand trees: what the optimiser takes is less than what it saves.
        command.args(["--release", "--", "--ignored"]).env("BUNSHIN_DTB_MUTATIONS", "100");
    } else {
        command.args(["--", "--ignored"]);
    }
    step("device trees", command.env("BUNSHIN_DTB_CORPUS", boards::trees(workspace)))
}

fn system(workspace: &Workspace, options: &Options) -> Result<()> {
    let tools = [&packages::PC_MEDIA[..], &packages::BOCHS, &packages::UEFI].concat();
    packages::install(&tools)?;
    println!("\n== system tests: building what they boot");
    for arch in Arch::ALL {
        build::image(workspace, arch)?;
        build::guests(workspace, arch)?;
    }
    boards::fetch(workspace)?;
    build::machines(workspace)?;
    if options.filter.is_none() {
        bench::check(workspace)?;
        for arch in Arch::ALL {
            size::check(workspace, arch)?;
        }
    }
    let mut command = cargo(workspace);
    command.args(["test", "-p", "bunshin", "--test", "system"]).env(ENABLE, "1");
    if options.full {
        command.env(FULL, "1");
    }
    if let Some(filter) = &options.filter {
        command.arg("--").arg(filter);
    }
    step("system tests", &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_ended_at_its_limit_with_all_that_it_started() {
        let mut slow = Command::new("sh");
        slow.args(["-c", "sleep 60 & wait"]);
        let start = Instant::now();
        assert!(!run_within(&mut slow, Duration::from_millis(300)).unwrap());
        assert!(start.elapsed() < Duration::from_secs(30));
        assert!(run_within(&mut Command::new("true"), Duration::from_secs(30)).unwrap());
        assert!(run_within(&mut Command::new("false"), Duration::from_secs(30)).is_err());
    }
}
