//! A virtual machine monitor for KVM hosts: Debian's QEMU for arm64, with the libraries that it needs and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

use crate::apt::{self, PrivateApt};
use crate::arch::Arch;
use crate::workspace::Workspace;

/// The program, and its Debian package.
pub const PROGRAM: &str = "qemu-system-aarch64";
const PACKAGE: &str = "qemu-system-arm";
/// What loads it (its ELF interpreter is a link to this).
pub const LOADER: &str = "ld-linux-aarch64.so.1";

/// Fetches it, unless it is there, and returns the folder with the program and its libraries.
///
/// # Errors
/// As apt's.
pub fn fetch(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.guests().join("vmm");
    if folder.join(PROGRAM).is_file() {
        return Ok(folder);
    }
    let root = workspace.guests().join("apt-vmm");
    let apt = PrivateApt::create(&root, &apt::system_mirror()?, Arch::Aarch64)?;
    apt.update()?;
    let mut found = BTreeMap::new();
    let unpacked = root.join("all");
    for package in apt.download_with_dependencies(PACKAGE)? {
        for file in apt.unpack(&package, &["*.so*", &format!("*/{PROGRAM}")])? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Links are followed: a library is known by the name that programs ask for.
            if file.is_file() {
                fs::create_dir_all(&unpacked)?;
                fs::copy(&file, unpacked.join(&name))?;
                found.insert(name.clone(), unpacked.join(&name));
            }
        }
    }
    // The program goes last: it says that the rest is there.
    fs::create_dir_all(&folder)?;
    for name in needed(&found)?.iter().rev() {
        fs::copy(&found[name], folder.join(name))?;
    }
    fs::copy(&found[PROGRAM], folder.join(PROGRAM))?;
    // The packages are several times larger than what is needed of them.
    fs::remove_dir_all(&root)?;
    Ok(folder)
}

/// Names of all libraries that [`PROGRAM`] needs, and that those need.
fn needed(files: &BTreeMap<String, PathBuf>) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut next = vec![PROGRAM.to_string()];
    while let Some(name) = next.pop() {
        let file = files.get(&name).with_context(|| format!("no package holds {name}"))?;
        for library in libraries(file)? {
            if all.insert(library.clone()) {
                next.push(library);
            }
        }
    }
    Ok(all)
}

/// Names of the libraries that an ELF `file` asks for.
fn libraries(file: &Path) -> Result<Vec<String>> {
    let data = fs::read(file).with_context(|| file.display().to_string())?;
    let parsed = (|| -> object::Result<Vec<String>> {
        let header = FileHeader64::<Endianness>::parse(&data[..])?;
        let endian = header.endian()?;
        let sections = header.sections(endian, &data[..])?;
        let Some((entries, strings)) = sections.dynamic(endian, &data[..])? else {
            return Ok(Vec::new());
        };
        let strings = sections.strings(endian, &data[..], strings)?;
        let names = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
        names
            .map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned()))
            .collect()
    })();
    parsed.with_context(|| file.display().to_string())
}
