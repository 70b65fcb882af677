//! `cargo xtask build`: the image and the small guests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::arch::Arch;
use crate::image;
use crate::process;
use crate::size;
use crate::workspace::Workspace;

/// Options of `cargo xtask build`.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Architecture of the machine
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
    /// Leave the small guests out
    #[arg(long)]
    pub no_guests: bool,
    /// Print the size of the image by part, and how deep its stacks get
    #[arg(long, conflicts_with = "no_guests")]
    pub report: bool,
    /// With `--report`, make the present sizes the budget
    #[arg(long, requires = "report")]
    pub accept: bool,
}

/// Builds everything that runs on the bare machine.
///
/// # Errors
/// As Cargo's, and when the linked file is not what a bootloader expects.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let arch = options.arch;
    let image = image(workspace, arch)?;
    println!("image: {}", image.display());
    if !options.no_guests {
        guests(workspace, arch)?;
        println!("guests: {}", release(workspace, arch).display());
    }
    if options.report {
        size::report(workspace, arch, options.accept)?;
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

/// Builds the image of `arch` and returns its file.
///
/// # Errors
/// As [`run`].
pub fn image(workspace: &Workspace, arch: Arch) -> Result<PathBuf> {
    process::run(cargo(workspace).args(["build", "--release", "--target", arch.target()]).args([
        "-p",
        arch.package(),
        "--bin",
        arch.program(),
    ]))?;
    let file = workspace.image(arch);
    bootable(&artifact(workspace, arch, arch.program()), arch, &file)?;
    Ok(file)
}

/// Makes of the linked file `elf` what bootloaders and VM files take.
fn bootable(elf: &Path, arch: Arch, file: &Path) -> Result<()> {
    let data = fs::read(elf).with_context(|| format!("can't read {}", elf.display()))?;
    let data = match arch {
        Arch::Aarch64 => image::flatten_boot_image(&data),
        Arch::X86_64 => image::strip(&data),
    };
    let data = data.with_context(|| elf.display().to_string())?;
    fs::write(file, data).with_context(|| format!("can't write {}", file.display()))
}

/// Builds the small guests, each as a file of its own that a VM file can name.
///
/// # Errors
/// As [`run`].
pub fn guests(workspace: &Workspace, arch: Arch) -> Result<()> {
    process::run(cargo(workspace).args(["build", "--release", "--target", arch.target()]).args([
        "-p",
        guests_package(arch).0,
        "--bins",
    ]))?;
    for name in guest_names(workspace, arch)? {
        bootable(&artifact(workspace, arch, &name), arch, &guest(workspace, arch, &name))?;
    }
    Ok(())
}

/// Builds the firmware that makes QEMU's machines like real boards, for the tests; each program as a flat file.
///
/// # Errors
/// As [`run`].
pub fn machines(workspace: &Workspace) -> Result<()> {
    let arch = Arch::Aarch64;
    process::run(
        cargo(workspace)
            .args(["build", "--release", "--target", arch.target()])
            .args(["-p", "machines", "--bins"]),
    )?;
    for name in ["raspberry_stub", "simulated_m1"] {
        let elf = artifact(workspace, arch, name);
        let data = fs::read(&elf).with_context(|| format!("can't read {}", elf.display()))?;
        fs::write(machine(workspace, name), image::flatten(&data)?)?;
    }
    Ok(())
}

/// The flat file of such a program.
pub fn machine(workspace: &Workspace, name: &str) -> PathBuf {
    artifact(workspace, Arch::Aarch64, name).with_extension("bin")
}

/// The package with the small guests of `arch`, and its folder.
const fn guests_package(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::Aarch64 => ("guests", "guests"),
        Arch::X86_64 => ("guests-x86", "guests/x86"),
    }
}

/// Names of the small guests, sorted.
///
/// # Errors
/// As the file system's.
pub fn guest_names(workspace: &Workspace, arch: Arch) -> Result<Vec<String>> {
    let folder = workspace.root().join(guests_package(arch).1).join("src/bin");
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

/// The file of the small guest `name` that a VM file can name: a flat image, or ELF on PCs.
pub fn guest(workspace: &Workspace, arch: Arch, name: &str) -> PathBuf {
    guest_in(&release(workspace, arch), arch, name)
}

/// As [`guest`], in the folder `release`.
pub fn guest_in(release: &Path, arch: Arch, name: &str) -> PathBuf {
    release.join(name).with_extension(match arch {
        Arch::Aarch64 => "img",
        Arch::X86_64 => "elf",
    })
}

/// The linked file of the program `name` for the bare machine.
pub fn artifact(workspace: &Workspace, arch: Arch, name: &str) -> PathBuf {
    release(workspace, arch).join(name)
}

/// Where Cargo puts what it builds for the bare machine.
pub fn release(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.target().join(arch.target()).join("release")
}
