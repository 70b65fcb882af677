//! The host tool of Bunshin: `cargo xtask COMMAND`.
//!
//! Each command is one module with its options and a `run` function; the
//! other modules are what they share.

pub mod apt;
pub mod initramfs;
pub mod process;
pub mod setup;
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
    /// Installs what is missing and fetches the guests
    Setup(setup::Options),
}

/// Carries out the user's command.
///
/// # Errors
/// Whatever went wrong, with what to do about it.
pub fn execute(cli: &Cli) -> Result<ExitCode> {
    let workspace = Workspace::locate();
    match &cli.command {
        Command::Setup(options) => setup::run(&workspace, options)?,
    }
    Ok(ExitCode::SUCCESS)
}
