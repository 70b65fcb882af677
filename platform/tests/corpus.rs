//! Device trees of real boards. Not part of the repository, for their licences: `BUNSHIN_DTB_CORPUS` names a folder
//! that is searched for `*.dtb`, such as an unpacked Debian kernel package for arm64.
//!
//! `BUNSHIN_DTB_MUTATIONS` is the number of mutations of each tree; each is cut in 20 places, too, unless it is 0.

mod common;

use common::{Random, exercise, exercise_ours, mutate};
use platform::discover::{ConsoleKind, InterruptController, Platform, Refusal};
use platform::tree::Tree;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const CUTS: usize = 20;

#[test]
#[ignore = "needs a folder of device trees in BUNSHIN_DTB_CORPUS"]
fn every_tree_of_the_corpus_is_read_and_understood_or_refused() {
    let folder =
        std::env::var_os("BUNSHIN_DTB_CORPUS").expect("BUNSHIN_DTB_CORPUS names a folder of *.dtb");
    let mutations = std::env::var("BUNSHIN_DTB_MUTATIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    let mut files = Vec::new();
    find(Path::new(&folder), &mut files);
    files.sort();
    assert!(!files.is_empty(), "no *.dtb in {}", folder.display());
    let (counts, wrong) = judge(&files, mutations);
    println!("{} trees", files.len());
    for (fact, count) in counts {
        println!("{count:6} {fact}");
    }
    assert!(
        wrong.is_empty(),
        "{} trees aren't read:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}

/// Reads all files, on all cores: how often each fact was found, and which trees aren't read.
fn judge(files: &[PathBuf], mutations: u64) -> (BTreeMap<String, usize>, Vec<String>) {
    let next = AtomicUsize::new(0);
    let result = Mutex::new((BTreeMap::new(), Vec::new()));
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let blob = std::fs::read(file).unwrap();
            let outcome = std::panic::catch_unwind(|| read(&blob, mutations));
            let mut result = result.lock().unwrap();
            let (counts, wrong) = &mut *result;
            match outcome {
                Ok(Ok(facts)) => {
                    for fact in facts {
                        *counts.entry(fact).or_default() += 1;
                    }
                }
                Ok(Err(error)) => wrong.push(format!("{}: {error}", file.display())),
                Err(_) => wrong.push(format!("{}: panic", file.display())),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    result.into_inner().unwrap()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "dtb") {
            files.push(path);
        }
    }
}

/// What discovery says about a tree, or why it isn't one.
fn read(blob: &[u8], mutations: u64) -> Result<Vec<String>, String> {
    let tree = Tree::from_blob(blob).map_err(|error| error.to_string())?;
    let mut facts = Vec::new();
    let outcome = match exercise(&tree) {
        Err(Refusal::NoMemoryNode | Refusal::NoMemory { .. }) if !has_memory(&tree) => {
            facts.push("refused as long as no bootloader adds memory".to_owned());
            exercise(&Tree::from_blob(&add_memory(&tree)).map_err(|error| error.to_string())?)
        }
        outcome => outcome,
    };
    match outcome {
        Ok(platform) => facts.extend(describe(&tree, &platform)?),
        Err(refusal) => facts.push(describe_refusal(&tree, &refusal)?),
    }
    if mutations > 0 {
        for cut in (0..CUTS).map(|cut| blob.len() * cut / CUTS) {
            if [blob[..cut].to_vec(), cut_knowingly(blob, cut)]
                .iter()
                .any(|cut| Tree::from_blob(cut).is_ok())
            {
                return Err(format!("cut to {cut} bytes, it is accepted"));
            }
        }
    }
    for seed in 0..mutations {
        let Ok(tree) = Tree::from_blob(&mutate(blob, &mut Random::new(seed << 8))) else {
            facts.push("damaged: not a tree".to_owned());
            continue;
        };
        // The other reader takes as long as all else.
        let outcome = if seed.is_multiple_of(8) { exercise(&tree) } else { exercise_ours(&tree) };
        let outcome = if outcome.is_ok() { "damaged: understood" } else { "damaged: refused" };
        facts.push(outcome.to_owned());
    }
    Ok(facts)
}

/// The first bytes of a blob, with a header that knows of the cut.
fn cut_knowingly(blob: &[u8], length: usize) -> Vec<u8> {
    let mut cut = blob[..length].to_vec();
    if let Some(total) = cut.get_mut(4..8) {
        total.copy_from_slice(&(length as u32).to_be_bytes());
    }
    cut
}

fn describe(tree: &Tree, platform: &Platform) -> Result<Vec<String>, String> {
    let controller = match &platform.interrupt_controller {
        InterruptController::GicV2(_) => "GICv2".to_owned(),
        InterruptController::GicV3(_) => "GICv3".to_owned(),
        InterruptController::Aic(aic) => format!("AIC {:?}", aic.version),
    };
    let chosen = tree.node("/chosen");
    let names_console = chosen.is_some_and(|node| node.property("stdout-path").is_some());
    let console = match platform.console.as_ref().map(|console| &console.kind) {
        None if names_console => "console: its address can't be found".to_owned(),
        None => "console: none".to_owned(),
        Some(ConsoleKind::Unknown(kind)) => format!("console: unknown, {kind}"),
        Some(kind) => format!("console: {kind:?}"),
    };
    if platform.timer.virtual_timer.is_none() {
        return Err("there is no virtual timer".to_owned());
    }
    // An independent count: all CPU nodes but those whose status says no.
    let fdt = tree.fdt().map_err(|error| error.to_string())?;
    let cpus = fdt
        .all_nodes()
        .filter(|node| node.property("device_type").is_some_and(|kind| kind.value == b"cpu\0"))
        .filter(|node| node.property("status").is_none_or(|status| status.value == b"okay\0"))
        .count();
    if cpus != platform.cpus.len() {
        return Err(format!("{} CPUs instead of {cpus}", platform.cpus.len()));
    }
    Ok(vec!["understood".to_owned(), format!("interrupts: {controller}"), console])
}

/// A refusal is right only if the tree really lacks the thing.
fn describe_refusal(tree: &Tree, refusal: &Refusal) -> Result<String, String> {
    let gic = tree.nodes().any(|node| {
        node.compatible().any(|name| name.contains("gic") && name.starts_with("arm,"))
            && node.is_reachable()
    });
    match refusal {
        Refusal::InterruptController { .. } if !gic => {
            Ok("refused: other interrupt controller".to_owned())
        }
        other => Err(other.to_string()),
    }
}

/// Whether a memory node has a size that isn't 0, as another reader sees it.
fn has_memory(tree: &Tree) -> bool {
    tree.fdt().unwrap().all_nodes().any(|node| {
        node.property("device_type").is_some_and(|kind| kind.value == b"memory\0")
            && node
                .reg()
                .is_some_and(|mut reg| reg.any(|entry| entry.size.is_some_and(|size| size > 0)))
    })
}

/// Adds memory as a bootloader does: most trees of phones and modules come without.
fn add_memory(tree: &Tree) -> Vec<u8> {
    let blob = tree.blob();
    let field =
        |number: usize| u32::from_be_bytes(blob[number * 4..][..4].try_into().unwrap()) as usize;
    let (structure, strings) = (field(2), field(3));
    // Before the end of the root and the end of the tree.
    let insert_at = structure + field(9) - 8;
    let mut node: Vec<u8> = Vec::new();
    let word = |node: &mut Vec<u8>, word: usize| node.extend((word as u32).to_be_bytes());
    let names = b"device_type\0reg\0";
    let cells = tree.root().address_cells() + tree.root().size_cells();
    word(&mut node, 1);
    node.extend(b"memory@1000\0");
    for number in [3, 7, field(8)] {
        word(&mut node, number);
    }
    node.extend(b"memory\0\0");
    for number in [3, cells * 4, field(8) + 12] {
        word(&mut node, number);
    }
    let reg: Vec<usize> = (0..cells)
        .map(|cell| {
            if cell + 1 == cells || cell + 1 == tree.root().address_cells() {
                0x1000_0000
            } else {
                0
            }
        })
        .collect();
    for cell in reg {
        word(&mut node, cell);
    }
    word(&mut node, 2);
    let mut filled = [&blob[..insert_at], &node, &blob[insert_at..], names].concat();
    for (number, value) in [
        (1, filled.len()),
        (3, strings + node.len()),
        (8, field(8) + names.len()),
        (9, field(9) + node.len()),
    ] {
        filled[number * 4..][..4].copy_from_slice(&(value as u32).to_be_bytes());
    }
    filled
}
