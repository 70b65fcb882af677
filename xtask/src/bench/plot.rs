//! The plot: what each operation costs, beside the peers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figures::{Counted, Figures, Results};
use super::rows::{self, Row};
use crate::arch::Arch;

const WIDTH: i32 = 960;
/// Height of a bar, which has room for its figure, and of the space between two operations.
const BAR: i32 = 13;
const GAP: i32 = 12;
/// Where bars begin; their names are on the left. On the right, figures behind the longest.
const LEFT: i32 = 370;
const RIGHT: i32 = 70;
const MARGIN: i32 = 16;
/// Height of a panel's heading and legend, and of its axis.
const HEADING: i32 = 34;
const LEGEND: i32 = 30;
const AXIS: i32 = 24;
/// Widths of the parts of a legend's entry.
const PATCH: i32 = 12;
const LETTER: i32 = 7;
const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(210, 210, 210);
/// Rows with a longer bar are of another order than the rest: starts of whole machines.
const MOST: u64 = 1_000_000;

/// A series of bars with its colour.
struct Series {
    name: String,
    colour: RGBColor,
    figures: BTreeMap<&'static str, u64>,
}

/// Colours that colour-blind readers can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// What one architecture's part of the plot shows.
struct Panel {
    heading: String,
    series: Vec<Series>,
    rows: Vec<&'static Row>,
}

impl Panel {
    /// The panel of `arch`, unless nothing was counted there.
    fn new(arch: Arch, counted: &Counted) -> Option<Panel> {
        let (model, figures) = counted.bunshin.iter().next()?;
        let series = series(arch, counted, &format!("Bunshin ({model})"), figures);
        let most = |row: &Row| series.iter().filter_map(|s| s.figures.get(row.name)).max().copied();
        let shown = |row: &&Row| most(row).is_some_and(|most| 0 < most && most < MOST);
        let rows = rows::rows(arch).iter().filter(shown).collect();
        let heading =
            format!("{arch}: instructions of one operation more than on the bare machine");
        Some(Panel { heading, series, rows })
    }

    /// The bars of one operation, with their colours.
    fn bars(&self, row: &Row) -> impl Iterator<Item = (RGBColor, u64)> {
        let name = row.name;
        self.series.iter().filter_map(move |one| Some((one.colour, *one.figures.get(name)?)))
    }

    /// Height of one operation.
    fn group(&self, row: &Row) -> i32 {
        BAR * self.bars(row).count() as i32 + GAP
    }

    /// Height of all operations.
    fn groups(&self) -> i32 {
        self.rows.iter().map(|row| self.group(row)).sum()
    }

    fn height(&self) -> i32 {
        HEADING + LEGEND + AXIS + self.groups() + MARGIN
    }

    /// The longest bar.
    fn most(&self) -> u64 {
        let figures = self.rows.iter().flat_map(|row| self.bars(row));
        figures.map(|(_, value)| value).max().unwrap_or(1).max(10)
    }
}

fn series(arch: Arch, counted: &Counted, ours: &str, figures: &Figures) -> Vec<Series> {
    let mut all = Vec::new();
    let mut add = |name: &str, figures: BTreeMap<&'static str, u64>| {
        let colour = COLOURS[all.len() % COLOURS.len()];
        all.push(Series { name: name.to_string(), colour, figures });
    };
    let over = |figures: &Figures| {
        rows::rows(arch)
            .iter()
            .filter_map(|row| Some((row.name, counted.over_bare(figures, row.name)?)))
            .collect::<BTreeMap<_, _>>()
    };
    add(ours, over(figures));
    for (name, figures) in &counted.peers {
        add(name, over(figures));
    }
    for (place, name) in rows::published(arch).iter().enumerate() {
        // A peer that was measured with this guest needs no earlier figures.
        if counted.peers.contains_key(*name) {
            continue;
        }
        let figures = rows::rows(arch).iter();
        let figures = figures.filter_map(|row| Some((row.name, (*row.published.get(place)?)?)));
        add(&format!("{name} (published)"), figures.collect());
    }
    all
}

/// Draws `results` as an SVG file.
///
/// # Errors
/// As the file system's.
pub fn draw(results: &Results, file: &Path) -> Result<()> {
    let panels = Arch::ALL.into_iter().filter_map(|arch| Panel::new(arch, results.of(arch)));
    let panels: Vec<_> = panels.collect();
    let height = MARGIN + panels.iter().map(Panel::height).sum::<i32>();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::new(file, size).into_drawing_area();
    let drawn = (|| {
        area.fill(&WHITE)?;
        let mut top = MARGIN;
        for panel in &panels {
            panel.draw(&area, top)?;
            top += panel.height();
        }
        area.present()
    })();
    drawn.map_err(|error| anyhow!("can't draw: {error}"))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Writes `text` in the middle of its line, from `x` on, up to it, or around it.
fn write(area: &Area<'_>, text: &str, (x, y): (i32, i32), size: i32, side: HPos) -> Drawn {
    let style = (FONT, size).into_font().color(&BLACK).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text, (x, y), style))
}

impl Panel {
    /// Draws it below `top`.
    fn draw(&self, area: &Area<'_>, top: i32) -> Drawn {
        write(area, &self.heading, (MARGIN, top + HEADING / 2), 17, HPos::Left)?;
        let mut at = MARGIN;
        let y = top + HEADING + LEGEND / 2;
        for one in &self.series {
            let patch = [(at, y - PATCH / 2), (at + PATCH, y + PATCH / 2)];
            area.draw(&Rectangle::new(patch, one.colour.filled()))?;
            write(area, &one.name, (at + PATCH + 6, y), 13, HPos::Left)?;
            at += 2 * PATCH + 12 + LETTER * one.name.len() as i32;
        }
        self.operations(area, top + HEADING + LEGEND + AXIS)
    }

    /// Draws axis and bars, the first bar below `top`.
    fn operations(&self, area: &Area<'_>, top: i32) -> Drawn {
        let most = self.most();
        let scale = f64::from(WIDTH - LEFT - RIGHT) / (most as f64).log10();
        let x = |value: u64| LEFT + ((value.max(1) as f64).log10() * scale) as i32;
        let bottom = top + self.groups();
        let mut decade = 1;
        while decade <= most {
            let line = [(x(decade), top - 8), (x(decade), bottom - GAP / 2)];
            area.draw(&PathElement::new(line, GRID))?;
            write(area, &decade.to_string(), (x(decade), top - AXIS / 2 - 4), 12, HPos::Center)?;
            decade *= 10;
        }
        write(area, "logarithmic", (LEFT - 14, top - AXIS / 2 - 4), 12, HPos::Right)?;
        let mut y = top;
        for row in &self.rows {
            let middle = y + (self.group(row) - GAP) / 2;
            write(area, row.title, (LEFT - 10, middle), 13, HPos::Right)?;
            for (colour, value) in self.bars(row) {
                let bar = [(LEFT, y), (x(value), y + BAR - 2)];
                area.draw(&Rectangle::new(bar, colour.filled()))?;
                let at = (x(value) + 4, y + BAR / 2);
                write(area, &value.to_string(), at, 11, HPos::Left)?;
                y += BAR;
            }
            y += GAP;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_names_rows_and_peers_of_every_architecture() {
        let counted = |model: &str, row: &str| Counted {
            bunshin: BTreeMap::from([(model.into(), Figures::from([(row.into(), 100)]))]),
            ..Counted::default()
        };
        let results = Results {
            aarch64: counted("max", "hypercall"),
            x86_64: counted("amd-v", "cpuid"),
            ..Results::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plot.svg");
        draw(&results, &file).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        for word in [
            "<svg",
            "hypercall, unknown function",
            "Bunshin (max)",
            "Bao (published)",
            "CPUID",
            "Bunshin (amd-v)",
            "KVM (published)",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn starts_of_machines_are_of_another_order_and_not_shown() {
        let figures = Figures::from([("reset".into(), 2 * MOST), ("eoi".into(), 3)]);
        let bunshin = BTreeMap::from([("amd-v".into(), figures)]);
        let panel = Panel::new(Arch::X86_64, &Counted { bunshin, ..Counted::default() }).unwrap();
        let names: Vec<_> = panel.rows.iter().map(|row| row.name).collect();
        assert!(names.contains(&"eoi") && !names.contains(&"reset"), "{names:?}");
    }
}
