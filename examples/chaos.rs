//! Real bytes through a real Xray while the agent, Xray and the panel fail at random; at the end, the
//! sums to the byte. `cargo run --release --example chaos -- --kills 1000` is the campaign; needs
//! Python 3 with pip (or `XRAY_BIN`), nothing else. Exit code 1 when a single byte is wrong.
//!
//! What is shown, and how the truth is known: `tests/chaos/mod.rs`. The agent is this program itself,
//! started again as `chaos agent` and driven by its environment as in production.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a campaign is there to be watched on a terminal"
)]

#[path = "../tests/chaos/mod.rs"]
mod chaos;
#[path = "../tests/lab/mod.rs"]
mod lab;

use std::env;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use chaos::{Options, run};
use lab::AgentCommand;

const HELP: &str = "\
Real bytes through a real Xray, its agent and a panel, while all of them fail at random.

Usage: cargo run --release --example chaos [-- OPTIONS]

  --kills N    kill the agent (4 of 5) or Xray (1 of 5) that often [25]
  --seed S     choose kills and faults by this number [1]
  --users N    so many users move bytes all the time [20]
  --no-dedupe  the panel counts repeats; without it, it drops them
  -h, --help   this text

Needs Python 3.9-3.14 with pip, which fetches Xray from PyPI at the first run,
or XRAY_BIN=/path/to/xray. A kill takes about two seconds. The exit code is 1
when the sums are not exact.";

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    match args[..] {
        ["agent"] => xray_agent::cli::run([OsString::from("xray-agent")]),
        ["-h" | "--help"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => match options(&args) {
            Ok(options) => play(options),
            Err(error) => {
                eprintln!("{error:#}\n\n{HELP}");
                ExitCode::from(2)
            }
        },
    }
}

fn options(args: &[&str]) -> Result<Options> {
    let mut options = Options {
        kills: 25,
        seed: 1,
        dedupes: true,
        users: 20,
    };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        if *name == "--no-dedupe" {
            options.dedupes = false;
            continue;
        }
        let value = args.next().copied().unwrap_or_default();
        let number = || {
            let parsed = value.parse::<u32>();
            parsed.with_context(|| format!("{name} {value:?} is not a number"))
        };
        match *name {
            "--kills" => options.kills = number()?,
            "--seed" => options.seed = number()?.into(),
            "--users" => options.users = number()?,
            _ => bail!("{name} is not an option"),
        }
    }
    ensure!(options.users > 0, "--users 0 moves nothing");
    Ok(options)
}

#[tokio::main]
async fn play(options: Options) -> ExitCode {
    let outcome = async {
        let agent = AgentCommand::new(env::current_exe()?).arg("agent");
        run(options, agent, show).await
    };
    match outcome.await {
        Ok(report) if report.is_exact() => {
            println!("\n{report}");
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!("\n{report}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nThe campaign could not be played: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line, over the last one on a terminal.
fn show(line: &str) {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K{line}");
        // Only a picture: a terminal that is gone is no reason to end.
        let _ = std::io::stdout().flush();
    } else {
        println!("{line}");
    }
}
