//! `cargo xtask bench`: what exits cost, in instructions.

pub mod budget;
pub mod counter;
pub mod figures;
pub mod linux;
pub mod machine;
pub mod mark;
pub mod peers;
pub mod plot;
pub mod report;
pub mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::workspace::Workspace;
use crate::{build, setup};
use budget::Budget;
use figures::Results;
use linux::Payload;
use peers::Peer;

/// Why figures say nothing.
pub const OTHER_PROFILE: &str = "CARGO_PROFILE_RELEASE_* in the environment changes the image";

/// Figures of a run with everything, which the documentation shows.
const STORED: &str = "docs/performance.json";

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
    /// Also count Linux, on the bare machine and under Bunshin (some minutes)
    #[arg(long)]
    pub linux: bool,
    /// Also count another hypervisor, and with `--linux` Linux under it (some minutes each); can be repeated
    #[arg(long, value_enum, value_name = "PEER")]
    pub peer: Vec<Peer>,
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
    let mut results = count(workspace)?;
    beside(workspace, options, &mut results)?;
    print!("\n{}", report::table(&results));
    println!("\nInstructions more than on the bare machine; `bare` in all. {}", results.emulator);
    if !results.linux.is_empty() {
        print!("\n{}", report::linux_table(&results));
    }
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
        let mut budget = Budget::read(&file)?;
        for (model, figures) in &results.bunshin {
            budget.set(model, figures);
        }
        budget.write(&file)?;
        return Ok(());
    }
    judge(workspace, &results)
}

/// Adds Linux, if it is asked for, and the peers: those that are asked for are counted; of the others, and of their Linux,
/// figures of an earlier run are in the documentation. Peers change only with their packages.
fn beside(workspace: &Workspace, options: &Options, results: &mut Results) -> Result<()> {
    if options.linux || !options.peer.is_empty() {
        setup::run(workspace, &setup::Options { arch: Some(Arch::Aarch64), ..Default::default() })?;
    }
    let stored = workspace.root().join(STORED);
    let Results { peers, linux, .. } =
        if stored.is_file() { Results::read(&stored)? } else { Results::default() };
    results.peers = peers;
    let payload = if options.linux {
        let payload = Payload::prepare(workspace)?;
        results.linux = linux;
        results.linux.extend(count_linux(workspace, &payload)?);
        Some(payload)
    } else {
        None
    };
    for peer in &options.peer {
        let name = peer.name();
        println!("counting {name}");
        results.peers.insert(name.to_string(), peer.figures(workspace).context(name)?);
        if let Some(payload) = &payload {
            let rows =
                peer.linux(workspace, payload).with_context(|| format!("Linux under {name}"))?;
            results.linux.insert(name.to_string(), rows);
        }
    }
    Ok(())
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
    Ok(Results { emulator: machine::version()?, bare, bunshin, ..Results::default() })
}

/// Counts Linux on the first model, with what is built.
fn count_linux(workspace: &Workspace, payload: &Payload) -> Result<BTreeMap<String, linux::Rows>> {
    let counter = counter::build(workspace)?;
    let bare = linux::bare(workspace, &counter, payload).context("Linux on the bare machine")?;
    let bunshin = linux::bunshin(workspace, &counter, payload).context("Linux under Bunshin")?;
    Ok([(figures::BARE, bare), (figures::BUNSHIN, bunshin)]
        .map(|(name, rows)| (name.to_string(), rows))
        .into())
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
