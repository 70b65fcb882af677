//! Disk images: only what is not zero goes into the bundle.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process;

/// Unit of a disk's size and of the ranges that are not zero, in bytes.
pub const BLOCK: usize = 4096;

/// A disk image without its blocks of zeroes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseImage {
    /// Size of the disk in bytes.
    pub size: u64,
    /// First block and number of blocks of each range that is not zero, ascending.
    pub extents: Vec<(u32, u32)>,
    /// The bytes of all ranges, one after the other.
    pub data: Vec<u8>,
}

/// A file system that the tool can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// That of Linux.
    Ext4,
}

/// Seconds since 1970 at which every file system is made, so that the same
/// input gives the same bundle.
const TIME_OF_FORMAT: &str = "1";

impl SparseImage {
    /// A disk of `size` bytes, all zero.
    pub fn blank(size: u64) -> Self {
        SparseImage { size, ..SparseImage::default() }
    }

    /// Reads the file `path`. The disk has `size` bytes, or as many as the file, rounded up to
    /// whole blocks.
    ///
    /// # Errors
    /// When the file can't be read, is empty, or is larger than `size`.
    pub fn read(path: &Path, size: Option<u64>) -> Result<Self> {
        let what = || path.display().to_string();
        let file = File::open(path).with_context(|| format!("can't read {}", what()))?;
        let length = file.metadata()?.len();
        let size = size.unwrap_or(length.next_multiple_of(BLOCK as u64));
        ensure!(size > 0, "{}: the image is empty", what());
        ensure!(length <= size, "{}: the image has {length} bytes; size is less", what());
        Self::collect(file, size).with_context(what)
    }

    fn collect(mut from: impl Read, size: u64) -> Result<Self> {
        let mut image = SparseImage::blank(size);
        let mut block = [0; BLOCK];
        for number in 0.. {
            let length = fill(&mut from, &mut block)?;
            block[length..].fill(0);
            if block != [0; BLOCK] {
                match image.extents.last_mut() {
                    Some((first, count)) if *first + *count == number => *count += 1,
                    _ => image.extents.push((number, 1)),
                }
                image.data.extend_from_slice(&block);
            }
            if length < BLOCK {
                break;
            }
        }
        Ok(image)
    }

    /// A disk of `size` bytes with an empty file system called `label`.
    ///
    /// # Errors
    /// When the program that makes it is not installed or refuses.
    pub fn format(format: Format, label: &str, size: u64) -> Result<Self> {
        let Format::Ext4 = format;
        let folder = Folder::create()?;
        let path = folder.0.join("disk");
        File::create(&path)?.set_len(size)?;
        let program = find_mkfs("mkfs.ext4").context(
            "mkfs.ext4 is not installed, which makes file systems; install the package e2fsprogs",
        )?;
        let mut command = Command::new(program);
        // Labels have 16 bytes.
        let label: String = label.chars().take(16).collect();
        let id = identifier(&label, size);
        command
            .args(["-q", "-F", "-L", &label, "-U", &id])
            .args(["-E", &format!("hash_seed={id},lazy_itable_init=0,lazy_journal_init=0")])
            .arg(&path)
            .env("E2FSPROGS_FAKE_TIME", TIME_OF_FORMAT)
            .env("SOURCE_DATE_EPOCH", TIME_OF_FORMAT);
        process::output(&mut command)?;
        Self::read(&path, Some(size))
    }
}

/// An identifier of a file system that depends on its name and size only.
fn identifier(label: &str, size: u64) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{label} {size}"));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn find_mkfs(program: &str) -> Option<PathBuf> {
    // Not every user has these folders on the path.
    let others = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
    process::find(program).or_else(|| others.into_iter().find(|file| file.is_file()))
}

/// Reads until `block` is full or the end.
fn fill(from: &mut impl Read, block: &mut [u8]) -> Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match from.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => bail!(error),
        }
    }
    Ok(length)
}

/// A folder that goes away again.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bunshin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is cleaned with all other temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(image: &SparseImage) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(image.size).unwrap()];
        let mut data = &image.data[..];
        for (first, count) in &image.extents {
            let (now, later) = data.split_at(*count as usize * BLOCK);
            bytes[*first as usize * BLOCK..][..now.len()].copy_from_slice(now);
            data = later;
        }
        assert!(data.is_empty());
        bytes
    }

    #[test]
    fn zeroes_are_left_out_and_nothing_else() {
        let mut disk = vec![0; 10 * BLOCK];
        for at in [0, BLOCK - 1, 3 * BLOCK, 4 * BLOCK + 5, 9 * BLOCK] {
            disk[at] = 0x5a;
        }
        let image = SparseImage::collect(&disk[..], disk.len() as u64).unwrap();
        assert_eq!(image.extents, [(0, 1), (3, 2), (9, 1)]);
        assert_eq!(expand(&image), disk);
        let image = SparseImage::collect(&disk[..], 20 * BLOCK as u64).unwrap();
        assert_eq!(expand(&image)[..disk.len()], disk);
        assert!(
            SparseImage::collect(&[0; 3 * BLOCK][..], 3 * BLOCK as u64).unwrap().data.is_empty()
        );
    }

    #[test]
    fn a_file_must_be_there_and_fit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        assert!(SparseImage::read(&file, None).is_err());
        fs::write(&file, []).unwrap();
        assert!(SparseImage::read(&file, None).is_err());
        fs::write(&file, [1; 2 * BLOCK]).unwrap();
        assert_eq!(SparseImage::read(&file, None).unwrap().size, 2 * BLOCK as u64);
        let error = SparseImage::read(&file, Some(BLOCK as u64)).unwrap_err().to_string();
        assert!(error.ends_with("the image has 8192 bytes; size is less"), "{error}");
    }

    #[test]
    fn a_made_file_system_is_sparse_and_always_the_same() {
        if find_mkfs("mkfs.ext4").is_none() {
            return; // e2fsprogs is not installed
        }
        let image = SparseImage::format(Format::Ext4, "web-0", 64 << 20).unwrap();
        assert_eq!(image, SparseImage::format(Format::Ext4, "web-0", 64 << 20).unwrap());
        assert!(image.data.len() < 4 << 20, "{} bytes", image.data.len());
        // The magic number of the superblock at byte 1024.
        assert_eq!(image.data[1024 + 0x38..][..2], [0x53, 0xef]);
    }
}
