//! What can be said on the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::doctor::DoctorArgs;
use super::outbox::OutboxArgs;
use super::register::RegisterArgs;
use super::status::StatusArgs;
use super::traffic_args::TrafficArgs;
use super::users::UsersArgs;
use crate::config::DEFAULT_FILE;

/// Keeps the live users of a running Xray equal to the users a panel allows.
#[derive(Debug, Parser)]
#[command(name = "xray-agent", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: /etc/xray-agent/config.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// How to run, where no command is given.
    #[command(flatten)]
    pub run: RunArgs,

    /// What to do; to run, where none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How to run.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct RunArgs {
    /// Make one pass and end: exit code 0, or 1 when it failed for some node or user.
    #[arg(long)]
    pub once: bool,

    /// End with exit code 1 at the first pass that fails.
    #[arg(long)]
    pub fail_fast: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until a signal (the default). USR1 asks for a pass, HUP for a reload, TERM and INT end it.
    Run(RunArgs),
    /// Make a pass now: by the running agent if there is one, else by itself.
    Sync {
        /// Only print what would be done.
        #[arg(long, conflicts_with = "force")]
        dry_run: bool,
        /// Let removals through that the brake holds.
        #[arg(long)]
        force: bool,
        /// With --dry-run: print the users too, by their first 8 characters.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Give a node's inbounds the users of a file, and end: fit to be an `APPLY_CMD`.
    Apply {
        /// The panel's id of the node; its inbounds are those of the configuration or `XRAY_TAG_MAP`.
        #[arg(long)]
        node: u64,
        /// File with one UUID a line.
        #[arg(long, value_name = "FILE")]
        uuids_file: PathBuf,
        /// Let removals through that the brake holds.
        #[arg(long)]
        force: bool,
    },
    /// Say everything that is wrong with the configuration.
    CheckConfig,
    /// Check everything that an installation needs, and say what mends it. Changes nothing.
    Doctor(DoctorArgs),
    /// Write a commented configuration to begin with, and say how to go on.
    Init {
        /// Where to; a file that is there is never overwritten.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        output: PathBuf,
    },
    /// Print the script by which a shell completes our command lines.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Exit code 0 unless nothing was configured yet: for the unit, which then does not start.
    #[command(hide = true)]
    IsConfigured,
    /// Cut connections for an agent that may not: started by xray-agent-kick.socket.
    #[command(hide = true)]
    KickHelper {
        /// Listen here [default: the listener on standard input].
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Make a node known to the panel, and print its id.
    ///
    /// One that the panel knows by address, port and protocol keeps the id that it has.
    Register(RegisterArgs),
    /// What is asked beside an agent that may be running.
    #[command(flatten)]
    Operation(Operation),
}

/// Commands of an operator, beside an agent that may be running.
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Show how everything stands: as the running agent says it, or as it was left.
    ///
    /// Exit code 1 where no agent runs, or where something is wrong.
    Status(StatusArgs),
    /// Have the running agent read its configuration anew; one that is wrong changes nothing.
    Reload,
    /// Print the running agent's metrics for Prometheus.
    Metrics {
        /// As OpenMetrics 1.0 instead of Prometheus' text format.
        #[arg(long)]
        openmetrics: bool,
    },
    /// Show, or change, how users' e-mails are written in each inbound.
    Email {
        /// The form to change to.
        #[arg(long, value_name = "FORM")]
        set: Option<Form>,
        /// Only this inbound.
        #[arg(long, value_name = "TAG")]
        inbound: Option<String>,
    },
    /// Show what traffic was counted and what the panel has of it, or act on it.
    Traffic(TrafficArgs),
    /// Show who is live in Xray and who should be, or look at one user, or act on one.
    Users(UsersArgs),
    /// Show who is sent events and how that goes, or send again what was given up.
    ///
    /// Asks the running agent.
    Outbox(OutboxArgs),
}

/// How a user's e-mail is written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Form {
    /// The UUID alone.
    Bare,
    /// `<kernel id>.<uuid>`: traffic is known for each inbound.
    Prefixed,
}

/// The flags of seed 001's connector are written with one dash.
pub(super) fn with_long_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some("-once" | "-once=true" | "--once=true") => "--once".into(),
            Some("-fail-fast" | "-fail-fast=true" | "--fail-fast=true") => "--fail-fast".into(),
            _ => arg,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_long_flags(args.iter().map(OsString::from)))
    }

    #[test]
    fn the_connectors_flags_work_with_one_dash_and_two() {
        for args in [["x", "-once", "-fail-fast"], ["x", "--once", "--fail-fast"]] {
            let run = parsed(&args).unwrap().run;
            assert!(run.once && run.fail_fast);
        }
        assert!(parsed(&["x"]).unwrap().command.is_none());
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert!(parsed(&["x", "sync", "--dry-run", "--force"]).is_err());
        assert!(parsed(&["x", "apply", "--node", "1"]).is_err());
    }
}
