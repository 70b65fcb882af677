//! The plot: what each operation costs, beside the peers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::figures::Results;
use super::rows::{PUBLISHED, ROWS};

const WIDTH: u32 = 960;
const BAR: i32 = 9;
const GAP: i32 = 14;
const LEFT: i32 = 310;
const RIGHT: i32 = 70;
const TOP: i32 = 60;
const FONT: &str = "sans-serif";

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

fn series(results: &Results) -> Vec<Series> {
    let mut all = Vec::new();
    let mut add = |name: &str, figures: BTreeMap<&'static str, u64>| {
        let colour = COLOURS[all.len() % COLOURS.len()];
        all.push(Series { name: name.to_string(), colour, figures });
    };
    let over = |figures: &super::figures::Figures| {
        ROWS.iter()
            .filter_map(|row| Some((row.name, results.over_bare(figures, row.name)?)))
            .collect::<BTreeMap<_, _>>()
    };
    if let Some((model, figures)) = results.bunshin.iter().next() {
        add(&format!("Bunshin ({model})"), over(figures));
    }
    for (name, figures) in &results.peers {
        add(name, over(figures));
    }
    for (place, name) in PUBLISHED.iter().enumerate() {
        // A peer that was measured with this guest needs no earlier figures.
        if results.peers.contains_key(*name) {
            continue;
        }
        let figures = ROWS.iter().filter_map(|row| Some((row.name, row.published[place]?)));
        add(&format!("{name} (published)"), figures.collect());
    }
    all
}

/// Draws `results` as an SVG file.
///
/// # Errors
/// As the file system's.
pub fn draw(results: &Results, file: &Path) -> Result<()> {
    let all = series(results);
    // Only rows that somebody else has, too, and that are not all of another order.
    let rows: Vec<_> = ROWS
        .iter()
        .filter(|row| all.iter().filter(|s| s.figures.contains_key(row.name)).count() > 1)
        .filter(|row| row.target != Some(0))
        .collect();
    let group = BAR * i32::try_from(all.len())? + GAP;
    let legend = 18 * i32::try_from(all.len())?;
    let height = TOP + group * i32::try_from(rows.len())? + legend + 20;
    let area = SVGBackend::new(file, (WIDTH, height.unsigned_abs())).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| anyhow!("can't draw: {error}");
    area.fill(&WHITE).map_err(failed)?;
    let heading = "Instructions of one operation more than on the bare machine (logarithmic)";
    area.draw(&Text::new(heading, (20, 16), (FONT, 18).into_font())).map_err(failed)?;
    let most = all.iter().flat_map(|s| s.figures.values()).copied().max().unwrap_or(1).max(10);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / (most as f64).log10();
    let x = |value: u64| LEFT + ((value.max(1) as f64).log10() * scale) as i32;
    let bottom = TOP + group * i32::try_from(rows.len())?;
    let mut decade = 1;
    while decade <= most {
        let line =
            PathElement::new([(x(decade), TOP - 8), (x(decade), bottom)], RGBColor(210, 210, 210));
        area.draw(&line).map_err(failed)?;
        let label =
            Text::new(decade.to_string(), (x(decade) - 4, TOP - 22), (FONT, 12).into_font());
        area.draw(&label).map_err(failed)?;
        decade *= 10;
    }
    for (place, row) in rows.iter().enumerate() {
        let mut y = TOP + group * i32::try_from(place)?;
        let title = Text::new(row.title, (10, y + (group - GAP) / 2 - 8), (FONT, 14).into_font());
        area.draw(&title).map_err(failed)?;
        for one in &all {
            if let Some(value) = one.figures.get(row.name) {
                let bar =
                    Rectangle::new([(LEFT, y), (x(*value), y + BAR - 1)], one.colour.filled());
                area.draw(&bar).map_err(failed)?;
                let at = (x(*value) + 4, y - 2);
                let label = Text::new(value.to_string(), at, (FONT, 10).into_font());
                area.draw(&label).map_err(failed)?;
            }
            y += BAR;
        }
    }
    let mut y = bottom + 6;
    for one in &all {
        let patch = Rectangle::new([(LEFT, y), (LEFT + 12, y + 12)], one.colour.filled());
        area.draw(&patch).map_err(failed)?;
        let name = Text::new(one.name.clone(), (LEFT + 20, y), (FONT, 13).into_font());
        area.draw(&name).map_err(failed)?;
        y += 18;
    }
    area.present().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Figures;

    #[test]
    fn the_plot_names_rows_and_peers() {
        let figures = Figures::from([("hypercall".to_string(), 100)]);
        let results = Results {
            bunshin: BTreeMap::from([("max".to_string(), figures)]),
            ..Results::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plot.svg");
        draw(&results, &file).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        for word in ["<svg", "hypercall, unknown function", "Bunshin (max)", "Bao (published)"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
