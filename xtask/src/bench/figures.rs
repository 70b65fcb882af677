//! Figures by row, read from a guest's output and kept as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::linux;
use crate::arch::Arch;

/// Instructions by the name of the row.
pub type Figures = BTreeMap<String, u64>;

/// Linux on the bare machine ([`BARE`]), under Bunshin ([`BUNSHIN`]), and under others by their names.
pub type Linux = BTreeMap<String, linux::Rows>;

/// What was counted on machines of one architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// The guest without a hypervisor.
    pub bare: Figures,
    /// Under Bunshin, by the model of the host's CPUs.
    pub bunshin: BTreeMap<String, Figures>,
    /// Under others, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, Figures>,
    /// Linux by the machine that it is on ([`linux::Setup::name`]).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub linux: BTreeMap<String, Linux>,
}

/// What one run of the benchmark found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The emulator that counted.
    pub emulator: String,
    /// 64-bit Arm.
    #[serde(default)]
    pub aarch64: Counted,
    /// 64-bit PCs.
    #[serde(default)]
    pub x86_64: Counted,
}

/// The machine without a hypervisor, in [`Linux`].
pub const BARE: &str = "bare";
/// This hypervisor, in [`Linux`].
pub const BUNSHIN: &str = "Bunshin";

impl Results {
    /// Reads results that [`Results::write`] wrote.
    ///
    /// # Errors
    /// When the file can't be read or is something else.
    pub fn read(file: &Path) -> Result<Self> {
        let shown = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("can't read {shown}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{shown} is not a result of `cargo xtask bench`"))
    }

    /// Writes them as JSON.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("can't write {}", file.display()))
    }

    /// What was counted on machines of `arch`.
    pub const fn of(&self, arch: Arch) -> &Counted {
        match arch {
            Arch::Aarch64 => &self.aarch64,
            Arch::X86_64 => &self.x86_64,
        }
    }

    /// The same, to be filled.
    pub const fn of_mut(&mut self, arch: Arch) -> &mut Counted {
        match arch {
            Arch::Aarch64 => &mut self.aarch64,
            Arch::X86_64 => &mut self.x86_64,
        }
    }

    /// Every model of CPU with its figures.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Figures)> {
        let models = Arch::ALL.into_iter().flat_map(|arch| &self.of(arch).bunshin);
        models.map(|(model, figures)| (model.as_str(), figures))
    }

    /// Everything that has a budget, with the name that it has there: each model of CPU, and the hypervisor's own
    /// instructions under Linux on each machine.
    pub fn budgeted(&self) -> Vec<(String, Figures)> {
        let mut all: Vec<_> =
            self.models().map(|(model, figures)| (model.to_string(), figures.clone())).collect();
        for (setup, systems) in Arch::ALL.into_iter().flat_map(|arch| &self.of(arch).linux) {
            let rows = systems.get(BUNSHIN).map(linux::own);
            all.extend(rows.map(|rows| (linux::budget_name(setup), rows)));
        }
        all
    }
}

impl Counted {
    /// What `figures` have more than the bare machine, if they have the row.
    pub fn over_bare(&self, figures: &Figures, row: &str) -> Option<u64> {
        // A machine without a hypervisor is not restarted by one, and does not switch.
        let bare = self.bare.get(row).copied().unwrap_or(0);
        figures.get(row).map(|figure| figure.saturating_sub(bare))
    }
}

/// What Xen puts before lines of a guest that has no other console.
const XEN: &str = "(XEN) DOM1: ";

/// A line as the guest said it.
pub fn said(line: &str) -> &str {
    let line = line.trim();
    line.strip_prefix(XEN).unwrap_or(line)
}

/// The rows in what the guest printed.
///
/// # Errors
/// When a row is no number, or the guest did not come to its end.
pub fn parse(output: &str) -> Result<Figures> {
    let mut figures = Figures::new();
    for line in output.lines() {
        let Some(row) = said(line).strip_prefix("bench ") else { continue };
        let parsed =
            row.split_once(' ').and_then(|(name, figure)| Some((name, figure.parse().ok()?)));
        let (name, figure) = parsed.with_context(|| format!("not a row: {line:?}"))?;
        figures.insert(name.to_string(), figure);
    }
    ensure!(
        output.lines().any(|line| said(line) == "bench-end"),
        "the benchmark did not come to its end"
    );
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_among_other_output() {
        let output = "bunshin: started\r\nbench loop 3\r\n\n(XEN) DOM1: bench eoi 21\nbench-end\n";
        let figures = parse(output).unwrap();
        assert_eq!(figures, Figures::from([("loop".into(), 3), ("eoi".into(), 21)]));
    }

    #[test]
    fn output_that_breaks_off_or_is_no_number_is_an_error() {
        for (output, reason) in
            [("bench loop 3\n", "its end"), ("bench loop x\nbench-end\n", "not a row")]
        {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn results_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bench.json");
        let aarch64 = Counted {
            bare: Figures::from([("eoi".into(), 21)]),
            bunshin: BTreeMap::from([("max".into(), Figures::from([("eoi".into(), 22)]))]),
            ..Counted::default()
        };
        let results = Results { emulator: "QEMU".into(), aarch64, ..Results::default() };
        results.write(&file).unwrap();
        assert_eq!(Results::read(&file).unwrap(), results);
        let counted = results.of(Arch::Aarch64);
        assert_eq!(counted.over_bare(&counted.bunshin["max"], "eoi"), Some(1));
        assert_eq!(counted.over_bare(&counted.bunshin["max"], "ipi"), None);
    }
}
