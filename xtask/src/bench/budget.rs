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
# CPUs. A figure more than 2 % above fails `cargo xtask test`. `cargo xtask bench --accept` writes the present figures here.
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

    /// The figures as budgets, as text of the file.
    pub fn text(results: &Results) -> String {
        let mut text = HEADING.to_string();
        for (model, figures) in &results.bunshin {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n[{model}]");
            for (row, figure) in figures {
                let _ = writeln!(text, "{row} = {figure}");
            }
        }
        text
    }

    /// Compares.
    ///
    /// # Errors
    /// Names each row that is above its budget, or that is missing.
    pub fn check(&self, results: &Results) -> Result<()> {
        let mut complaints = Vec::new();
        for (model, budgets) in &self.0 {
            let Some(figures) = results.bunshin.get(model) else { continue };
            for (row, budget) in budgets {
                match figures.get(row) {
                    Some(figure) if figure * 100 <= budget * (100 + TOLERANCE) => {}
                    Some(figure) => complaints.push(format!(
                        "{row} on {model}: {figure} instructions, the budget is {budget}"
                    )),
                    None => complaints.push(format!("{row} on {model}: not counted")),
                }
            }
        }
        if complaints.is_empty() {
            return Ok(());
        }
        bail!(
            "over budget:\n  {}\nmake it cheaper, or say why it must cost more and run `cargo xtask bench --accept`",
            complaints.join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(eoi: u64) -> Results {
        let figures = Figures::from([("eoi".to_string(), eoi)]);
        Results { bunshin: BTreeMap::from([("max".into(), figures)]), ..Results::default() }
    }

    #[test]
    fn a_figure_may_exceed_its_budget_by_two_percent() {
        let budget = Budget(toml::from_str(&Budget::text(&results(200))).unwrap());
        assert_eq!(budget.0, results(200).bunshin);
        for (figure, fits) in [(1, true), (200, true), (204, true), (205, false)] {
            assert_eq!(budget.check(&results(figure)).is_ok(), fits, "{figure}");
        }
        let error = budget.check(&results(300)).unwrap_err().to_string();
        assert!(error.contains("eoi on max: 300 instructions, the budget is 200"), "{error}");
    }

    #[test]
    fn a_row_that_is_not_counted_any_more_fails() {
        let budget = Budget(results(1).bunshin);
        let mut without = results(1);
        without.bunshin.insert("max".into(), Figures::new());
        assert!(budget.check(&without).is_err());
    }
}
