//! Entry of the host tool; all of it is in the library, where tests reach it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match xtask::execute(&xtask::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
