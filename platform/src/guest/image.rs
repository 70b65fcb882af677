//! The header of an arm64 Linux `Image` (Linux Documentation/arch/arm64/booting.rst, section 4).

/// Bytes that must be there to read a header.
pub const HEADER_BYTES: usize = 64;
/// "ARM\x64", little-endian.
const MAGIC: u32 = 0x644d_5241;
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const MAGIC_OFFSET: usize = 56;
/// Offset of kernels before 3.17, whose header says nothing of use.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
const FLAG_BIG_ENDIAN: u64 = 1 << 0;
const FLAG_ANYWHERE: u64 = 1 << 3;
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Where a self-extracting EFI image says "zimg".
const EFI_ZBOOT_OFFSET: usize = 4;

/// Why a file isn't a kernel. The caller names the VM and the file in front of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Shorter than a header.
    #[error("{bytes} bytes are too few for an arm64 Image")]
    TooShort {
        /// What there is.
        bytes: usize,
    },
    /// Compressed by gzip.
    #[error("the arm64 Image is compressed; unpack it with gunzip")]
    Gzip,
    /// A self-extracting EFI image.
    #[error("this is an EFI program that unpacks a kernel; take the plain arch/arm64/boot/Image")]
    EfiZboot,
    /// Something else.
    #[error(
        "not an arm64 Image (magic {found:#010x} at offset 56); give a raw Image or an ELF file"
    )]
    Magic {
        /// What is there in place of "ARM\x64".
        found: u32,
    },
    /// The size in the header is less than that of the file or absurd.
    #[error(
        "the arm64 Image says that it needs {image_size:#x} bytes at offset {text_offset:#x}, which can't be"
    )]
    Size {
        /// `image_size` of the header.
        image_size: u64,
        /// `text_offset` of the header.
        text_offset: u64,
    },
}

/// What a kernel asks of its place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Distance of the image from a 2 MiB boundary, in bytes.
    pub text_offset: u64,
    /// Memory that the kernel takes from its first byte, with what isn't in the file, in bytes.
    pub image_size: u64,
    /// The kernel runs big-endian.
    pub big_endian: bool,
    /// The 2 MiB boundary needn't be close to the start of memory.
    pub anywhere: bool,
}

impl KernelImage {
    /// Reads the header at the start of `file`. `file_size` is the length of the whole file in bytes, of which `file`
    /// may be the first part.
    ///
    /// # Errors
    /// An [`ImageError`] that says what the file is instead.
    pub fn parse(file: &[u8], file_size: u64) -> Result<Self, ImageError> {
        if file.starts_with(&GZIP) {
            return Err(ImageError::Gzip);
        }
        if file.starts_with(b"MZ")
            && file.get(EFI_ZBOOT_OFFSET..).is_some_and(|rest| rest.starts_with(b"zimg"))
        {
            return Err(ImageError::EfiZboot);
        }
        let too_short = ImageError::TooShort { bytes: file.len() };
        let header: &[u8; HEADER_BYTES] = file.first_chunk().ok_or(too_short)?;
        let field = |offset| double_word(header, offset).ok_or(too_short);
        let found = field(MAGIC_OFFSET).map(|field| field as u32)?;
        if found != MAGIC {
            return Err(ImageError::Magic { found });
        }
        let flags = field(FLAGS)?;
        let header_size = field(IMAGE_SIZE)?;
        // Old kernels leave all fields but the magic number to the imagination. They need some memory beyond the file
        // for what starts as zeros; nobody knows how much, so they get the size of the file again.
        let (text_offset, image_size) = match header_size {
            0 => (OLD_TEXT_OFFSET, file_size.saturating_mul(2)),
            size => (field(TEXT_OFFSET)?, size),
        };
        if text_offset.checked_add(image_size).is_none() {
            return Err(ImageError::Size { image_size, text_offset });
        }
        Ok(Self {
            text_offset,
            image_size: image_size.max(file_size),
            big_endian: flags & FLAG_BIG_ENDIAN != 0,
            anywhere: flags & FLAG_ANYWHERE != 0,
        })
    }
}

fn double_word(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[8..16].copy_from_slice(&text_offset.to_le_bytes());
        header[16..24].copy_from_slice(&image_size.to_le_bytes());
        header[24..32].copy_from_slice(&flags.to_le_bytes());
        header[56..60].copy_from_slice(b"ARM\x64");
        header
    }

    #[test]
    fn a_modern_header_says_how_much_memory_the_kernel_needs() {
        let image = KernelImage::parse(&header(0, 0x200_0000, 0xa), 0x180_0000).unwrap();
        let expected = KernelImage {
            text_offset: 0,
            image_size: 0x200_0000,
            big_endian: false,
            anywhere: true,
        };
        assert_eq!(image, expected);
        assert!(KernelImage::parse(&header(0, 1, 1), 1).unwrap().big_endian);
    }

    #[test]
    fn a_kernel_takes_at_least_what_its_file_has() {
        assert_eq!(KernelImage::parse(&header(0, 0x1000, 0), 0x3000).unwrap().image_size, 0x3000);
    }

    #[test]
    fn an_old_kernel_stands_512_kib_into_memory() {
        let image = KernelImage::parse(&header(0x1234, 0, 0), 0x10_0000).unwrap();
        assert_eq!((image.text_offset, image.image_size), (0x8_0000, 0x20_0000));
    }

    #[test]
    fn other_files_are_named() {
        let cases: [(Vec<u8>, &str); 5] = [
            (vec![0x1f, 0x8b, 8, 0], "the arm64 Image is compressed; unpack it with gunzip"),
            (
                b"MZ\0\0zimg".to_vec(),
                "this is an EFI program that unpacks a kernel; take the plain arch/arm64/boot/Image",
            ),
            (vec![0; 63], "63 bytes are too few for an arm64 Image"),
            (
                vec![0x11; 64],
                "not an arm64 Image (magic 0x11111111 at offset 56); give a raw Image or an ELF file",
            ),
            (
                header(u64::MAX, 2, 0),
                "the arm64 Image says that it needs 0x2 bytes at offset 0xffffffffffffffff, which can't be",
            ),
        ];
        for (file, message) in cases {
            assert_eq!(KernelImage::parse(&file, 0x1000).unwrap_err().to_string(), message);
        }
    }
}
