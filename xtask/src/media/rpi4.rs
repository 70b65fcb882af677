//! A folder and an SD-card image for the Raspberry Pi 4.

use std::fs;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::StreamSlice;
use gpt_disk_types::{Chs, MasterBootRecord, MbrPartitionRecord, U32Le};

use super::Content;
use crate::arch::Arch;
use crate::workspace::Workspace;

/// Options of `cargo xtask image rpi4`.
#[derive(Debug, Args)]
pub struct Options {
    /// What the medium holds.
    #[command(flatten)]
    pub content: Content,
    /// Folder with the files of the board's firmware, to be put on the card too
    #[arg(long, value_name = "FOLDER")]
    pub firmware: Option<PathBuf>,
    /// Folder for what is made [default: rpi4 in the target folder]
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

const IMAGE: &str = "bunshin.img";
const BUNDLE: &str = "bundle.itb";
const CONFIGURATION: &str = "config.txt";
/// The image of the whole card.
const CARD: &str = "sdcard.img";

/// What the board cannot start without, from https://github.com/raspberrypi/firmware, folder boot.
const FIRMWARE: [&str; 3] = ["start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"];

/// What is taken along if it is there: PSCI, and the PL011 on the pins of the header.
const OPTIONAL_FIRMWARE: [&str; 2] = ["bl31.bin", "overlays/disable-bt.dtbo"];

/// Its boot loader reads this first. The console is the mini-UART on the header.
const SETTINGS: &str = "\
# Bunshin on a Raspberry Pi 4
arm_64bit=1
kernel=bunshin.img
initramfs bundle.itb followkernel
enable_gic=1
enable_uart=1
";

/// Added where the firmware folder has the overlay: the PL011 does not depend on the core's clock.
const PL011_SETTINGS: &str = "dtoverlay=disable-bt\n";
/// Added where it has Trusted Firmware-A.
const PSCI_SETTINGS: &str = "armstub=bl31.bin\n";

const SECTOR: u64 = 512;
/// Where the partition starts: cards like multiples of 4 MiB.
const PARTITION_START: u64 = 4 << 20;
/// The least that FAT32 with clusters of one sector can be, and some more.
const LEAST_PARTITION: u64 = 64 << 20;
/// FAT32 with logical block addresses.
const PARTITION_TYPE: u8 = 0x0c;
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Cylinder, head and sector of what has only a logical address.
const NO_CHS: Chs = Chs([0xfe, 0xff, 0xff]);

/// Makes the folder and the image.
///
/// # Errors
/// When a step fails, or a file of the firmware is missing in the folder that is given.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let firmware = match &options.firmware {
        Some(folder) => read_firmware(folder)?,
        None => Vec::new(),
    };
    let (image, bundle) = options.content.make(workspace, Arch::Aarch64)?;
    let image = fs::read(&image).with_context(|| image.display().to_string())?;
    let files = files(image, bundle, firmware);
    let default = workspace.target().join("rpi4");
    let folder = options.output.as_ref().unwrap_or(&default);
    for (name, data) in &files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, data).with_context(|| format!("can't write {}", path.display()))?;
    }
    let path = folder.join(CARD);
    fs::write(&path, card(&files)?).with_context(|| format!("can't write {}", path.display()))?;
    println!("{}: an SD card; write it with", path.display());
    println!("  sudo dd if={} of=/dev/sdX bs=4M conv=fsync", path.display());
    println!("or copy the other files of that folder to the first partition (FAT) of a card.");
    if options.firmware.is_none() {
        println!(
            "The card lacks the firmware of the board: {}.\n\
             Copy these files from https://github.com/raspberrypi/firmware/tree/stable/boot to it, \
             or give their folder with --firmware.",
            FIRMWARE.join(", ")
        );
    }
    Ok(())
}

/// A file's name on the card, and what it holds.
type File = (String, Vec<u8>);

fn files(image: Vec<u8>, bundle: Vec<u8>, firmware: Vec<File>) -> Vec<File> {
    let has = |name: &str| firmware.iter().any(|(known, _)| known == name);
    let mut settings = SETTINGS.to_string();
    if has("overlays/disable-bt.dtbo") {
        settings += PL011_SETTINGS;
    }
    if has("bl31.bin") {
        settings += PSCI_SETTINGS;
    }
    let mut files = vec![
        (CONFIGURATION.to_string(), settings.into_bytes()),
        (IMAGE.to_string(), image),
        (BUNDLE.to_string(), bundle),
    ];
    files.extend(firmware);
    files
}

fn read_firmware(folder: &Path) -> Result<Vec<File>> {
    let missing: Vec<_> =
        FIRMWARE.into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if !missing.is_empty() {
        bail!(
            "{} lacks {}; they are in https://github.com/raspberrypi/firmware/tree/stable/boot",
            folder.display(),
            missing.join(", ")
        );
    }
    let there = OPTIONAL_FIRMWARE.into_iter().filter(|name| folder.join(name).is_file());
    FIRMWARE
        .into_iter()
        .chain(there)
        .map(|name| {
            let path = folder.join(name);
            let data = fs::read(&path).with_context(|| path.display().to_string())?;
            Ok((name.to_string(), data))
        })
        .collect()
}

/// The image of a card with one partition that holds `files`.
fn card(files: &[File]) -> Result<Vec<u8>> {
    let content: u64 = files.iter().map(|(_, data)| data.len() as u64).sum();
    // Room for the tables of the file system, and for the user's firmware.
    let partition = (content + content / 32 + (32 << 20)).max(LEAST_PARTITION);
    let partition = partition.next_multiple_of(PARTITION_START);
    let size = PARTITION_START + partition;
    let mut disk = Cursor::new(vec![0; usize::try_from(size)?]);
    let sectors =
        |bytes: u64| u32::try_from(bytes / SECTOR).map(|sectors| U32Le(sectors.to_le_bytes()));
    let mut table: MasterBootRecord = bytemuck::Zeroable::zeroed();
    table.signature = MBR_SIGNATURE;
    table.partitions[0] = MbrPartitionRecord {
        boot_indicator: 0,
        start_chs: NO_CHS,
        os_indicator: PARTITION_TYPE,
        end_chs: NO_CHS,
        starting_lba: sectors(PARTITION_START)?,
        size_in_lba: sectors(partition)?,
    };
    disk.write_all(bytemuck::bytes_of(&table))?;
    let mut volume = StreamSlice::new(&mut disk, PARTITION_START, size)?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_label(*b"BUNSHIN    ");
    fatfs::format_volume(&mut volume, options)?;
    volume.seek(SeekFrom::Start(0))?;
    let system = FileSystem::new(&mut volume, FsOptions::new())?;
    for (name, data) in files {
        let mut folder = system.root_dir();
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_some() {
                folder = folder.create_dir(part)?;
            } else {
                folder.create_file(part)?.write_all(data)?;
            }
        }
    }
    system.unmount()?;
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn table(card: &[u8]) -> MasterBootRecord {
        bytemuck::pod_read_unaligned(&card[..512])
    }

    /// Reads a file back from the first partition of a card.
    fn read_back(card: &[u8], name: &str) -> Result<Vec<u8>> {
        let disk = Cursor::new(card.to_vec());
        let table = table(card);
        let start = u64::from(table.partitions[0].starting_lba.to_u32()) * SECTOR;
        let end = start + u64::from(table.partitions[0].size_in_lba.to_u32()) * SECTOR;
        let system = FileSystem::new(StreamSlice::new(disk, start, end)?, FsOptions::new())?;
        let mut data = Vec::new();
        system.root_dir().open_file(name)?.read_to_end(&mut data)?;
        Ok(data)
    }

    #[test]
    fn a_card_holds_what_was_put_on_it() {
        let firmware = vec![("overlays/disable-bt.dtbo".to_string(), b"overlay".to_vec())];
        let bundle: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let card = card(&files(b"image".to_vec(), bundle.clone(), firmware)).unwrap();
        assert_eq!(read_back(&card, BUNDLE).unwrap(), bundle);
        assert_eq!(read_back(&card, IMAGE).unwrap(), b"image");
        assert_eq!(read_back(&card, "overlays/disable-bt.dtbo").unwrap(), b"overlay");
        let settings = String::from_utf8(read_back(&card, CONFIGURATION).unwrap()).unwrap();
        assert!(settings.contains("dtoverlay=disable-bt"), "{settings}");
        assert!(!settings.contains("armstub"), "{settings}");
        assert_eq!(card[510..512], MBR_SIGNATURE);
        assert_eq!(table(&card).partitions[0].os_indicator, PARTITION_TYPE);
        assert_eq!(&card[PARTITION_START as usize + 82..][..5], b"FAT32");
    }

    #[test]
    fn missing_firmware_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("start4.elf"), b"").unwrap();
        let error = read_firmware(folder.path()).unwrap_err().to_string();
        assert!(error.contains("fixup4.dat, bcm2711-rpi-4-b.dtb"), "{error}");
        assert!(!error.contains("start4.elf"), "{error}");
    }
}
