//! Runs hooks, one at a time in the whole process, and tells how each ended.
//!
//! One at a time: an orphan of one of two hooks could not be told from the other's. A node's hook
//! waits for another node's; at most its limit and its grace.

use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::model::ids::NodeId;

use super::environment::environment;
use super::error::HookError;
use super::output::{self, Output};
use super::process::{End, Limits, Running};
use super::strays;
use super::template::{Placeholders, TemplateError, expand};

/// From TERM to KILL for a hook that took too long, or whose agent stops.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// From TERM to KILL for what a hook leaves behind: it had its time.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(1);
/// How long to wait for the end of the output once no process of the hook is left. Only somebody
/// who was handed the pipe through a socket can hold it longer.
const PIPES_GRACE: Duration = Duration::from_millis(500);

/// Held while a hook runs.
pub(super) static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What a hook is told.
#[derive(Clone, Debug)]
pub struct HookCall {
    /// The node whose users changed.
    pub node: NodeId,
    /// `allowed-uuids.txt`.
    pub uuids_file: PathBuf,
    /// `allowed-uuids.json`.
    pub uuids_json: PathBuf,
}

/// A hook that ended with exit code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookDone {
    /// From its start until nothing of it was left.
    pub took: Duration,
    /// Bytes that it printed on stdout and stderr.
    pub output_bytes: u64,
    /// Those of them that were neither kept nor logged.
    pub thrown_bytes: u64,
    /// Processes that it left behind and that were ended.
    pub left_behind: usize,
}

/// Runs the operator's command. Clones and further runners share the one turn.
#[derive(Clone, Debug)]
pub struct HookRunner {
    command: String,
    limits: Limits,
}

impl HookRunner {
    /// `command` is the template (`APPLY_CMD`); a hook may take `timeout`, and what it started 5 s
    /// more to end after TERM.
    pub fn new(command: String, timeout: Duration) -> Self {
        let limits = Limits {
            hook: timeout,
            term: TERM_GRACE,
            leftovers: LEFTOVERS_GRACE,
        };
        Self { command, limits }
    }

    /// Longest time that a hook can take, once it is its turn.
    pub fn longest_run(&self) -> Duration {
        let Limits {
            hook,
            term,
            leftovers,
        } = self.limits;
        hook + term + leftovers + PIPES_GRACE
    }

    #[cfg(test)]
    pub(super) fn with_limits(command: &str, limits: Limits) -> Self {
        Self {
            command: command.to_owned(),
            limits,
        }
    }

    /// Runs the hook and ends all that it leaves behind. When `stop` completes, the hook gets TERM
    /// and 5 s later KILL. Dropping the future kills it at once; that can block the thread for the
    /// milliseconds this takes.
    pub async fn run(
        &self,
        call: &HookCall,
        stop: impl Future<Output = ()>,
    ) -> Result<HookDone, HookError> {
        let command = self.expanded(call)?;
        let mut stop = pin!(stop);
        // Dropped after `running`: the turn is given on when nothing is left.
        let _turn = tokio::select! {
            biased;
            () = &mut stop => return Err(HookError::Stopped),
            turn = ONE_AT_A_TIME.lock() => turn,
        };
        let began = Instant::now();
        let environment = environment(std::env::vars_os(), call, strays::token());
        let mut running =
            Running::start(&command, environment).map_err(|source| HookError::Start { source })?;
        let mut output = Output::new();
        let end = attend(&mut running, &mut output, self.limits, stop).await;
        self.conclude(call.node, began.elapsed(), end, running.ended(), output)
    }

    fn expanded(&self, call: &HookCall) -> Result<String, TemplateError> {
        let values = Placeholders {
            node_id: call.node,
            uuids_file: text_of(&call.uuids_file, "uuids_file")?,
            uuids_json: text_of(&call.uuids_json, "uuids_json")?,
        };
        expand(&self.command, &values)
    }

    fn conclude(
        &self,
        node: NodeId,
        took: Duration,
        end: End,
        left_behind: usize,
        output: Output,
    ) -> Result<HookDone, HookError> {
        let said = output.said();
        let result = match end {
            End::Stopped => Err(HookError::Stopped),
            End::TimedOut => Err(HookError::TimedOut {
                after: self.limits.hook,
                said,
            }),
            End::Itself(Err(source)) => Err(HookError::Start { source }),
            End::Itself(Ok(status)) => match (status.code(), signal_of(status)) {
                (Some(0), _) => Ok(HookDone {
                    took,
                    output_bytes: output.total(),
                    thrown_bytes: output.thrown(),
                    left_behind,
                }),
                (Some(code), _) => Err(HookError::Failed { code, said }),
                (None, signal) => Err(HookError::Signalled { signal, said }),
            },
        };
        output.log(node, result.is_err());
        if result.is_ok() && left_behind > 0 {
            warn!(
                target: "hook", %node,
                "the hook left {left_behind} processes behind, which were ended: start what is to \
                 go on running as a service, not from the hook"
            );
        }
        result
    }
}

/// The hook's life, with its output read all the while.
async fn attend(
    running: &mut Running,
    output: &mut Output,
    limits: Limits,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> End {
    let (stdout, stderr) = running.take_pipes();
    let mut reading = pin!(output::drain(stdout, stderr, output));
    let mut life = pin!(running.live(limits, stop));
    let mut read = false;
    // Both futures live on outside the select: neither arm loses anything.
    let end = loop {
        tokio::select! {
            end = &mut life => break end,
            () = &mut reading, if !read => read = true,
        }
    };
    if !read {
        let _ = timeout(PIPES_GRACE, reading).await;
    }
    end
}

fn signal_of(status: std::process::ExitStatus) -> i32 {
    std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default()
}

fn text_of<'a>(path: &'a Path, name: &'static str) -> Result<&'a str, TemplateError> {
    path.to_str().ok_or(TemplateError::NotText { name })
}
