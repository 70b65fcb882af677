//! Disks: what was written lasts.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xtask::arch::Arch;
use xtask::disk::{Format, SparseImage};
use xtask::vmfile::VmFile;

use crate::monitor::{SHELL, focus_on, memory, shell};
use crate::{Case, case, vmfile};

const LIMIT: Duration = Duration::from_secs(240);

/// Cuts of power in the normal run, and in the full one.
const CUTS: u32 = 2;
const CUTS_FULL: u32 = 50;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for arch in vmfile::architectures(full).iter().copied() {
        let cuts = if full { CUTS_FULL } else { CUTS };
        cases.push(case(format!("storage::power_cuts/{arch}"), move || power_cuts(arch, cuts)));
        cases.push(case(format!("storage::disks_outlive_a_reset/{arch}"), move || reset(arch)));
        cases.push(case(format!("storage::trimming_gives_memory_back/{arch}"), move || trim(arch)));
    }
    cases
}

/// Bytes of a block that the guest writes.
const BLOCK: usize = 4096;
/// Blocks that it writes in turn.
const BLOCKS: usize = 1024;
/// Where the partition starts.
const PARTITION: usize = 1 << 20;

/// A disk with one primary partition that a guest may use.
fn partitioned() -> Vec<u8> {
    let mut disk = vec![0; PARTITION + BLOCKS * BLOCK];
    let sectors = |bytes: usize| u32::try_from(bytes / 512).unwrap_or(u32::MAX).to_le_bytes();
    // Partition record 1: Linux, first sector, number of sectors.
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&sectors(PARTITION));
    disk[446 + 12..446 + 16].copy_from_slice(&sectors(BLOCKS * BLOCK));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// A guest writes numbered blocks and says of each when its flush has returned. Then the emulator
/// is killed, and the host's disk has to have all of them.
fn power_cuts(arch: Arch, cuts: u32) -> Result<()> {
    let text = format!(
        "[machine]\ndisks = [\"host.img\"]\n[[vm]]\nname = \"writer\"\nmemory = \"256M\"\n\
         kernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
         cmdline = \"quiet bunshin.run=record,vda,{BLOCKS}\"\n\
         [[vm.disk]]\nhost = 0\npartition = 1\n"
    );
    let file = VmFile::parse(&text, "storage.rs")?;
    for cut in 1..=cuts {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("host.img");
        fs::write(&image, partitioned())?;
        let mut emulator = vmfile::boot(&file, arch, folder.path(), LIMIT)?;
        emulator.expect("record: begin")?;
        emulator.expect_line("record: ")?;
        let moment = Duration::from_micros(RandomState::new().build_hasher().finish() % 3_000_000);
        std::thread::sleep(moment);
        emulator.kill()?;
        let text = emulator.text();
        judge(&text, &fs::read(&image)?).with_context(|| {
            format!("cut {cut}, {moment:?} after block 1\n{}", emulator.report())
        })?;
    }
    Ok(())
}

/// Compares what the guest said with what is on the disk.
fn judge(text: &str, disk: &[u8]) -> Result<()> {
    let flushed = |line: &str| line.split_once("record: ")?.1.trim().parse::<usize>().ok();
    // A last line without its end may lack digits.
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let Some(last) = complete.lines().filter_map(flushed).max() else {
        bail!("no block was written");
    };
    for number in last.saturating_sub(BLOCKS - 2).max(1)..=last {
        let slot = number % BLOCKS;
        let block = disk.get(PARTITION + slot * BLOCK..).and_then(|rest| rest.get(..BLOCK));
        let found = block.map(String::from_utf8_lossy).unwrap_or_default();
        ensure!(
            found == format!("{number:>BLOCK$}"),
            "block {number} of {last} is not on the disk, but {:?}",
            found.trim()
        );
    }
    ensure!(
        disk[..PARTITION] == partitioned()[..PARTITION],
        "the guest wrote before its partition"
    );
    Ok(())
}

/// A file on a disk image and one on the host's disk are there after a restart.
fn reset(arch: Arch) -> Result<()> {
    let folder = tempfile::tempdir()?;
    write_image(&folder.path().join("host.img"))?;
    let text = "[machine]\ndisks = [\"host.img\"]\n[[vm]]\nname = \"keeper\"\nmemory = \"256M\"\n\
         kernel = \"debian:6.12\"\ninitrd = \"busybox\"\n\
         cmdline = \"quiet bunshin.run=keep,vda,vdb\"\n\
         [[vm.disk]]\nsize = \"16M\"\nformat = \"ext4\"\n[[vm.disk]]\nhost = 0\n";
    let file = VmFile::parse(text, "storage.rs")?;
    let mut emulator = vmfile::boot(&file, arch, folder.path(), LIMIT)?;
    for expected in [
        "keep: restart",
        "keep: vda has the marker of vda",
        "keep: vdb has the marker of vdb",
        "run: keep ended with 0",
    ] {
        emulator.expect(expected)?;
    }
    emulator.finish().map(drop)
}

/// What a guest wrote to a disk image occupies the host's memory until the guest deletes it and says so.
fn trim(arch: Arch) -> Result<()> {
    const WRITTEN: u64 = 32 << 10;
    let text = "[[vm]]\nname = \"one\"\nmemory = \"128M\"\nkernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
         cmdline = \"quiet\"\n[[vm.disk]]\nsize = \"64M\"\nformat = \"ext4\"\n";
    let file = VmFile::parse(text, "storage.rs")?;
    let mut emulator = vmfile::boot(&file, arch, Path::new(""), LIMIT)?;
    emulator.expect(SHELL)?;
    let mut free = |work: &str| -> Result<u64> {
        let text = shell(&mut emulator, &format!("{work} && echo do''ne"))?;
        ensure!(text.ends_with("done"), "{text}");
        let (free, _) = memory(&mut emulator, "one")?;
        focus_on(&mut emulator, 1)?;
        Ok(free)
    };
    let before = free("cd /mnt/vda && touch x && sync")?;
    let full = free("dd if=/dev/urandom of=x bs=1M count=32 2> /dev/null && sync")?;
    let after = free("rm x && sync && fstrim /mnt/vda")?;
    let (taken, given) = (before.saturating_sub(full), after.saturating_sub(full));
    ensure!(taken >= WRITTEN, "32 MiB were written, and {taken} KiB taken");
    // The file's ends may share their blocks of 64 KiB with what stays.
    let ends = 4 * 64;
    ensure!(given + ends >= WRITTEN, "32 MiB were deleted, and {given} KiB given back");
    println!("{arch}: {taken} KiB taken, {given} KiB given back");
    Ok(())
}

/// Writes a disk with an empty file system.
fn write_image(path: &Path) -> Result<()> {
    let image = SparseImage::format(Format::Ext4, "host", 16 << 20)?;
    let mut bytes = vec![0; usize::try_from(image.size)?];
    let mut data = &image.data[..];
    for (first, count) in &image.extents {
        let (now, later) = data.split_at(*count as usize * BLOCK);
        bytes[*first as usize * BLOCK..][..now.len()].copy_from_slice(now);
        data = later;
    }
    Ok(fs::write(path, bytes)?)
}
