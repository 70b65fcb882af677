//! What the user asks for, and where the hypervisor is.

use std::ops::Range;
use std::path::PathBuf;

/// The instructions that mark a place, of AArch64 and of PCs: `HINT #127` (Arm ARM C6.2.126), which no architecture version
/// gives a meaning and every CPU takes for a `NOP`; and `XCHG EBX, EBX`, which compilers have no use for.
pub(crate) const MARKS: [&[u8]; 2] = [&0xd503_2fff_u32.to_le_bytes(), &[0x87, 0xdb]];

/// The options of the plugin.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Physical addresses of the hypervisor's image.
    pub(crate) hypervisor: Range<u64>,
    /// Where lines go.
    pub(crate) out: PathBuf,
}

impl Options {
    /// Reads `NAME=VALUE` options.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Options::default();
        for word in words {
            match word.split_once('=') {
                Some(("hypervisor", range)) => {
                    let range = range
                        .split_once('-')
                        .and_then(|(first, end)| Some(hexadecimal(first)?..hexadecimal(end)?));
                    options.hypervisor =
                        range.ok_or_else(|| format!("{word}: give hypervisor=0xFIRST-0xEND"))?;
                }
                Some(("out", file)) if !file.is_empty() => options.out = file.into(),
                _ => return Err(format!("{word}: there are only hypervisor= and out=")),
            }
        }
        if options.out.as_os_str().is_empty() {
            return Err("give out=FILE".into());
        }
        Ok(options)
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Tells addresses in the emulator's own memory from each other.
///
/// The machine's RAM is one piece of the emulator's memory. A hypervisor is entered where it was loaded, so its first
/// instruction says how far both are apart.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    offset: Option<u64>,
}

impl Memory {
    /// Whether an instruction at `host` in the emulator's memory is in `range` of the machine's. `virtual_address` is the
    /// one that the machine knows it by.
    pub(crate) fn holds(&mut self, range: &Range<u64>, host: u64, virtual_address: u64) -> bool {
        if self.offset.is_none() && range.contains(&virtual_address) {
            self.offset = Some(host.wrapping_sub(virtual_address));
        }
        self.offset.is_some_and(|offset| range.contains(&host.wrapping_sub(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused_with_the_word_that_is_wrong() {
        let options = |text: &str| Options::parse(text.split_whitespace());
        let expected = Options { hypervisor: 0x4020_0000..0x4030_0000, out: "a".into() };
        assert_eq!(options("hypervisor=0x40200000-0x40300000 out=a"), Ok(expected));
        assert_eq!(options("out=a").map(|options| options.hypervisor), Ok(0..0));
        for (text, wrong) in [
            ("", "out=FILE"),
            ("out=", "out="),
            ("hypervisor=1-2 out=a", "hypervisor=1-2"),
            ("hypervisor=0x1 out=a", "hypervisor=0x1"),
            ("out=a other", "other"),
        ] {
            assert!(options(text).unwrap_err().contains(wrong), "{text}");
        }
    }

    #[test]
    fn the_mark_is_a_hint_without_a_meaning() {
        const HINT: u32 = 0xd503_201f;
        assert_eq!(MARKS[0], (HINT | 127 << 5).to_le_bytes());
    }

    #[test]
    fn the_hypervisors_first_instruction_says_where_memory_is() {
        let mut memory = Memory::default();
        let range = 0x4020_0000..0x4030_0000;
        // Firmware, elsewhere in the emulator's memory.
        assert!(!memory.holds(&range, 0x7e00_0000_0000, 0xffff_fff0));
        assert!(memory.holds(&range, 0x7f00_0020_0000, 0x4020_0000));
        assert!(memory.holds(&range, 0x7f00_0020_1000, 0xffff_0000_0000_0000));
        assert!(!memory.holds(&range, 0x7f00_0000_0000, 0x4020_0000));
    }
}
