//! `cargo xtask image`: media that a machine boots from, one module for each kind of machine.

pub mod apple;
pub mod pc;
pub mod rpi4;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::arch::Arch;
use crate::build;
use crate::pack;
use crate::setup;
use crate::vmfile::VmFile;
use crate::workspace::Workspace;

/// Options of `cargo xtask image`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    medium: Medium,
}

/// The machines.
#[derive(Debug, Subcommand)]
enum Medium {
    /// An ISO that PCs boot from a CD or a USB stick, by BIOS and by UEFI
    Pc(pc::Options),
    /// A folder and an SD-card image for the Raspberry Pi 4
    Rpi4(rpi4::Options),
    /// A payload for m1n1, which starts it on Macs with M1 and M2
    Apple(apple::Options),
}

/// What every medium is made of.
#[derive(Debug, Args)]
pub struct Content {
    /// The VM file [default: vms/linux.toml, one Debian guest]
    #[arg(long, value_name = "FILE")]
    pub vm: Option<PathBuf>,
}

impl Content {
    /// Fetches guests, builds the image of `arch` and packs the VM file; returns the image's file
    /// and the bundle.
    ///
    /// # Errors
    /// When one of these steps fails.
    pub fn make(&self, workspace: &Workspace, arch: Arch) -> Result<(PathBuf, Vec<u8>)> {
        let default = workspace.root().join("vms/linux.toml");
        let path = self.vm.as_ref().unwrap_or(&default);
        let file = VmFile::load(path)?;
        setup::run(workspace, &setup::Options { arch: Some(arch), ..Default::default() })?;
        let image = build::image(workspace, arch)?;
        let base = path.parent().unwrap_or(path);
        Ok((image, pack::bundle(&file, base, workspace, arch)?))
    }
}

/// Makes the medium that the user asks for.
///
/// # Errors
/// When a step fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    match &options.medium {
        Medium::Pc(options) => pc::run(workspace, options),
        Medium::Rpi4(options) => rpi4::run(workspace, options),
        Medium::Apple(options) => apple::run(workspace, options),
    }
}
