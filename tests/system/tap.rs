//! What small guests print: the Test Anything Protocol.

use anyhow::{Result, bail, ensure};

use crate::{Case, case};

/// Judges the last TAP report in `text`; other lines may lie between.
///
/// # Errors
/// When a test failed or is missing, or the guest gave up.
pub(crate) fn judge(text: &str) -> Result<()> {
    let mut planned: Option<usize> = None;
    let mut passed = 0;
    let mut failed = Vec::new();
    let mut diagnostics = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("TAP version ") {
            // A guest that restarts begins again.
            planned = None;
            passed = 0;
            failed.clear();
            diagnostics.clear();
        } else if let Some(count) = line.strip_prefix("1..").and_then(|count| count.parse().ok()) {
            planned = Some(count);
        } else if line.starts_with("not ok ") && !line.contains("# TODO") {
            failed.push(line.to_string());
        } else if line.starts_with("ok ") {
            passed += 1;
        } else if line.starts_with("# ") {
            diagnostics.push(line);
        } else if line.starts_with("Bail out!") {
            bail!("{line}");
        }
    }
    let Some(planned) = planned else {
        bail!("no TAP plan was printed");
    };
    if !failed.is_empty() {
        bail!("{}\n{}", failed.join("\n"), diagnostics.join("\n"));
    }
    ensure!(passed == planned, "{passed} of {planned} tests reported");
    ensure!(planned > 0, "no test was planned");
    Ok(())
}

/// The judge itself is judged first.
pub(crate) fn trials() -> Vec<Case> {
    vec![case("harness::tap_reports_are_judged", || {
        for (text, reason) in [
            ("TAP version 13\n1..2\nok 1 - a\nnoise\nok 2 - b\n", None),
            ("TAP version 13\r\n1..1\r\nok 1 - a # SKIP why\r\n", None),
            ("TAP version 13\n1..2\nok 1\nTAP version 13\n1..1\nok 1\n", None),
            ("TAP version 13\n1..2\nok 1 - a\n", Some("1 of 2")),
            ("TAP version 13\n1..1\n# why\nnot ok 1 - a\n", Some("# why")),
            ("TAP version 13\n1..0\n", Some("no test")),
            ("TAP version 13\n1..1\nBail out! panic\n", Some("panic")),
            ("ok 1\n", Some("no TAP plan")),
        ] {
            let verdict = judge(text).err().map(|error| error.to_string());
            match (&verdict, reason) {
                (None, None) => {}
                (Some(found), Some(reason)) if found.contains(reason) => {}
                _ => bail!("{text:?} was judged {verdict:?}"),
            }
        }
        Ok(())
    })]
}
