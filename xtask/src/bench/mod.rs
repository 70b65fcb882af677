//! `cargo xtask bench`: what exits cost, in instructions.

pub mod budget;
pub mod counter;
pub mod document;
pub mod figures;
pub mod linux;
pub mod machine;
pub mod mark;
pub mod peers;
pub mod plot;
pub mod report;
pub mod rows;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::workspace::Workspace;
use crate::{build, setup};
use budget::Budget;
use figures::{Counted, Results};
use linux::Payload;
use peers::Peer;

/// Why figures say nothing.
pub const OTHER_PROFILE: &str = "CARGO_PROFILE_RELEASE_* in the environment changes the image";

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// Count only on machines of this architecture [default: both]
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
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
    /// Also count another hypervisor, and with `--linux` Linux under it (aarch64; some minutes each); can be repeated
    #[arg(long, value_enum, value_name = "PEER")]
    pub peer: Vec<Peer>,
    /// Write figures, plot and tables into docs/; of what is not counted now, those of earlier
    #[arg(long, conflicts_with = "arch")]
    pub document: bool,
    /// Make the present figures the budget
    #[arg(long)]
    pub accept: bool,
}

impl Options {
    /// What is counted.
    fn archs(&self) -> Vec<Arch> {
        self.arch.map_or_else(|| Arch::ALL.to_vec(), |arch| vec![arch])
    }
}

/// Counts, prints, writes, compares.
///
/// # Errors
/// When an emulator fails or a figure is above its budget.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let archs = options.archs();
    ensure!(
        options.peer.is_empty() || archs.contains(&Arch::Aarch64),
        "peers are counted on aarch64; leave `--arch x86_64` out"
    );
    for arch in &archs {
        build::image(workspace, *arch)?;
        build::guests(workspace, *arch)?;
    }
    let mut results = count(workspace, &archs)?;
    beside(workspace, options, &mut results)?;
    for arch in archs {
        let counted = results.of(arch);
        println!("\nOn {arch}, instructions more than on the bare machine; `bare` in all:\n");
        print!("{}", report::table(arch, counted));
        if !counted.linux.is_empty() {
            print!("\n{}", report::linux_tables(counted));
        }
    }
    println!("\n{}", results.emulator);
    if let Some(file) = &options.compare {
        print!("\n{}", report::comparison(&Results::read(file)?, &results));
    }
    let target = workspace.target();
    let json = options.json.clone().unwrap_or_else(|| target.join("bench.json"));
    let plot = options.plot.clone().unwrap_or_else(|| target.join("bench.svg"));
    results.write(&json)?;
    plot::draw(&results, &plot)?;
    println!("figures: {}\nplot: {}", json.display(), plot.display());
    if options.document {
        ensure!(machine::is_release(), "these figures say nothing: {OTHER_PROFILE}");
        document::write(workspace, &results)?;
    }
    let file = budget::file(workspace);
    if options.accept {
        ensure!(machine::is_release(), "these figures can't be the budget: {OTHER_PROFILE}");
        let mut budget = Budget::read(&file)?;
        for (name, figures) in results.budgeted() {
            budget.set(&name, &figures);
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
        setup::run(workspace, &setup::Options { arch: options.arch, ..Default::default() })?;
    }
    let stored = workspace.root().join(document::FIGURES);
    let stored = if stored.is_file() { Results::read(&stored)? } else { Results::default() };
    for arch in options.archs() {
        let (counted, stored) = (results.of_mut(arch), stored.of(arch));
        counted.peers = stored.peers.clone();
        if options.linux || options.document {
            counted.linux = stored.linux.clone();
        }
        if options.linux {
            count_linux(workspace, arch, counted)?;
        }
    }
    let counted = results.of_mut(Arch::Aarch64);
    for peer in &options.peer {
        let name = peer.name();
        println!("counting {name}");
        counted.peers.insert(name.to_string(), peer.figures(workspace).context(name)?);
        if options.linux {
            let [setup, ..] = linux::SETUPS;
            let payload = Payload::prepare(workspace, setup.arch)?;
            let rows =
                peer.linux(workspace, &payload).with_context(|| format!("Linux under {name}"))?;
            counted.linux.entry(setup.name()).or_default().insert(name.to_string(), rows);
        }
    }
    Ok(())
}

/// Counts on every model of `archs`, with what is built.
///
/// # Errors
/// As [`run`].
fn count(workspace: &Workspace, archs: &[Arch]) -> Result<Results> {
    let emulator = machine::version(*archs.first().unwrap_or(&Arch::Aarch64))?;
    let mut results = Results { emulator, ..Results::default() };
    for arch in archs {
        let counted = results.of_mut(*arch);
        for model in machine::models(*arch) {
            let figures =
                machine::bunshin(workspace, *arch, model).with_context(|| model.to_string())?;
            counted.bunshin.insert(model.to_string(), figures);
        }
        counted.bare = machine::bare(workspace, *arch)?;
    }
    machine::clean(workspace);
    Ok(results)
}

/// Counts Linux on every machine of `arch`, with what is built.
fn count_linux(workspace: &Workspace, arch: Arch, counted: &mut Counted) -> Result<()> {
    let counter = counter::build(workspace)?;
    let payload = Payload::prepare(workspace, arch)?;
    for setup in linux::SETUPS.into_iter().filter(|setup| setup.arch == arch) {
        let name = setup.name();
        println!("counting Linux on {name}");
        let bare = linux::bare(workspace, &counter, &payload, setup);
        let bare = bare.with_context(|| format!("Linux on the bare machine, {name}"))?;
        let bunshin = linux::bunshin(workspace, &counter, &payload, setup);
        let bunshin = bunshin.with_context(|| format!("Linux under Bunshin, {name}"))?;
        let systems = counted.linux.entry(name).or_default();
        systems.insert(figures::BARE.to_string(), bare);
        systems.insert(figures::BUNSHIN.to_string(), bunshin);
    }
    Ok(())
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
    judge(workspace, &count(workspace, &Arch::ALL)?)
}
