//! `cargo xtask pack`: VM file -> bundle.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::arch::Arch;
use crate::build;
use crate::fit;
use crate::vmfile::{Folders, VmFile};
use crate::workspace::Workspace;

/// Options of `cargo xtask pack`.
#[derive(Debug, Args)]
pub struct Options {
    /// The VM file
    pub file: PathBuf,
    /// Where the bundle goes
    #[arg(short, long, default_value = "bundle.itb")]
    pub output: PathBuf,
    /// Architecture of the machine
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
}

/// Packs the VM file and its payloads into one bundle.
///
/// # Errors
/// When the VM file is wrong or a payload can't be read.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let vms = VmFile::load(&options.file)?;
    let base = options.file.parent().unwrap_or(Path::new(""));
    let bundle = bundle(&vms, base, workspace, options.arch)?;
    write(&options.output, &bundle)?;
    println!("{}: {} VMs, {} KiB", options.output.display(), vms.vms.len(), bundle.len() / 1024);
    Ok(())
}

/// The bundle for `arch` of a VM file whose paths are relative to `base`.
///
/// # Errors
/// When a payload can't be read.
pub fn bundle(file: &VmFile, base: &Path, workspace: &Workspace, arch: Arch) -> Result<Vec<u8>> {
    let folders = Folders {
        base: base.to_path_buf(),
        guests: workspace.guests(),
        small: build::release(workspace, arch),
    };
    fit::write_with_uplinks(arch, &file.resolve(&folders, arch)?, &file.resolve_uplinks())
}

/// Writes `bundle` to `file`.
///
/// # Errors
/// As the file system's.
pub fn write(file: &Path, bundle: &[u8]) -> Result<()> {
    fs::write(file, bundle).with_context(|| format!("can't write {}", file.display()))
}
