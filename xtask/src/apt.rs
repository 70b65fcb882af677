//! Debian packages of another architecture without touching the system.
//!
//! apt is given a root of its own under the download folder: its own lists,
//! cache, sources and (empty) package status, with the guests' architecture as
//! the native one. No privilege is needed and nothing outside changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::process;

/// The Debian release that guests come from.
pub const RELEASE: &str = "bookworm";

/// The suite with newer kernels, and with a newer QEMU, for that release.
pub const BACKPORTS: &str = "bookworm-backports";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Finds a Debian archive among the system's own package sources: the one of
/// [`RELEASE`] if there is one, else of any Debian release.
///
/// # Errors
/// When `/etc/apt` names no Debian archive.
pub fn system_mirror() -> Result<String> {
    let mut texts = Vec::new();
    texts.extend(fs::read_to_string("/etc/apt/sources.list"));
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut files: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let wanted = |file: &PathBuf| {
            file.extension().is_some_and(|extension| extension == "list" || extension == "sources")
        };
        texts.extend(files.iter().filter(|file| wanted(file)).flat_map(fs::read_to_string));
    }
    let archives: Vec<_> = texts.iter().flat_map(|text| archives(text)).collect();
    pick_mirror(&archives)
        .context("/etc/apt names no Debian archive; pass one with `cargo xtask setup --mirror URI`")
}

fn pick_mirror(archives: &[(String, String)]) -> Option<String> {
    let of_release = archives.iter().find(|(_, suite)| suite == RELEASE);
    let is_debian = |uri: &str| uri.trim_end_matches('/').ends_with("/debian");
    let (uri, _) = of_release.or_else(|| archives.iter().find(|(uri, _)| is_debian(uri)))?;
    Some(uri.clone())
}

/// Every (URI, suite) of a sources file, in the one-line format or in deb822.
fn archives(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("deb") {
            continue;
        }
        let mut words: Vec<_> = words.collect();
        if words.first().is_some_and(|word| word.starts_with('[')) {
            let end = words.iter().position(|word| word.ends_with(']')).unwrap_or(0);
            words.drain(..=end);
        }
        if let [uri, suite, ..] = words[..] {
            found.push((uri.to_string(), suite.to_string()));
        }
    }
    let without_comments: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in without_comments.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let line = stanza.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
        };
        for uri in field("URIs") {
            for suite in field("Suites") {
                found.push((uri.to_string(), suite.to_string()));
            }
        }
    }
    found
}

/// Stanzas of a deb822 sources file for `suites` of the archive at `mirror`.
pub fn sources(mirror: &str, suites: &[&str]) -> String {
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n",
        suites.join(" ")
    )
}

/// apt with a root of its own.
#[derive(Debug)]
pub struct PrivateApt {
    root: PathBuf,
    arch: Arch,
}

impl PrivateApt {
    /// Prepares a root at `root` for packages of `arch` from `mirror`.
    ///
    /// # Errors
    /// When apt is absent, Debian's keys are, or a file can't be written.
    pub fn create(root: &Path, mirror: &str, arch: Arch) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb", "tar"] {
            if process::find(program).is_none() {
                bail!("{program} is not installed; guests are fetched on a Debian machine");
            }
        }
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is absent; install the package debian-archive-keyring");
        }
        for folder in ["lists/partial", "cache/archives/partial", "sources", "packages"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let at = |name: &str| root.join(name).display().to_string();
        fs::write(root.join("status"), "")?;
        fs::write(
            root.join("sources/debian.sources"),
            sources(mirror, &[RELEASE, &format!("{RELEASE}-updates"), BACKPORTS]),
        )?;
        fs::write(
            root.join("apt.conf"),
            format!(
                "Dir::Etc::sourcelist \"/dev/null\";\n\
                 Dir::Etc::sourceparts \"{}\";\n\
                 Dir::State::lists \"{}\";\n\
                 Dir::State::status \"{}\";\n\
                 Dir::Cache \"{}\";\n\
                 APT::Architecture \"{arch}\";\n\
                 APT::Architectures {{ \"{arch}\"; }};\n\
                 APT::Sandbox::User \"\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
                at("sources"),
                at("lists"),
                at("status"),
                at("cache"),
                arch = arch.debian(),
            ),
        )?;
        Ok(PrivateApt { root: root.to_path_buf(), arch })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Fetches the package lists.
    ///
    /// # Errors
    /// As apt's.
    pub fn update(&self) -> Result<()> {
        process::run_with_spinner(
            &format!("fetching the package lists of Debian {}", self.arch.debian()),
            self.command("apt-get").args(["update", "-q"]),
        )?;
        Ok(())
    }

    /// The package that the meta-package `meta` of `suite` depends on first.
    ///
    /// # Errors
    /// When the archive has no such package or it depends on nothing.
    pub fn first_dependency(&self, meta: &str, suite: &str) -> Result<String> {
        let madison = process::output(self.command("apt-cache").args(["madison", meta]))?;
        let version = madison
            .lines()
            .find(|line| line.contains(&format!("{suite}/")))
            .and_then(|line| line.split('|').nth(1))
            .with_context(|| format!("{suite} has no package {meta}"))?
            .trim();
        let depends = process::output(
            self.command("apt-cache").arg("depends").arg(format!("{meta}={version}")),
        )?;
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(name.with_context(|| format!("{meta} {version} depends on nothing"))?.to_string())
    }

    /// Downloads a package, unless it is there, and returns its file.
    ///
    /// # Errors
    /// As apt's.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        let folder = self.root.join("packages");
        let uris =
            process::output(self.command("apt-get").args(["download", "--print-uris", package]))?;
        let mut words = uris.lines().last().unwrap_or_default().split(' ').skip(1);
        let (Some(name), Some(size)) = (words.next(), words.next()) else {
            bail!("apt-get does not say where package {package} is:\n{uris}");
        };
        let size: u64 = size.parse().context("apt-get gives a package size that is no number")?;
        let file = folder.join(name);
        let length = |file: &Path| fs::metadata(file).map_or(0, |metadata| metadata.len());
        if length(&file) == size {
            return Ok(file);
        }

        let bar = process::byte_bar(&format!("fetching {package}"), size);
        let finished = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                let partial = self.root.join("cache/archives/partial").join(name);
                while !finished.load(Ordering::Relaxed) {
                    bar.set_position(length(&file).max(length(&partial)));
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let result = process::output(
                self.command("apt-get").args(["download", "-q", package]).current_dir(&folder),
            );
            finished.store(true, Ordering::Relaxed);
            result
        });
        bar.finish_and_clear();
        result?;
        println!("fetched {package} ({} KiB)", size.div_ceil(1024));
        Ok(file)
    }

    /// Downloads a package and all that it depends on, and returns their files.
    ///
    /// # Errors
    /// As apt's.
    pub fn download_with_dependencies(&self, package: &str) -> Result<Vec<PathBuf>> {
        process::run_with_spinner(
            &format!("fetching {package} and what it depends on"),
            self.command("apt-get")
                .args(["install", "-q", "-y", "--download-only", "--no-install-recommends"])
                // Nothing is installed, so nobody has to be kept out.
                .args(["-o", "Debug::NoLocking=1", package]),
        )?;
        let mut files = Vec::new();
        for entry in fs::read_dir(self.root.join("cache/archives"))? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Unpacks the one file of `package` (a `.deb`) that `pattern` matches,
    /// and writes it to `target`.
    ///
    /// # Errors
    /// When the package can't be read or holds no such file.
    pub fn extract(&self, package: &Path, pattern: &str, target: &Path) -> Result<()> {
        let files = self.unpack(package, &[pattern])?;
        let [file] = &files[..] else {
            bail!("{} holds {} files {pattern}, not one", package.display(), files.len());
        };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, target).with_context(|| format!("can't write {}", target.display()))?;
        Ok(())
    }

    /// Unpacks all files of `package` (a `.deb`) that one of `patterns` matches, and returns where
    /// they are until the next call.
    ///
    /// # Errors
    /// When the package can't be read.
    pub fn unpack(&self, package: &Path, patterns: &[&str]) -> Result<Vec<PathBuf>> {
        // `tar -O` of the whole package could match twice; a folder shows what is there.
        let folder = self.root.join("unpacked");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let package_file = package.display().to_string();
        let mut command = Command::new("sh");
        command.args(["-c", UNPACK, "sh", &package_file]).arg(&folder).args(patterns);
        process::output(&mut command)?;
        let mut files = Vec::new();
        collect_files(&folder, &mut files)?;
        files.sort();
        Ok(files)
    }
}

/// Unpacks from package $1 into folder $2 what the patterns behind match. tar fails for a pattern
/// that matches nothing, which is no fault here; damage is, and dpkg-deb finds it.
const UNPACK: &str = "package=$1; folder=$2; shift 2
    dpkg-deb --fsys-tarfile \"$package\" > \"$folder.tar\" || exit 1
    tar -x -f \"$folder.tar\" -C \"$folder\" --wildcards \"$@\" 2> /dev/null
    rm \"$folder.tar\"";

fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_files(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_found_in_both_formats() {
        let one_line = "# deb http://no.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k] http://a.example/debian bookworm main\n\
            deb-src http://no.example/debian bookworm main\n\
            deb http://b.example/debian-security bookworm-security main\n";
        let deb822 = "Types: deb\n# URIs: http://no.example/debian\n\
            URIs: http://c.example/debian\nSuites: bookworm bookworm-updates\n\n\
            Types: deb\nURIs: http://d.example/debian\nSuites: trixie\n";
        let pair = |uri: &str, suite: &str| (uri.to_string(), suite.to_string());
        assert_eq!(
            archives(one_line),
            [
                pair("http://a.example/debian", "bookworm"),
                pair("http://b.example/debian-security", "bookworm-security"),
            ]
        );
        assert_eq!(
            archives(deb822),
            [
                pair("http://c.example/debian", "bookworm"),
                pair("http://c.example/debian", "bookworm-updates"),
                pair("http://d.example/debian", "trixie"),
            ]
        );
    }

    #[test]
    fn the_archive_of_the_release_is_preferred_to_that_of_another() {
        let pair = |uri: &str, suite: &str| (uri.to_string(), suite.to_string());
        let other = pair("http://d.example/debian/", "trixie");
        let security = pair("http://s.example/debian-security", "trixie-security");
        let release = pair("http://c.example/pub", "bookworm");
        for (archives, expected) in [
            (vec![other.clone(), release.clone()], Some("http://c.example/pub")),
            (vec![security.clone(), other], Some("http://d.example/debian/")),
            (vec![security], None),
        ] {
            assert_eq!(pick_mirror(&archives).as_deref(), expected);
        }
    }
}
