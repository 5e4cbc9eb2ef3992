//! The command line: reads the arguments, runs the command, prints for people, and turns the outcome
//! into an exit code: 0; 1 the job failed for some node or user; 2 usage or configuration; 70 a
//! failure of our own.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the part that prints"
)]

/// Prints a line for people. Whoever reads may leave early (`| head`): that is no failure.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::cli::stream::say(format_args!($($words)*))
    };
}

mod args;
mod commands;
mod doctor;
mod email;
mod export;
mod init;
mod kick_helper;
mod outbox;
mod print;
mod progress;
mod register;
mod screen;
mod status;
mod step_down;
mod stream;
mod table;
mod traffic;
mod traffic_args;
mod traffic_print;
mod users;
mod users_print;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use args::{Cli, Command};

/// The job failed for some node or user.
const FAILED: u8 = 1;
/// Bad usage or configuration.
const USAGE: u8 = 2;
/// A failure of our own.
const INTERNAL: u8 = 70;

/// Runs the program with `args`, its name included.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args::with_long_flags(args)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    harden();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(INTERNAL);
        }
    };
    let code = runtime.block_on(commands::run(cli));
    // A blocking call that hangs (a disk that is gone) does not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ExitCode::from(code)
}

/// Closes our memory and environment, which hold the token, to other processes of our user: a hook
/// is one.
fn harden() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
