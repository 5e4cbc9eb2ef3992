//! The program `xray-agent`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    xray_agent::cli::run(std::env::args_os())
}
