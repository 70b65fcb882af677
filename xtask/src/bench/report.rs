//! The table.

use std::fmt::Write;

use super::figures::{Figures, Results};
use super::rows::{PUBLISHED, ROWS};

/// A cell without a figure.
const NONE: &str = "-";

fn cell(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_string(), |value| value.to_string())
}

/// The table of `results` in Markdown, in instructions more than on the bare machine.
pub fn table(results: &Results) -> String {
    let mut heading = vec!["operation".to_string(), "bare".to_string()];
    heading.extend(results.bunshin.keys().map(|model| format!("Bunshin, {model}")));
    heading.push("target".to_string());
    heading.extend(results.peers.keys().cloned());
    heading.extend(PUBLISHED.iter().map(|name| format!("{name} (published)")));
    let mut lines = vec![heading];
    for row in ROWS {
        let mut line = vec![row.title.to_string(), cell(results.bare.get(row.name).copied())];
        let over = |figures: &Figures| cell(results.over_bare(figures, row.name));
        line.extend(results.bunshin.values().map(over));
        line.push(cell(row.target));
        line.extend(results.peers.values().map(over));
        line.extend(row.published.map(cell));
        lines.push(line);
    }
    markdown(&lines)
}

/// How `now` differs from `before`, row by row.
pub fn comparison(before: &Results, now: &Results) -> String {
    let heading = ["operation", "CPU", "before", "now", "change"].map(String::from).to_vec();
    let mut lines = vec![heading];
    for (model, figures) in &now.bunshin {
        let Some(earlier) = before.bunshin.get(model) else { continue };
        for row in ROWS {
            let (old, new) = (earlier.get(row.name), figures.get(row.name));
            let change = match (old, new) {
                (Some(old), Some(new)) if *old != 0 => {
                    format!("{:+.1} %", (*new as f64 / *old as f64 - 1.0) * 100.0)
                }
                _ => NONE.to_string(),
            };
            lines.push(vec![
                row.title.to_string(),
                model.clone(),
                cell(old.copied()),
                cell(new.copied()),
                change,
            ]);
        }
    }
    markdown(&lines)
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
        Results {
            bare: figures(21),
            bunshin: BTreeMap::from([("max".into(), figures(eoi))]),
            ..Results::default()
        }
    }

    #[test]
    fn the_table_shows_what_is_more_than_on_the_bare_machine() {
        let table = table(&results(25));
        let line = table.lines().find(|line| line.contains("acknowledge and end")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(cells[1..5], ["acknowledge and end", "21", "4", "0"], "{line}");
        let lengths: Vec<_> = table.lines().map(str::len).collect();
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }

    #[test]
    fn a_comparison_shows_both_figures_and_the_change() {
        let text = comparison(&results(20), &results(25));
        let line = text.lines().find(|line| line.contains("acknowledge and end")).unwrap();
        assert!(line.contains("20") && line.contains("25") && line.contains("+25.0 %"), "{line}");
    }
}
