//! `cargo xtask build`: the EL2 image and the small guests.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::image;
use crate::process;
use crate::workspace::Workspace;

/// Target of the image and of the small guests.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Options of `cargo xtask build`.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Leave the small guests out
    #[arg(long)]
    pub no_guests: bool,
}

/// Builds everything that runs on the bare machine.
///
/// # Errors
/// As Cargo's, and when the linked file is not what a bootloader expects.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let image = image(workspace)?;
    println!("image: {}", image.display());
    if !options.no_guests {
        guests(workspace)?;
        println!("guests: {}", workspace.target().join(TARGET).join("release").display());
    }
    Ok(())
}

/// Cargo, started at the top of the project.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root());
    // Set for this tool by the Cargo that runs it; wrong for anything else.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Builds the EL2 image and returns its file.
///
/// # Errors
/// As [`run`].
pub fn image(workspace: &Workspace) -> Result<PathBuf> {
    process::run(cargo(workspace).args([
        "build",
        "--release",
        "--target",
        TARGET,
        "-p",
        "bunshin",
    ]))?;
    let elf = artifact(workspace, "bunshin");
    let data = fs::read(&elf).with_context(|| format!("can't read {}", elf.display()))?;
    let data = image::flatten_boot_image(&data).with_context(|| elf.display().to_string())?;
    let file = workspace.image();
    fs::write(&file, data).with_context(|| format!("can't write {}", file.display()))?;
    Ok(file)
}

/// Builds the small guests, each as a file of its own that a VM file can name.
///
/// # Errors
/// As [`run`].
pub fn guests(workspace: &Workspace) -> Result<()> {
    process::run(cargo(workspace).args([
        "build",
        "--release",
        "--target",
        TARGET,
        "-p",
        "guests",
        "--bins",
    ]))?;
    for name in guest_names(workspace)? {
        let elf = artifact(workspace, &name);
        let data = fs::read(&elf).with_context(|| format!("can't read {}", elf.display()))?;
        let data = image::flatten_boot_image(&data).with_context(|| elf.display().to_string())?;
        let file = guest(workspace, &name);
        fs::write(&file, data).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

/// Names of the small guests, sorted.
///
/// # Errors
/// As the file system's.
pub fn guest_names(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("guests/src/bin");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("can't read {}", folder.display()))?
    {
        let path = entry?.path();
        // A program is a file `NAME.rs` or a folder `NAME` with its parts.
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        names.extend(name);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The flat image of the small guest `name`.
pub fn guest(workspace: &Workspace, name: &str) -> PathBuf {
    artifact(workspace, name).with_extension("img")
}

/// The linked file of the program `name` for the bare machine.
pub fn artifact(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target().join(TARGET).join("release").join(name)
}
