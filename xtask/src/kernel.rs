//! Kernel files: what they are, and what has to be taken off before a
//! hypervisor can load them.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

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

/// Peels compression and EFI `zboot` off `file` until an arm64 `Image` or an
/// ELF file shows.
///
/// # Errors
/// When something else shows; the message says what would do.
pub fn unwrap(file: Vec<u8>) -> Result<Vec<u8>> {
    let mut data = file;
    // Four layers are more than anyone has been seen to use.
    for _ in 0..4 {
        data = match &data[..] {
            d if has(d, IMAGE_MAGIC) || d.starts_with(ELF) => return Ok(data),
            d if d.starts_with(GZIP) || d.starts_with(ZSTD) => decompress(d)?,
            d if has(d, ZBOOT_MAGIC) => zboot_payload(d)?.to_vec(),
            d => bail!(
                "neither an arm64 Image (bytes {:02x?} at 0x38), nor ELF, nor one of these in \
                 gzip, zstd or EFI zboot; for a raw binary give `raw = {{ load = ADDRESS }}`",
                d.get(0x38..0x3c).unwrap_or_default()
            ),
        };
    }
    bail!("more than four layers of compression")
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
            assert_eq!(unwrap(file).unwrap(), image(), "{what}");
        }
        assert_eq!(unwrap(b"\x7fELF...".to_vec()).unwrap(), b"\x7fELF...");
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
            let error = format!("{:#}", unwrap(file).unwrap_err());
            assert!(error.contains(reason), "{error}");
        }
    }
}
