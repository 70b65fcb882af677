//! The host tool of Bunshin: `cargo xtask COMMAND`.
//!
//! Each command is one module with its options and a `run` function; the
//! other modules are what they share.

pub mod apt;
pub mod arch;
pub mod bench;
pub mod boards;
pub mod bochs;
pub mod build;
pub mod disk;
pub mod fit;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod media;
pub mod modules;
pub mod monitor;
pub mod pack;
pub mod packages;
pub mod process;
pub mod qemu;
pub mod relay;
pub mod run;
pub mod setup;
pub mod size;
pub mod test;
pub mod vmfile;
pub mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// Sets up, builds, packs, runs and tests Bunshin.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing and fetch the guests
    Setup(setup::Options),
    /// Build the image and the small guests
    Build(build::Options),
    /// Pack a VM file into a bundle
    Pack(pack::Options),
    /// Set up, build, pack and start the emulator
    Run(run::Options),
    /// Type to the monitor of what `run` has started
    Monitor(monitor::Options),
    /// Write the last exits of what `run` has started as a trace file
    Trace(monitor::TraceOptions),
    /// Make a medium that a machine boots from
    Image(media::Options),
    /// Run the quality gate: format, lints, tests on the host, tests in the emulator
    Test(test::Options),
    /// Count what exits cost and compare with the budget
    Bench(bench::Options),
}

/// Carries out the user's command.
///
/// # Errors
/// Whatever went wrong, with what to do about it.
pub fn execute(cli: &Cli) -> Result<ExitCode> {
    let workspace = Workspace::locate();
    match &cli.command {
        Command::Setup(options) => setup::run(&workspace, options)?,
        Command::Build(options) => build::run(&workspace, options)?,
        Command::Pack(options) => pack::run(&workspace, options)?,
        Command::Monitor(options) => monitor::run(&workspace, options)?,
        Command::Trace(options) => monitor::trace(&workspace, options)?,
        Command::Image(options) => media::run(&workspace, options)?,
        Command::Test(options) => test::run(&workspace, options)?,
        Command::Bench(options) => bench::run(&workspace, options)?,
        Command::Run(options) => return run::run(&workspace, options),
    }
    Ok(ExitCode::SUCCESS)
}
