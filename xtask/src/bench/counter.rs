//! Counting every instruction of the emulated machine, with the plugin in `xtask/counter`.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSegment};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::build;
use crate::process;
use crate::workspace::Workspace;

/// Where QEMU's `virt` machine puts an arm64 `Image` whose offset is 0.
const LOADED: u64 = 0x4020_0000;
/// Offset of `text_offset` in the header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).
const TEXT_OFFSET: Range<usize> = 8..16;

/// Instructions that were executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// By the hypervisor, where it is known which are its.
    pub hypervisor: u64,
    /// By everything else.
    pub others: u64,
}

impl Count {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.hypervisor + self.others
    }

    /// What came after `earlier`.
    pub const fn since(self, earlier: Self) -> Self {
        Count {
            hypervisor: self.hypervisor.saturating_sub(earlier.hypervisor),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}

/// The instruction that the counter takes for a mark (`xtask/counter`): `HINT #127`, a `NOP` for every CPU, or `XCHG EBX, EBX`,
/// which clears the upper half of RBX.
pub const fn mark(arch: Arch) -> &'static [u8] {
    const HINT: [u8; 4] = 0xd503_2fff_u32.to_le_bytes();
    match arch {
        Arch::Aarch64 => &HINT,
        Arch::X86_64 => &[0x87, 0xdb],
    }
}

/// Builds the counter and returns its file.
///
/// # Errors
/// As Cargo's.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    process::run(build::cargo(workspace).args([
        "build",
        "--release",
        "-p",
        "instruction-counter",
    ]))?;
    Ok(workspace.target().join("release/libinstruction_counter.so"))
}

/// Physical addresses of the hypervisor's `image`: an arm64 `Image`, or an ELF file on PCs.
///
/// # Errors
/// When it can't be read or is loaded somewhere else.
pub fn range(image: &Path) -> Result<Range<u64>> {
    let data = fs::read(image).with_context(|| image.display().to_string())?;
    if let Ok(elf) = object::File::parse(&*data) {
        let segments = || elf.segments().filter(|segment| segment.size() > 0);
        let first = segments().map(|segment| segment.address()).min();
        let end = segments().map(|segment| segment.address() + segment.size()).max();
        return first.zip(end).map(|(first, end)| first..end).context("no segment");
    }
    let offset = data.get(TEXT_OFFSET).context("the image is cut off")?;
    ensure!(offset.iter().all(|byte| *byte == 0), "the image asks for an address of its own");
    Ok(LOADED..LOADED + data.len() as u64)
}

/// Makes the emulator count into the file `out`.
pub fn add(command: &mut Command, counter: &Path, hypervisor: &Range<u64>, out: &Path) {
    // The emulator's own option syntax: a comma is doubled.
    let file = |path: &Path| path.display().to_string().replace(',', ",,");
    let Range { start, end } = hypervisor;
    command.arg("-plugin").arg(format!(
        "{},hypervisor={start:#x}-{end:#x},out={}",
        file(counter),
        file(out)
    ));
}

/// Reads what the counter wrote into `file`: the count at each mark.
///
/// # Errors
/// When it can't be read or holds something else.
pub fn read(file: &Path) -> Result<Vec<Count>> {
    parse(&fs::read_to_string(file).with_context(|| file.display().to_string())?)
}

fn parse(text: &str) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [what, hypervisor, others] = words[..] else { bail!("not a count: {line:?}") };
        let count = Count { hypervisor: hypervisor.parse()?, others: others.parse()? };
        if what == "mark" {
            counts.push(count);
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn count(hypervisor: u64, others: u64) -> Count {
        Count { hypervisor, others }
    }

    #[test]
    fn lines_of_the_counter_are_read() {
        let counts = parse("mark 11 20\nmark 12 30\nend 13 40\n").unwrap();
        assert_eq!(counts, [count(11, 20), count(12, 30)]);
        assert_eq!(counts[1].since(counts[0]), count(1, 10));
        assert!(parse("mark 1\n").is_err() && parse("mark 1 x\n").is_err());
    }
}
