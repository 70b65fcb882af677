//! The tables of docs/performance.md, which this tool writes.

use std::fs;

use anyhow::{Context, Result};

use super::figures::Results;
use super::{plot, report};
use crate::arch::Arch;
use crate::workspace::Workspace;

/// Figures of a run with everything, in JSON.
pub const FIGURES: &str = "docs/performance.json";
const PLOT: &str = "docs/performance.svg";
const PAGE: &str = "docs/performance.md";

/// Before a table, with its name, and behind it.
const BEGIN: &str = "<!-- cargo xtask bench --document: ";
const CLOSE: &str = " -->\n";
const END: &str = "<!-- end -->\n";

/// Writes figures, plot and tables into the documentation.
///
/// # Errors
/// As the file system's, and when the page has no place for a table.
pub fn write(workspace: &Workspace, results: &Results) -> Result<()> {
    let file = |name| workspace.root().join(name);
    results.write(&file(FIGURES))?;
    plot::draw(results, &file(PLOT))?;
    let mut page = fs::read_to_string(file(PAGE)).with_context(|| format!("can't read {PAGE}"))?;
    for arch in Arch::ALL {
        let counted = results.of(arch);
        if !counted.bunshin.is_empty() {
            page = with_table(&page, arch.name(), &report::table(arch, counted))?;
        }
        if !counted.linux.is_empty() {
            let name = format!("linux {arch}");
            page = with_table(&page, &name, &report::linux_tables(counted))?;
        }
    }
    fs::write(file(PAGE), page).with_context(|| format!("can't write {PAGE}"))?;
    println!("documentation: {PAGE}, {FIGURES}, {PLOT}");
    Ok(())
}

/// The text of `page` with `table` in the place of that name.
fn with_table(page: &str, name: &str, table: &str) -> Result<String> {
    let begin = format!("{BEGIN}{name}{CLOSE}");
    let place = || format!("{PAGE}: no lines {:?} and {:?}", begin.trim(), END.trim());
    let (before, rest) = page.split_once(&begin).with_context(place)?;
    let (_, after) = rest.split_once(END).with_context(place)?;
    Ok(format!("{before}{begin}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_of_its_name() {
        let place = |name: &str, table: &str| format!("{BEGIN}{name}{CLOSE}{table}{END}");
        let page =
            |b: &str| format!("# Page\n{}text\n{}end\n", place("a", "| 1 |\n"), place("b", b));
        let replaced = with_table(&page("| 2 |\n"), "b", "| 3 |\n").unwrap();
        assert_eq!(replaced, page("| 3 |\n"));
        let error = with_table(&page(""), "c", "").unwrap_err().to_string();
        assert!(error.contains("no lines") && error.contains(": c -->"), "{error}");
    }

    #[test]
    fn the_page_has_a_place_for_every_table() {
        let page = fs::read_to_string(Workspace::locate().root().join(PAGE)).unwrap();
        for name in ["aarch64", "x86_64", "linux aarch64", "linux x86_64"] {
            with_table(&page, name, "").unwrap();
        }
    }
}
