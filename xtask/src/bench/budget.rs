//! The most that each row may cost.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::figures::{Figures, Results};
use crate::workspace::Workspace;

/// By how much a figure may exceed its budget, in percent.
const TOLERANCE: u64 = 2;

const HEADING: &str = "\
# The most that each row of `cargo xtask bench` may cost: instructions as the guest counts them, by model of the host's
# CPUs; with `--linux`, of which the gate knows nothing, the hypervisor's own. `cargo xtask bench --accept` writes the present figures here. And how large the images may be, in bytes, and how
# deep a stack may get: `cargo xtask build --report --accept`. More than 2 % above fails `cargo xtask test`.
";

/// Budgets by CPU model and row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget(BTreeMap<String, Figures>);

/// Where the budgets are.
pub fn file(workspace: &Workspace) -> PathBuf {
    workspace.root().join("xtask/budget.toml")
}

impl Budget {
    /// Reads the file.
    ///
    /// # Errors
    /// When the file can't be read or is wrong.
    pub fn read(file: &Path) -> Result<Self> {
        let shown = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("can't read {shown}"))?;
        Ok(Budget(toml::from_str(&text).with_context(|| shown.to_string())?))
    }

    /// Makes figures the budget of what has this name: a model of CPU, or an image's size.
    pub fn set(&mut self, name: &str, figures: &Figures) {
        self.0.insert(name.to_string(), figures.clone());
    }

    /// The budget of one row.
    pub fn of(&self, name: &str, row: &str) -> Option<u64> {
        self.0.get(name)?.get(row).copied()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, self.text()).with_context(|| format!("can't write {}", file.display()))?;
        println!("budget: {}", file.display());
        Ok(())
    }

    /// The text of the file.
    fn text(&self) -> String {
        let mut text = HEADING.to_string();
        for (name, figures) in &self.0 {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n[{name}]");
            for (row, figure) in figures {
                let _ = writeln!(text, "{row} = {figure}");
            }
        }
        text
    }

    /// Compares what was counted.
    ///
    /// # Errors
    /// Names each row that is above its budget, has none, or was not counted.
    pub fn check(&self, results: &Results) -> Result<()> {
        let counted = results.budgeted();
        let counted = counted.iter().map(|(name, figures)| (name.as_str(), figures));
        self.compare(counted, "instructions", "cargo xtask bench --accept")
    }

    /// Compares the size of an image.
    ///
    /// # Errors
    /// As [`Budget::check`].
    pub fn check_size(&self, name: &str, figures: &Figures) -> Result<()> {
        self.compare([(name, figures)].into_iter(), "bytes", "cargo xtask build --report --accept")
    }

    fn compare<'a>(
        &self,
        figures: impl Iterator<Item = (&'a str, &'a Figures)>,
        unit: &str,
        accept: &str,
    ) -> Result<()> {
        let mut complaints = Vec::new();
        let none = Figures::new();
        for (name, figures) in figures {
            let budgets = self.0.get(name).unwrap_or(&none);
            for (row, figure) in figures {
                match budgets.get(row) {
                    Some(budget) if figure * 100 <= budget * (100 + TOLERANCE) => {}
                    Some(budget) => complaints
                        .push(format!("{row} on {name}: {figure} {unit}, the budget is {budget}")),
                    None => complaints.push(format!("{row} on {name}: {figure} {unit}, no budget")),
                }
            }
            for row in budgets.keys().filter(|row| !figures.contains_key(*row)) {
                complaints.push(format!("{row} on {name}: not counted"));
            }
        }
        if complaints.is_empty() {
            return Ok(());
        }
        bail!(
            "over budget:\n  {}\nmake it cheaper, or say why it must cost more and run `{accept}`",
            complaints.join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Counted;

    fn results(eoi: u64) -> Results {
        let figures = Figures::from([("eoi".to_string(), eoi)]);
        let bunshin = BTreeMap::from([("max".into(), figures)]);
        Results { aarch64: Counted { bunshin, ..Counted::default() }, ..Results::default() }
    }

    #[test]
    fn a_figure_may_exceed_its_budget_by_two_percent() {
        let mut budget = Budget::default();
        budget.set("max", &results(200).aarch64.bunshin["max"]);
        let budget = Budget(toml::from_str(&budget.text()).unwrap());
        assert_eq!(budget.0, results(200).aarch64.bunshin);
        for (figure, fits) in [(1, true), (200, true), (204, true), (205, false)] {
            assert_eq!(budget.check(&results(figure)).is_ok(), fits, "{figure}");
        }
        let error = budget.check(&results(300)).unwrap_err().to_string();
        assert!(error.contains("eoi on max: 300 instructions, the budget is 200"), "{error}");
    }

    #[test]
    fn a_row_that_is_not_counted_any_more_fails() {
        let budget = Budget(results(1).aarch64.bunshin);
        let mut without = results(1);
        without.aarch64.bunshin.insert("max".into(), Figures::new());
        assert!(budget.check(&without).is_err());
    }

    #[test]
    fn what_has_no_budget_fails() {
        let mut budget = Budget(results(1).aarch64.bunshin);
        let mut more = results(1);
        more.aarch64.bunshin.insert("cortex-a72".into(), Figures::from([("eoi".into(), 1)]));
        let error = budget.check(&more).unwrap_err().to_string();
        assert!(error.contains("eoi on cortex-a72: 1 instructions, no budget"), "{error}");
        budget.set("cortex-a72", &Figures::from([("eoi".into(), 1)]));
        assert!(budget.check(&more).is_ok());
    }
}
