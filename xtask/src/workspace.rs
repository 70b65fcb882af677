//! Where things are in the source tree and where the tool puts what it makes.

use std::env;
use std::path::{Path, PathBuf};

use crate::arch::Arch;

/// The checked-out project.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The tree that this tool was built from.
    pub fn locate() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Workspace { root: manifest.parent().unwrap_or(manifest).to_path_buf() }
    }

    /// Top folder of the project.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where Cargo puts its output, and this tool images and bundles.
    pub fn target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from)
    }

    /// Fetched guests. Not under [`Self::target`], so that every build shares one download.
    pub fn guests(&self) -> PathBuf {
        self.root.join("target").join("guests")
    }

    /// Where `cargo xtask run` lets others attach to the serial line.
    pub fn socket(&self) -> PathBuf {
        self.target().join("bunshin.socket")
    }

    /// The image of `arch` that a bootloader starts: an arm64 `Image`, or an ELF file for PCs.
    pub fn image(&self, arch: Arch) -> PathBuf {
        self.target().join(match arch {
            Arch::Aarch64 => "bunshin.img",
            Arch::X86_64 => "bunshin-x86.elf",
        })
    }
}
