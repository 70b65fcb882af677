//! What the tests of boards need from Debian: device trees of real boards, and firmware.
//!
//! Debian's kernels bring no tree of an Apple machine; those are compiled from the sources of Linux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, BACKPORTS, PrivateApt, RELEASE};
use crate::arch::Arch;
use crate::packages::{self, Tool};
use crate::process;
use crate::workspace::Workspace;

/// The package with the sources.
const SOURCES: &str = "linux-source-6.12";

/// The preprocessor and the compiler of device trees.
const TOOLS: [Tool; 3] = [
    Tool { what: "cpp", package: "cpp" },
    Tool { what: "dtc", package: "device-tree-compiler" },
    Tool { what: "xz", package: "xz-utils" },
];

/// The parts of the sources that the trees of Apple machines are made of.
const SOURCE_FILES: [&str; 4] = [
    "*/arch/arm64/boot/dts/apple/*",
    "*/include/dt-bindings/*",
    "*/scripts/dtc/include-prefixes/*",
    "*/include/uapi/linux/*event-codes.h",
];

/// A file that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Device tree of a Raspberry Pi 4.
    RaspberryTree,
    /// Trusted Firmware-A for it, `bl31.bin`.
    RaspberryFirmware,
    /// Device tree of a Mac mini with M1.
    MacTree,
    /// The same with M2.
    MacM2Tree,
}

impl File {
    const ALL: [File; 4] =
        [File::RaspberryTree, File::RaspberryFirmware, File::MacTree, File::MacM2Tree];

    /// Where it is, once [`fetch`] has run.
    pub fn path(self, workspace: &Workspace) -> PathBuf {
        folder(workspace).join(match self {
            File::RaspberryTree => "trees/debian-6.1/broadcom/bcm2711-rpi-4-b.dtb",
            File::RaspberryFirmware => "rpi4-bl31.bin",
            File::MacTree => "trees/apple/t8103-j274.dtb",
            File::MacM2Tree => "trees/apple/t8112-j473.dtb",
        })
    }
}

/// Beside the guests, so that every build shares one download.
fn folder(workspace: &Workspace) -> PathBuf {
    workspace.guests().with_file_name("boards")
}

/// The folder with the device trees of all boards.
pub fn trees(workspace: &Workspace) -> PathBuf {
    folder(workspace).join("trees")
}

/// Fetches and compiles what is missing.
///
/// # Errors
/// When a package cannot be fetched, or a tool is missing or fails.
pub fn fetch(workspace: &Workspace) -> Result<()> {
    packages::install(&TOOLS)?;
    if File::ALL.iter().all(|file| file.path(workspace).is_file()) {
        return Ok(());
    }
    let folder = folder(workspace);
    let root = folder.join("apt");
    let apt = PrivateApt::create(&root, &apt::system_mirror()?, Arch::Aarch64)?;
    apt.update()?;
    for (name, suite) in [("debian-6.1", RELEASE), ("debian-6.12", BACKPORTS)] {
        let package = apt.download(&apt.first_dependency("linux-image-arm64", suite)?)?;
        kernel_trees(&package, &trees(workspace).join(name))?;
    }
    let firmware = apt.download("arm-trusted-firmware")?;
    let file = File::RaspberryFirmware.path(workspace);
    apt.extract(&firmware, "./usr/lib/arm-trusted-firmware/rpi4/bl31.bin", &file)?;
    let sources = folder.join("sources");
    unpack_sources(&apt.download(SOURCES)?, &sources)?;
    compile_all(&sources, &trees(workspace).join("apple"))?;
    // The packages are many times larger than what is needed of them.
    fs::remove_dir_all(&root)?;
    fs::remove_dir_all(&sources)?;
    Ok(())
}

/// Unpacks the device trees of a kernel's package.
fn kernel_trees(package: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let script = "dpkg-deb --fsys-tarfile \"$1\" | \
                  tar -x -C \"$2\" --strip-components=4 --wildcards './usr/lib/linux-image-*.dtb'";
    process::output(Command::new("sh").args(["-c", script, "sh"]).arg(package).arg(target))?;
    Ok(())
}

/// Unpacks what is needed of the sources.
fn unpack_sources(package: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let script = "package=$1 target=$2; shift 2; dpkg-deb --fsys-tarfile \"$package\" | \
                  tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | \
                  tar -xJ -C \"$target\" --strip-components=1 --wildcards \"$@\"";
    process::run_with_spinner(
        "unpacking the sources of Linux",
        Command::new("sh").args(["-c", script, "sh"]).arg(package).arg(target).args(SOURCE_FILES),
    )?;
    Ok(())
}

/// Compiles the trees of all Apple machines.
fn compile_all(sources: &Path, target: &Path) -> Result<()> {
    let folder = sources.join("arch/arm64/boot/dts/apple");
    fs::create_dir_all(target)?;
    let mut count = 0;
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "dts") {
            let name = file.file_stem().unwrap_or_default();
            compile(sources, &file, &target.join(name).with_extension("dtb"))?;
            count += 1;
        }
    }
    ensure!(count > 0, "{SOURCES} holds no device tree of an Apple machine");
    Ok(())
}

fn compile(sources: &Path, source: &Path, target: &Path) -> Result<()> {
    let preprocessed = target.with_extension("dts");
    let mut cpp = Command::new("cpp");
    cpp.args(["-nostdinc", "-undef", "-D__DTS__", "-x", "assembler-with-cpp"]);
    for include in ["arch/arm64/boot/dts/apple", "include", "scripts/dtc/include-prefixes"] {
        cpp.arg("-I").arg(sources.join(include));
    }
    process::output(cpp.arg(source).arg("-o").arg(&preprocessed))?;
    process::output(
        Command::new("dtc")
            .args(["-q", "-I", "dts", "-O", "dtb", "-o"])
            .arg(target)
            .arg(&preprocessed),
    )?;
    fs::remove_file(&preprocessed)?;
    Ok(())
}
