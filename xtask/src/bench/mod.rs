//! `cargo xtask bench`: what exits cost, in instructions.

pub mod budget;
pub mod figures;
pub mod machine;
pub mod plot;
pub mod report;
pub mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::build;
use crate::workspace::Workspace;
use budget::Budget;
use figures::Results;

/// Why figures say nothing.
const OTHER_PROFILE: &str = "CARGO_PROFILE_RELEASE_* in the environment changes the image";

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// Show how the figures differ from those in FILE
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// Where the figures go [default: bench.json in the build folder]
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the plot goes [default: bench.svg in the build folder]
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Make the present figures the budget
    #[arg(long)]
    pub accept: bool,
}

/// Counts, prints, writes, compares.
///
/// # Errors
/// When an emulator fails or a figure is above its budget.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    build::image(workspace, Arch::Aarch64)?;
    build::guests(workspace, Arch::Aarch64)?;
    let results = count(workspace)?;
    print!("\n{}", report::table(&results));
    println!("\nInstructions more than on the bare machine; `bare` in all. {}", results.emulator);
    if let Some(file) = &options.compare {
        print!("\n{}", report::comparison(&Results::read(file)?, &results));
    }
    let target = workspace.target();
    let json = options.json.clone().unwrap_or_else(|| target.join("bench.json"));
    let plot = options.plot.clone().unwrap_or_else(|| target.join("bench.svg"));
    results.write(&json)?;
    plot::draw(&results, &plot)?;
    println!("figures: {}\nplot: {}", json.display(), plot.display());
    let file = budget::file(workspace);
    if options.accept {
        ensure!(machine::is_release(), "these figures can't be the budget: {OTHER_PROFILE}");
        fs::write(&file, Budget::text(&results))
            .with_context(|| format!("can't write {}", file.display()))?;
        println!("budget: {}", file.display());
        return Ok(());
    }
    judge(workspace, &results)
}

/// Counts on every model, with what is built.
///
/// # Errors
/// As [`run`].
fn count(workspace: &Workspace) -> Result<Results> {
    let [model, ..] = machine::MODELS;
    let mut bunshin = BTreeMap::new();
    for model in machine::MODELS {
        let figures = machine::bunshin(workspace, model).with_context(|| model.to_string())?;
        bunshin.insert(model.to_string(), figures);
    }
    let bare = machine::bare(workspace, model)?;
    machine::clean(workspace);
    Ok(Results { emulator: machine::version()?, bare, bunshin, peers: BTreeMap::new() })
}

/// Compares with the budget.
fn judge(workspace: &Workspace, results: &Results) -> Result<()> {
    if !machine::is_release() {
        println!("not compared with the budget: {OTHER_PROFILE}");
        return Ok(());
    }
    Budget::read(&budget::file(workspace))?.check(results)?;
    println!("within the budget");
    Ok(())
}

/// The gate's part: counts with what is built, and compares with the budget.
///
/// # Errors
/// As [`run`].
pub fn check(workspace: &Workspace) -> Result<()> {
    println!("\n== benchmark");
    if !machine::is_release() {
        println!("left out: {OTHER_PROFILE}");
        return Ok(());
    }
    judge(workspace, &count(workspace)?)
}
