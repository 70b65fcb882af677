//! An ISO for PCs: GRUB for BIOS and for UEFI, the image, and the bundle as its module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::Content;
use crate::arch::Arch;
use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// Options of `cargo xtask image pc`.
#[derive(Debug, Args)]
pub struct Options {
    /// What the medium holds.
    #[command(flatten)]
    pub content: Content,
    /// Where the medium goes [default: bunshin-pc.iso in the target folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What GRUB does: load the image by Multiboot 2 and the bundle as its module. Everything is also
/// said on the first serial port, as the image does, where there is one.
const CONFIGURATION: &str = "\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry Bunshin {
    multiboot2 /boot/bunshin
    module2 /boot/bundle
}
";

/// Makes the ISO.
///
/// # Errors
/// When a step fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let (image, bundle) = options.content.make(workspace, Arch::X86_64)?;
    let default = workspace.target().join("bunshin-pc.iso");
    let file = options.output.as_ref().unwrap_or(&default);
    write(file, &image, Some(&bundle))?;
    println!(
        "{}: boots by BIOS and UEFI; write it to a CD or, as it is, to a USB stick:",
        file.display()
    );
    println!("  sudo dd if={} of=/dev/sdX bs=4M conv=fsync", file.display());
    Ok(())
}

/// Writes an ISO with `image` and `bundle` to `file`; without a bundle the image runs the guest
/// that it carries.
///
/// # Errors
/// When the programs that make it cannot be installed, or fail.
pub fn write(file: &Path, image: &Path, bundle: Option<&[u8]>) -> Result<()> {
    write_with(file, image, bundle, "")
}

/// As [`write()`], with `commands` that GRUB carries out first, each with its line end.
///
/// # Errors
/// As [`write()`].
pub fn write_with(file: &Path, image: &Path, bundle: Option<&[u8]>, commands: &str) -> Result<()> {
    packages::install(&packages::PC_MEDIA)?;
    let folder = tempfile::tempdir()?;
    let boot = folder.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(image, boot.join("bunshin")).with_context(|| image.display().to_string())?;
    let mut configuration = format!("{commands}{CONFIGURATION}");
    match bundle {
        Some(bundle) => fs::write(boot.join("bundle"), bundle)?,
        None => configuration = configuration.replace("    module2 /boot/bundle\n", ""),
    }
    fs::write(boot.join("grub/grub.cfg"), configuration)?;
    // `--` would give the rest to xorriso; GRUB's own modules are all that is wanted.
    process::output(Command::new("grub-mkrescue").arg("-o").arg(file).arg(folder.path()))?;
    Ok(())
}
