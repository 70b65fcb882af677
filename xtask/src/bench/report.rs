//! The table.

use std::fmt::Write;

use super::counter::Count;
use super::figures::{BARE, BUNSHIN, Counted, Figures, Linux, Results};
use super::linux;
use super::rows::{published, rows};
use crate::arch::Arch;

/// A cell without a figure.
const NONE: &str = "-";

fn cell(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_string(), |value| value.to_string())
}

/// The table of `results` in Markdown, in instructions more than on the bare machine.
pub fn table(arch: Arch, results: &Counted) -> String {
    let mut heading = vec!["operation".to_string(), "bare".to_string()];
    heading.extend(results.bunshin.keys().map(|model| format!("Bunshin, {model}")));
    heading.push("target".to_string());
    heading.extend(results.peers.keys().cloned());
    // A peer that was measured with this guest needs no earlier figures.
    let published: Vec<_> = published(arch)
        .iter()
        .enumerate()
        .filter(|(_, name)| !results.peers.contains_key(**name))
        .collect();
    heading.extend(published.iter().map(|(_, name)| format!("{name} (published)")));
    let mut lines = vec![heading];
    for row in rows(arch) {
        let mut line = vec![row.title.to_string(), cell(results.bare.get(row.name).copied())];
        let over = |figures: &Figures| cell(results.over_bare(figures, row.name));
        line.extend(results.bunshin.values().map(over));
        line.push(cell(row.target));
        line.extend(results.peers.values().map(over));
        line.extend(
            published.iter().map(|(place, _)| cell(row.published.get(*place).copied().flatten())),
        );
        lines.push(line);
    }
    markdown(&lines)
}

/// The tables of Linux, one a machine, in instructions: all that the machine executes, as multiples of those on the bare
/// machine, and the hypervisor's own where they are known.
pub fn linux_tables(results: &Counted) -> String {
    let mut names: Vec<_> = results.linux.iter().collect();
    // In the order in which they are counted.
    let place = |name: &str| linux::SETUPS.iter().position(|setup| setup.name() == name);
    names.sort_by_key(|(name, _)| place(name));
    let tables = names.iter().map(|(name, systems)| linux_table(name, systems));
    tables.collect::<Vec<_>>().join("\n")
}

fn linux_table(name: &str, results: &Linux) -> String {
    let none = linux::Rows::new();
    let bare = results.get(BARE).unwrap_or(&none);
    let mut systems: Vec<_> = results.iter().filter(|(name, _)| *name != BARE).collect();
    // Bunshin first.
    systems.sort_by_key(|(name, _)| (*name != BUNSHIN, *name));
    let mut heading = vec![format!("Linux 6.1 on {name}"), BARE.to_string()];
    // Of a host that is an operating system nobody knows which instructions are the hypervisor's.
    let known = |rows: &linux::Rows| rows.values().any(|count| count.hypervisor != 0);
    for (name, rows) in &systems {
        heading.extend([name.to_string(), "of bare".to_string()]);
        if known(rows) {
            heading.push("its own".to_string());
        }
    }
    let mut lines = vec![heading];
    for row in linux::ROWS {
        let alone = bare.get(row.name).copied().map(Count::total);
        let mut line = vec![row.title.to_string(), cell(alone)];
        for (_, rows) in &systems {
            let count = rows.get(row.name).copied();
            line.push(cell(count.map(Count::total)));
            // Before the kernel, the bare machine executes next to nothing.
            let ratio = alone.filter(|_| row.name != linux::START).zip(count);
            line.push(ratio.map_or_else(
                || NONE.to_string(),
                |(alone, count)| format!("{:.3}", count.total() as f64 / alone as f64),
            ));
            if known(rows) {
                line.push(cell(count.map(|count| count.hypervisor)));
            }
        }
        lines.push(line);
    }
    markdown(&lines)
}

/// How `now` differs from `before`, row by row.
pub fn comparison(before: &Results, now: &Results) -> String {
    let heading = ["operation", "CPU", "before", "now", "change"].map(String::from).to_vec();
    let mut lines = vec![heading];
    for arch in Arch::ALL {
        let (before, now) = (before.of(arch), now.of(arch));
        for (model, figures) in &now.bunshin {
            let Some(earlier) = before.bunshin.get(model) else { continue };
            for row in rows(arch) {
                let (old, new) = (earlier.get(row.name).copied(), figures.get(row.name).copied());
                let title = row.title.to_string();
                lines.push(vec![title, model.clone(), cell(old), cell(new), change(old, new)]);
            }
        }
        for (setup, systems) in &now.linux {
            let earlier = before.linux.get(setup).and_then(|systems| systems.get(BUNSHIN));
            let (Some(earlier), Some(later)) = (earlier, systems.get(BUNSHIN)) else { continue };
            for row in linux::ROWS {
                let total = |rows: &linux::Rows| rows.get(row.name).copied().map(Count::total);
                let (old, new) = (total(earlier), total(later));
                let title = format!("Linux: {}", row.title);
                lines.push(vec![title, setup.clone(), cell(old), cell(new), change(old, new)]);
            }
        }
    }
    markdown(&lines)
}

/// By how much `new` is more than `old`.
fn change(old: Option<u64>, new: Option<u64>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old != 0 => {
            format!("{:+.1} %", (new as f64 / old as f64 - 1.0) * 100.0)
        }
        _ => NONE.to_string(),
    }
}

/// Lines of cells, the first of them the heading, as a table with aligned columns.
fn markdown(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let rule = "-".repeat(*width);
                text += &if column == 0 { format!("|-{rule}-") } else { format!("|-{rule}:") };
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn results(eoi: u64) -> Results {
        let figures = |value| Figures::from([("eoi".to_string(), value)]);
        let aarch64 = Counted {
            bare: figures(21),
            bunshin: BTreeMap::from([("max".into(), figures(eoi))]),
            ..Counted::default()
        };
        Results { aarch64, ..Results::default() }
    }

    #[test]
    fn the_table_shows_what_is_more_than_on_the_bare_machine() {
        let table = table(Arch::Aarch64, &results(25).aarch64);
        let line = table.lines().find(|line| line.contains("acknowledge and end")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[1..5], ["acknowledge and end", "21", "4", "0"], "{line}");
        let lengths: Vec<_> = table.lines().map(str::len).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }

    #[test]
    fn the_table_of_linux_shows_multiples_and_what_the_hypervisor_executes() {
        let rows = |hypervisor, others| {
            linux::Rows::from([("boot".to_string(), Count { hypervisor, others })])
        };
        let linux = [(BARE, rows(0, 1000)), (BUNSHIN, rows(10, 1005)), ("KVM", rows(0, 1500))];
        let linux = linux.map(|(name, rows)| (name.to_string(), rows)).into();
        let results =
            Counted { linux: [("max, 1 CPU".to_string(), linux)].into(), ..Counted::default() };
        let table = linux_tables(&results);
        assert!(table.contains("Linux 6.1 on max, 1 CPU"), "{table}");
        let line = table.lines().find(|line| line.contains("boot")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[2..8], ["1000", "1015", "1.015", "10", "1500", "1.500"], "{table}");
    }

    #[test]
    fn a_comparison_shows_both_figures_and_the_change() {
        let text = comparison(&results(20), &results(25));
        let line = text.lines().find(|line| line.contains("acknowledge and end")).unwrap();
        assert!(line.contains("20") && line.contains("25") && line.contains("+25.0 %"), "{line}");
    }
}
