//! One agent for each state folder. A second `--once` gives way; beside a running agent it asks that
//! one for a pass.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use tracing::debug;

use super::reload::Reloaded;
use crate::base::files::{FileError, PRIVATE_FOLDER, create_folder};
use crate::base::lock::{Lock, Taken};
use crate::control::{self, Call, ControlError};
use crate::sync::status::NodeStatus;

/// An agent that has just taken the lock opens its socket within this time.
const SOCKET_OPENS_WITHIN: Duration = Duration::from_secs(5);
const SOCKET_PAUSE: Duration = Duration::from_millis(50);
/// A single pass is over within this time, unless something is wrong with it.
const PASS_ENDS_WITHIN: Duration = Duration::from_mins(1);
const PASS_PAUSE: Duration = Duration::from_millis(100);
/// Looks at a lock that is held without saying by whom, and the pause between two: whoever has just
/// taken it writes that next.
const HOLDER_LOOKS: usize = 100;
const HOLDER_PAUSE: Duration = Duration::from_millis(10);
/// How a process that keeps running writes itself into the lock.
const DAEMON: &str = "agent";
/// How one does that ends after a pass.
const ONCE: &str = "single pass";

/// Who else is on the state folder.
#[derive(Debug)]
pub enum Beside {
    /// Nobody: the lock is ours.
    Nobody(Lock),
    /// A running agent; how it calls itself.
    Agent(String),
    /// Another single pass; how it calls itself.
    SinglePass(String),
}

/// Takes the lock of the state folder, which is created if need be. An agent that is to keep running
/// waits for the end of a single pass.
pub(super) async fn take(state_dir: &Path, keeps_running: bool) -> Result<Beside, FileError> {
    take_as(state_dir, keeps_running, keeps_running).await
}

/// The same for what is done once and by nobody else: it waits for the end of a single pass too.
pub(super) async fn take_in_turn(state_dir: &Path) -> Result<Beside, FileError> {
    take_as(state_dir, false, true).await
}

async fn take_as(state_dir: &Path, keeps_running: bool, waits: bool) -> Result<Beside, FileError> {
    let deadline = tokio::time::Instant::now() + PASS_ENDS_WITHIN;
    loop {
        match look(state_dir, keeps_running).await? {
            Beside::SinglePass(who) if waits && tokio::time::Instant::now() < deadline => {
                debug!("waiting for the end of the {who}");
                tokio::time::sleep(PASS_PAUSE).await;
            }
            beside => return Ok(beside),
        }
    }
}

async fn look(state_dir: &Path, keeps_running: bool) -> Result<Beside, FileError> {
    create_folder(state_dir, PRIVATE_FOLDER)?;
    let what = if keeps_running { DAEMON } else { ONCE };
    let holder = format!("{what}, process {}", std::process::id());
    for _ in 0..HOLDER_LOOKS {
        match Lock::try_take(&state_dir.join("lock"), &holder)? {
            Taken::Held(lock) => return Ok(Beside::Nobody(lock)),
            Taken::Busy(who) if who.is_empty() => tokio::time::sleep(HOLDER_PAUSE).await,
            Taken::Busy(who) if who.starts_with(ONCE) => return Ok(Beside::SinglePass(who)),
            Taken::Busy(who) => return Ok(Beside::Agent(who)),
        }
    }
    Ok(Beside::Agent("which does not say what it is".to_owned()))
}

impl std::fmt::Display for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody(_) => "nobody",
            Self::Agent(who) | Self::SinglePass(who) => who,
        })
    }
}

/// Asks the running agent for a pass and waits for its outcome.
pub async fn ask_the_running_agent(
    state_dir: &Path,
    force: bool,
) -> Result<Vec<NodeStatus>, ControlError> {
    nodes_of(&call_when_it_listens(state_dir, Call::Sync { force }).await?)
}

/// Calls an agent that holds the lock: it may not listen yet.
pub(super) async fn call_when_it_listens(
    state_dir: &Path,
    call: Call,
) -> Result<Value, ControlError> {
    let deadline = tokio::time::Instant::now() + SOCKET_OPENS_WITHIN;
    loop {
        match control::call(state_dir, call).await {
            Err(ControlError::NobodyThere) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// Has the running agent read its configuration anew; what it came to.
pub async fn reload(state_dir: &Path) -> Result<Reloaded, ControlError> {
    let mut answer = control::call(state_dir, Call::Reload {}).await?;
    serde_json::from_value(answer["reloaded"].take())
        .map_err(|e| ControlError::Answer(e.to_string()))
}

/// Asks the running agent for its metrics, as text.
pub async fn metrics_of(state_dir: &Path, openmetrics: bool) -> Result<String, ControlError> {
    let answer = control::call(state_dir, Call::Metrics { openmetrics }).await?;
    match answer["body"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(ControlError::Answer("without a text".to_owned())),
    }
}

fn nodes_of(answer: &Value) -> Result<Vec<NodeStatus>, ControlError> {
    let nodes = answer.get("nodes").cloned().unwrap_or_default();
    serde_json::from_value(nodes).map_err(|e| ControlError::Answer(e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_holder_who_has_not_said_yet_who_it_is_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(folder.path().join("lock")).unwrap();
        file.lock().unwrap();
        let says = async {
            tokio::time::sleep(3 * HOLDER_PAUSE).await;
            file.write_all(b"single pass, process 1").unwrap();
        };
        let (beside, ()) = tokio::join!(take(folder.path(), false), says);
        assert!(matches!(beside.unwrap(), Beside::SinglePass(who) if who.ends_with("process 1")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_in_turn_waits_for_a_single_pass_and_not_for_an_agent() {
        let folder = tempfile::tempdir().unwrap();
        let Beside::Nobody(pass) = take(folder.path(), false).await.unwrap() else {
            panic!("somebody is there");
        };
        let ends = async {
            tokio::time::sleep(3 * PASS_PAUSE).await;
            drop(pass);
        };
        let (beside, ()) = tokio::join!(take_in_turn(folder.path()), ends);
        assert!(matches!(beside.unwrap(), Beside::Nobody(_)));
        let Beside::Nobody(_agent) = take(folder.path(), true).await.unwrap() else {
            panic!("the lock was kept");
        };
        let beside = take_in_turn(folder.path()).await.unwrap();
        assert!(matches!(beside, Beside::Agent(_)));
    }
}
