//! What the image takes: its parts in the file and in memory, and how deep its stacks have been.

use std::fs;

use anyhow::{Context, Result, ensure};
use object::elf::{SHF_ALLOC, SHT_NOBITS};
use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{LittleEndian, ReadRef};

use crate::arch::Arch;
use crate::bench::budget::{self, Budget};
use crate::bench::figures::Figures;
use crate::bench::{OTHER_PROFILE, machine};
use crate::build;
use crate::workspace::Workspace;

/// What the image logs when it turns the machine off, before and after the number of bytes.
const MARK: (&str, &str) = ("stacks: at most ", " of ");

/// The part of the image that a section belongs to.
fn part(name: &str, loaded: bool) -> &'static str {
    match name {
        _ if !loaded => "bss",
        _ if name.starts_with(".text") => "text",
        _ if name.starts_with(".data") || name.starts_with(".got") => "data",
        _ if name.starts_with(".rela") || name.starts_with(".dyn") => "relocations",
        _ => "rodata",
    }
}

/// Bytes by part of the linked file `elf`.
fn parts<'data, R: ReadRef<'data>>(elf: R) -> Result<Figures> {
    let file = ElfFile64::<LittleEndian, R>::parse(elf).context("not an ELF file")?;
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, elf)?;
    let mut figures = Figures::new();
    for section in sections.iter() {
        if section.sh_flags(endian).0 & SHF_ALLOC.0 != 0 {
            let name = String::from_utf8_lossy(sections.section_name(endian, section)?);
            let part = part(&name, section.sh_type(endian) != SHT_NOBITS);
            *figures.entry(part.to_string()).or_default() += section.sh_size(endian);
        }
    }
    Ok(figures)
}

/// The number in what the image logs about its stacks.
fn mark(output: &str) -> Result<u64> {
    let (before, after) = MARK;
    let (_, rest) = output.split_once(before).context("the image says nothing of its stacks")?;
    let (bytes, _) = rest.split_once(after).context("the image says nothing of its stacks")?;
    bytes.parse().with_context(|| format!("{bytes:?} is no number of bytes"))
}

/// Measures what is built.
///
/// # Errors
/// When the image can't be read, or does not run.
pub fn measure(workspace: &Workspace, arch: Arch) -> Result<Figures> {
    let elf = build::artifact(workspace, arch, arch.program());
    let data = fs::read(&elf).with_context(|| format!("can't read {}", elf.display()))?;
    let mut figures = parts(&*data).with_context(|| elf.display().to_string())?;
    figures.insert("file".into(), fs::metadata(workspace.image(arch))?.len());
    if arch == Arch::Aarch64 {
        figures.insert("stack".into(), mark(&machine::to_the_end(workspace, "hostile")?)?);
    }
    Ok(figures)
}

/// The name of an architecture's sizes among the budgets.
fn budget_name(arch: Arch) -> String {
    format!("size-{arch}")
}

/// Prints what is built, in bytes, and makes it the budget if `accept`.
///
/// # Errors
/// As [`measure`].
pub fn report(workspace: &Workspace, arch: Arch, accept: bool) -> Result<()> {
    let file = budget::file(workspace);
    let mut budget = Budget::read(&file)?;
    let figures = measure(workspace, arch)?;
    println!("{:<12} {:>10} {:>10}", "bytes", "now", "budget");
    for (part, bytes) in &figures {
        let limit = budget.of(&budget_name(arch), part);
        println!("{part:<12} {bytes:>10} {:>10}", limit.map_or("-".into(), |b| b.to_string()));
    }
    if accept {
        ensure!(machine::is_release(), "this size can't be the budget: {OTHER_PROFILE}");
        budget.set(&budget_name(arch), &figures);
        budget.write(&file)?;
    }
    Ok(())
}

/// The gate's part: compares with the budget.
///
/// # Errors
/// As [`measure`], and when a part is above its budget.
pub fn check(workspace: &Workspace, arch: Arch) -> Result<()> {
    println!("\n== size of the image for {arch}");
    if !machine::is_release() {
        println!("left out: {OTHER_PROFILE}");
        return Ok(());
    }
    let budget = Budget::read(&budget::file(workspace))?;
    budget.check_size(&budget_name(arch), &measure(workspace, arch)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_belongs_to_a_part() {
        for (name, loaded, expected) in [
            (".text.hot", true, "text"),
            (".rodata", true, "rodata"),
            (".rela.dyn", true, "relocations"),
            (".data", true, "data"),
            (".bss", false, "bss"),
        ] {
            assert_eq!(part(name, loaded), expected, "{name}");
        }
    }

    #[test]
    fn the_mark_of_the_stacks_is_found_in_the_log() {
        let log = "bunshin: vm \"a\": off\nbunshin: stacks: at most 5120 of 65536 bytes used\n";
        assert_eq!(mark(log).unwrap(), 5120);
        assert!(mark("bunshin: vm \"a\": off\n").is_err());
    }
}
