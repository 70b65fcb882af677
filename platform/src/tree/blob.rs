//! The flattened format: header and token stream (Devicetree Specification 0.4, chapter 5).

use super::{MAX_BLOB_BYTES, TreeError};

/// First word of every blob.
const MAGIC: u32 = 0xd00d_feed;
/// The version that is read and written.
const VERSION: u32 = 17;
/// Version 17 is readable by readers of version 16.
const COMPATIBLE_VERSION: u32 = 16;
const HEADER_WORDS: usize = 10;
/// Length of the header, in bytes.
pub(super) const HEADER_BYTES: usize = HEADER_WORDS * 4;
/// Length of an entry of the reservation block, in bytes.
pub(super) const RESERVATION_BYTES: usize = 16;

pub(super) const BEGIN_NODE: u32 = 1;
pub(super) const END_NODE: u32 = 2;
pub(super) const PROPERTY: u32 = 3;
const NOP: u32 = 4;
pub(super) const END: u32 = 9;

/// Reads a big-endian word at `offset`.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// Reads a big-endian double word at `offset`.
pub(super) fn double_word(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_be_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// The string at `offset` without its NUL; `None` if there is no NUL.
pub(super) fn string(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    let length = rest.iter().position(|&byte| byte == 0)?;
    rest.get(..length)
}

/// The blocks of a blob, all inside of it.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    /// From the start of the reservation block to the end of the blob; it ends at its end mark.
    pub(super) reservations: &'a [u8],
    pub(super) structure: &'a [u8],
    /// Where `structure` starts in the blob.
    pub(super) structure_offset: usize,
    pub(super) strings: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// Checks the header.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let mut header = [0_u32; HEADER_WORDS];
        for (position, field) in header.iter_mut().enumerate() {
            *field = word(bytes, position.saturating_mul(4))
                .ok_or(TreeError::TooShort { bytes: bytes.len() })?;
        }
        let [
            magic,
            total,
            structure_offset,
            strings_offset,
            reservations_offset,
            version,
            compatible,
            _boot_cpu,
            strings_size,
            structure_size,
        ] = header;
        if magic != MAGIC {
            return Err(TreeError::Magic { found: magic });
        }
        if version < VERSION || compatible > VERSION {
            return Err(TreeError::Version { version, compatible });
        }
        let total = total as usize;
        if total > MAX_BLOB_BYTES {
            return Err(TreeError::TooLarge { bytes: total });
        }
        let bytes = bytes
            .get(..total)
            .ok_or(TreeError::Truncated { promised: total, bytes: bytes.len() })?;
        let block = |block, offset: u32, size: u32, alignment: u32| {
            let end = (offset as usize).checked_add(size as usize);
            end.filter(|_| offset.is_multiple_of(alignment))
                .and_then(|end| bytes.get(offset as usize..end))
                .ok_or(TreeError::Block { block, offset })
        };
        Ok(Self {
            // Alignment of the reservation block to 8 is the rule, but nothing here depends on it.
            reservations: bytes.get(reservations_offset as usize..).ok_or(TreeError::Block {
                block: "memory reservation block",
                offset: reservations_offset,
            })?,
            structure: block("structure block", structure_offset, structure_size, 4)?,
            structure_offset: structure_offset as usize,
            strings: block("strings block", strings_offset, strings_size, 1)?,
        })
    }
}

/// Writes a header for blocks that follow it closely, in the order reservations, structure, strings. The three sizes
/// are in bytes; the answer is `None` if one of the sums exceeds 32 bits.
pub(super) fn header(
    reservations: usize,
    structure: usize,
    strings: usize,
) -> Option<[u8; HEADER_BYTES]> {
    let structure_offset = HEADER_BYTES.checked_add(reservations)?;
    let strings_offset = structure_offset.checked_add(structure)?;
    let total = strings_offset.checked_add(strings)?;
    let number = |number: usize| u32::try_from(number).ok();
    let fields = [
        MAGIC,
        number(total)?,
        number(structure_offset)?,
        number(strings_offset)?,
        number(HEADER_BYTES)?,
        VERSION,
        COMPATIBLE_VERSION,
        0,
        number(strings)?,
        number(structure)?,
    ];
    let mut header = [0; HEADER_BYTES];
    for (bytes, field) in header.chunks_exact_mut(4).zip(fields) {
        bytes.copy_from_slice(&field.to_be_bytes());
    }
    Some(header)
}

/// One token of the structure block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    BeginNode { name: &'a [u8] },
    EndNode,
    Property { name: u32, value: &'a [u8] },
    End,
}

/// Reads the tokens of a structure block, skipping NOPs.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    block: &'a [u8],
    offset: usize,
}

impl<'a> Tokens<'a> {
    /// Starts at `offset` in `block`, where a token must be.
    pub(super) fn new(block: &'a [u8], offset: usize) -> Self {
        Self { block, offset }
    }

    /// Where the next token starts.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The next token, or what is wrong with it.
    pub(super) fn next(&mut self) -> Result<Token<'a>, &'static str> {
        loop {
            let kind = self.word()?;
            return Ok(match kind {
                BEGIN_NODE => {
                    let name =
                        string(self.block, self.offset).ok_or("the node's name has no end")?;
                    // The name's NUL is there, so the sum is inside of the block.
                    self.skip(name.len().saturating_add(1))?;
                    Token::BeginNode { name }
                }
                END_NODE => Token::EndNode,
                PROPERTY => {
                    let length = self.word()? as usize;
                    let name = self.word()?;
                    let end =
                        self.offset.checked_add(length).ok_or("the value's length is absurd")?;
                    let value = self
                        .block
                        .get(self.offset..end)
                        .ok_or("the value reaches beyond the block")?;
                    self.skip(length)?;
                    Token::Property { name, value }
                }
                NOP => continue,
                END => Token::End,
                _ => return Err("there is no such token"),
            });
        }
    }

    fn word(&mut self) -> Result<u32, &'static str> {
        let word = word(self.block, self.offset).ok_or("the structure block ends here")?;
        self.skip(4)?;
        Ok(word)
    }

    /// Moves on by `bytes` and to the next multiple of 4.
    fn skip(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.offset = self
            .offset
            .checked_add(bytes)
            .and_then(|offset| offset.checked_next_multiple_of(4))
            .ok_or("the offset is absurd")?;
        Ok(())
    }
}
