//! Child processes: told to the user, checked, their failures explained.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The command as a user would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![quoted(&command.get_program().to_string_lossy())];
    words.extend(command.get_args().map(|a| quoted(&a.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command with the user's terminal.
///
/// # Errors
/// When it can't be started or reports failure.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command in silence and returns what it printed on standard output.
///
/// # Errors
/// When it can't be started or reports failure; the message ends with the
/// last lines of its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start `{}`", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n  ");
        bail!("`{}` failed ({})\n  {tail}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command in silence beside a spinner.
///
/// # Errors
/// As [`output`].
pub fn run_with_spinner(what: &str, command: &mut Command) -> Result<String> {
    let spinner = spinner(what);
    let result = output(command);
    spinner.finish_and_clear();
    if result.is_ok() {
        println!("{what}: done");
    }
    result
}

/// A spinner that turns by itself.
pub fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar that counts bytes.
pub fn byte_bar(what: &str, total: u64) -> ProgressBar {
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
    let bar = ProgressBar::new(total).with_message(what.to_string());
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Finds a program as the shell would.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_the_shell_would_need_it() {
        let mut command = Command::new("qemu");
        command.args(["-M", "virt,gic-version=3", "-append", "a b", "it's", ""]);
        assert_eq!(shown(&command), r"qemu -M virt,gic-version=3 -append 'a b' 'it'\''s' ''");
    }

    #[test]
    fn the_error_of_a_failed_command_ends_with_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 3"]));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("exit status: 3") && text.ends_with("reason"), "{text}");
    }
}
