//! Kernel files: what they are, and what has to be taken off before a
//! hypervisor can load them.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

use crate::arch::Arch;

/// Unpacked kernels larger than this are a mistake or an attack on the disk.
const LIMIT: u64 = 1 << 30;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ELF: &[u8] = b"\x7fELF";
/// Offset and value of the magic number in the header of an arm64 `Image`
/// (Linux, Documentation/arch/arm64/booting.rst).
const IMAGE_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");
/// Offset and value of the mark of an EFI `zboot` image (Linux,
/// drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_MAGIC: (usize, &[u8]) = (4, b"zimg");
const ZBOOT_PAYLOAD_OFFSET: usize = 8;
const ZBOOT_PAYLOAD_SIZE: usize = 12;

/// Offset and value of the magic number in the setup header of a `bzImage`
/// (Linux, Documentation/arch/x86/boot.rst).
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Multiboot 1, 3.1: the header is aligned, in the first bytes of the file, and its first three
/// words (magic, flags, checksum) add up to zero.
const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;
const MULTIBOOT_SEARCH: usize = 8192;
/// Offset of `e_machine` in ELF files of either class.
const ELF_MACHINE: usize = 18;

/// Peels compression and EFI `zboot` off `file` until a kernel shows that a guest on `arch` is
/// started from.
///
/// # Errors
/// When something else shows; the message says what would do.
pub fn unwrap(file: Vec<u8>, arch: Arch) -> Result<Vec<u8>> {
    let mut data = file;
    // Four layers are more than anyone has been seen to use.
    for _ in 0..4 {
        data = match &data[..] {
            d if d.starts_with(ELF) => {
                check_machine(d, arch)?;
                return Ok(data);
            }
            d if is_linux(d, arch) || (arch == Arch::X86_64 && is_multiboot(d)) => return Ok(data),
            d if d.starts_with(GZIP) || d.starts_with(ZSTD) => decompress(d)?,
            d if has(d, ZBOOT_MAGIC) => zboot_payload(d)?.to_vec(),
            d => bail!("{}", advice(d, arch)),
        };
    }
    bail!("more than four layers of compression")
}

/// Whether `kernel` is Linux in the form that guests on `arch` start from.
pub fn is_linux(kernel: &[u8], arch: Arch) -> bool {
    match arch {
        Arch::Aarch64 => has(kernel, IMAGE_MAGIC),
        Arch::X86_64 => has(kernel, BZIMAGE_MAGIC),
    }
}

fn is_multiboot(kernel: &[u8]) -> bool {
    let head = kernel.get(..MULTIBOOT_SEARCH).unwrap_or(kernel);
    let words: Vec<u32> =
        head.chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_le_bytes)).collect();
    words.windows(3).any(|header| {
        header.first() == Some(&MULTIBOOT_MAGIC)
            && header.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)) == 0
    })
}

fn check_machine(elf: &[u8], arch: Arch) -> Result<()> {
    let field = elf.get(ELF_MACHINE..).and_then(<[u8]>::first_chunk);
    let machine = field.map(|bytes| u16::from_le_bytes(*bytes)).context("a cut-off ELF file")?;
    ensure!(
        arch.elf_machines().contains(&machine),
        "an ELF file for another architecture (e_machine {machine}) than {arch}"
    );
    Ok(())
}

fn advice(data: &[u8], arch: Arch) -> String {
    let other = Arch::ALL.into_iter().find(|other| is_linux(data, *other));
    match (other, arch) {
        (Some(other), _) => format!("a Linux kernel for {other}, but this VM runs on {arch}"),
        (None, Arch::Aarch64) => format!(
            "neither an arm64 Image (bytes {:02x?} at 0x38), nor ELF, nor one of these in \
             gzip, zstd or EFI zboot; for a raw binary give `raw = {{ load = ADDRESS }}`",
            data.get(0x38..0x3c).unwrap_or_default()
        ),
        (None, Arch::X86_64) => format!(
            "neither a bzImage (bytes {:02x?} at 0x202), nor ELF with a PVH note or a Multiboot \
             header, nor a flat Multiboot kernel, nor one of these in gzip or zstd",
            data.get(0x202..0x206).unwrap_or_default()
        ),
    }
}

fn has(data: &[u8], (offset, value): (usize, &[u8])) -> bool {
    data.get(offset..).is_some_and(|rest| rest.starts_with(value))
}

fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    if data.starts_with(GZIP) {
        // Bytes behind the compressed data are padding or a signature.
        GzDecoder::new(data).take(LIMIT).read_to_end(&mut unpacked).context("damaged gzip data")?;
    } else {
        let decoder = StreamingDecoder::new(data).map_err(|e| anyhow::anyhow!("{e}"));
        let decoder = decoder.context("damaged zstd data")?;
        decoder.take(LIMIT).read_to_end(&mut unpacked).context("damaged zstd data")?;
    }
    ensure!((unpacked.len() as u64) < LIMIT, "unpacks to more than {} MiB", LIMIT >> 20);
    Ok(unpacked)
}

fn zboot_payload(data: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u32::from_le_bytes(bytes) as usize)
    };
    let payload = word(ZBOOT_PAYLOAD_OFFSET)
        .zip(word(ZBOOT_PAYLOAD_SIZE))
        .and_then(|(offset, size)| data.get(offset..offset.checked_add(size)?));
    let payload = payload.context("the payload of the EFI zboot image lies outside of the file")?;
    ensure!(
        payload.starts_with(GZIP) || payload.starts_with(ZSTD),
        "the EFI zboot image is compressed by neither gzip nor zstd"
    );
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn image() -> Vec<u8> {
        let mut image: Vec<u8> = (0..200).collect();
        image[0x38..0x3c].copy_from_slice(IMAGE_MAGIC.1);
        image
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn zboot(payload: &[u8]) -> Vec<u8> {
        let mut file = b"MZ\0\0zimg".to_vec();
        file.extend(64u32.to_le_bytes());
        file.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.resize(64, 0);
        file.extend(payload);
        file.extend([0; 16]);
        file
    }

    #[test]
    fn every_wrapping_comes_off() {
        let mut padded = gzip(&image());
        padded.extend([0; 100]);
        for (what, file) in [
            ("raw", image()),
            ("gzip", gzip(&image())),
            ("gzip with padding", padded),
            ("zstd", zstd(&image())),
            ("zboot gzip", zboot(&gzip(&image()))),
            ("zboot zstd", zboot(&zstd(&image()))),
        ] {
            assert_eq!(unwrap(file, Arch::Aarch64).unwrap(), image(), "{what}");
        }
    }

    fn elf(machine: u16) -> Vec<u8> {
        let mut file = b"\x7fELF".to_vec();
        file.resize(ELF_MACHINE, 0);
        file.extend(machine.to_le_bytes());
        file
    }

    fn bzimage() -> Vec<u8> {
        let mut image = vec![0; BZIMAGE_MAGIC.0];
        image.extend(BZIMAGE_MAGIC.1);
        image
    }

    fn multiboot(checksum: u32) -> Vec<u8> {
        [0, MULTIBOOT_MAGIC, 3, checksum].into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn an_architecture_takes_its_own_kernels() {
        let right = 0u32.wrapping_sub(MULTIBOOT_MAGIC + 3);
        for (what, file, arm, pc) in [
            ("Image", image(), true, false),
            ("bzImage", bzimage(), false, true),
            ("bzImage in zstd", zstd(&bzimage()), false, true),
            ("ELF for AArch64", elf(183), true, false),
            ("ELF for x86-64", elf(62), false, true),
            ("ELF for i386", elf(3), false, true),
            ("cut-off ELF", b"\x7fELF".to_vec(), false, false),
            ("Multiboot", multiboot(right), false, true),
            ("Multiboot with a wrong checksum", multiboot(right + 1), false, false),
        ] {
            assert_eq!(unwrap(file.clone(), Arch::Aarch64).is_ok(), arm, "{what} on AArch64");
            assert_eq!(unwrap(file, Arch::X86_64).is_ok(), pc, "{what} on x86-64");
        }
        let error = unwrap(bzimage(), Arch::Aarch64).unwrap_err().to_string();
        assert!(error.contains("Linux kernel for x86_64"), "{error}");
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_advice() {
        let mut outside = zboot(&gzip(&image()));
        outside[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut damaged = gzip(&image());
        damaged.truncate(30);
        let nested = (0..5).fold(image(), |data, _| gzip(&data));
        for (file, reason) in [
            (vec![0; 100], "raw = { load"),
            (vec![], "raw = { load"),
            (outside, "outside of the file"),
            (damaged, "damaged gzip"),
            (zboot(b"lzma"), "neither gzip nor zstd"),
            (nested, "four layers"),
            ([ZSTD, &[0xff; 9]].concat(), "damaged zstd"),
        ] {
            let error = format!("{:#}", unwrap(file, Arch::Aarch64).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
