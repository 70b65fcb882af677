//! Modules of the fetched kernels: those that guests need to use their devices.

use std::fs;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::apt::PrivateApt;
use crate::initramfs::{MODULES, Module};

/// Takes [`MODULES`] out of the kernel's `package` and puts them, not compressed, into `folder`:
/// `RELEASE/NAME.ko`.
///
/// # Errors
/// When the package holds none, or damaged ones.
pub fn fetch(apt: &PrivateApt, package: &Path, folder: &Path) -> Result<()> {
    let patterns: Vec<String> = MODULES.iter().map(|name| format!("*/{name}.ko*")).collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let files = apt.unpack(package, &patterns)?;
    ensure!(!files.is_empty(), "{} holds no modules", package.display());
    for file in files {
        let path = file.to_string_lossy();
        let (_, inside) =
            path.split_once("/modules/").with_context(|| format!("{path}: no release"))?;
        let (release, _) = inside.split_once('/').unwrap_or_default();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let (stem, kind) = name.split_once(".ko").unwrap_or_default();
        let data = fs::read(&file)?;
        let data = match kind {
            ".xz" => {
                let mut unpacked = Vec::new();
                lzma_rs::xz_decompress(&mut BufReader::new(&data[..]), &mut unpacked)
                    .map_err(|error| anyhow::anyhow!("{path}: {error:?}"))?;
                unpacked
            }
            _ => data,
        };
        let target = folder.join(release);
        fs::create_dir_all(&target)?;
        fs::write(target.join(format!("{stem}.ko")), data)
            .with_context(|| format!("can't write into {}", target.display()))?;
    }
    Ok(())
}

/// Reads what [`fetch`] put into `folder`.
///
/// # Errors
/// As the file system's.
pub fn read(folder: &Path) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for release in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let release = release?;
        for name in MODULES {
            let file = release.path().join(format!("{name}.ko"));
            if file.is_file() {
                modules.push(Module {
                    release: release.file_name().to_string_lossy().into_owned(),
                    name: name.to_string(),
                    data: fs::read(&file)?,
                });
            }
        }
    }
    modules.sort_by(|a, b| (&a.release, &a.name).cmp(&(&b.release, &b.name)));
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_with_their_release() {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("6.1.0-50-arm64");
        fs::create_dir(&release).unwrap();
        for name in ["ext4.ko", "jbd2.ko", "other.ko"] {
            fs::write(release.join(name), name).unwrap();
        }
        let modules = read(folder.path()).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["ext4", "jbd2"]);
        assert!(modules.iter().all(|module| module.release == "6.1.0-50-arm64"));
    }
}
