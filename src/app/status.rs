//! How everything stands: as the running agent says it, or, where none runs, as the state folder shows
//! it, which is left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ledger;
use super::reload::ConfigurationStatus;
use crate::config::Config;
use crate::control::{self, Call, ControlError};
use crate::sync::kept;
use crate::sync::status::NodeStatus;
use crate::traffic::ledger::views::{self, Summary};
use crate::traffic::status::TrafficStatus;

/// The agent answers at once what it has in memory; one that does not hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Folders in folders of the state folder, itself included.
const FOLDERS_DEEP: usize = 3;

/// How everything stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Whether an agent runs. If not, nodes are as they were left: nobody was asked.
    pub running: bool,
    /// The state folder.
    pub state_dir: PathBuf,
    /// Where no agent runs: when something was last written there.
    #[serde(default)]
    pub written_at: Option<Timestamp>,
    /// The agent's version; ours, where none runs.
    pub version: String,
    /// Its process.
    pub process: Option<u32>,
    /// What is done with the users.
    pub mode: String,
    /// Since when it runs.
    pub started: Option<Timestamp>,
    /// How it stands with its configuration; `None` where none runs.
    #[serde(default)]
    pub configuration: Option<ConfigurationStatus>,
    /// Every node.
    pub nodes: Vec<NodeStatus>,
    /// Reading counters and reporting; `None` where no agent runs, or none of it is done.
    pub traffic: Option<TrafficStatus>,
    /// The agent's tasks.
    pub tasks: Vec<TaskStanding>,
    /// Sums of traffic; `None` without a ledger.
    #[serde(default)]
    pub ledger: Option<Summary>,
    /// Why the sums cannot be told.
    #[serde(default)]
    pub ledger_error: Option<String>,
}

/// One of the agent's tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskStanding {
    /// Its name.
    pub name: String,
    /// Whether it runs now.
    pub alive: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// How it ended last, where nobody asked it to.
    pub last_error: Option<String>,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The running agent refused, or could not be asked.
    #[error("{}: {source}", state_dir.display())]
    Agent {
        /// The state folder.
        state_dir: PathBuf,
        /// Why.
        source: ControlError,
    },
    /// The running agent is silent.
    #[error("the running agent has not answered within {ANSWER_WITHIN:?}")]
    Silent,
    /// The state folder cannot be read.
    #[error(transparent)]
    State(#[from] crate::base::files::FileError),
}

/// A [`Standing`] as JSON, with whatever else the running agent says.
pub async fn status(config: &Config) -> Result<Value, StatusError> {
    let state_dir = &config.state_dir;
    let answer = tokio::time::timeout(ANSWER_WITHIN, control::call(state_dir, Call::Status {}));
    let mut standing = match answer.await.map_err(|_| StatusError::Silent)? {
        Ok(answer) => answer,
        Err(ControlError::NobodyThere) => return Ok(json!(as_left(config)?)),
        Err(source) => {
            let state_dir = state_dir.clone();
            return Err(StatusError::Agent { state_dir, source });
        }
    };
    let (ledger, ledger_error) = sums(state_dir);
    standing["running"] = true.into();
    standing["state_dir"] = json!(state_dir);
    standing["ledger"] = json!(ledger);
    standing["ledger_error"] = json!(ledger_error);
    Ok(standing)
}

fn as_left(config: &Config) -> Result<Standing, StatusError> {
    let state_dir = &config.state_dir;
    let (ledger, ledger_error) = sums(state_dir);
    Ok(Standing {
        running: false,
        state_dir: state_dir.clone(),
        written_at: written_at(state_dir, FOLDERS_DEEP),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: None,
        mode: config.mode.name().to_owned(),
        started: None,
        configuration: None,
        nodes: kept::nodes(config)?,
        traffic: None,
        tasks: Vec::new(),
        ledger,
        ledger_error,
    })
}

fn sums(state_dir: &Path) -> (Option<Summary>, Option<String>) {
    match ledger::look(state_dir, views::summary) {
        Ok(sums) => (sums, None),
        Err(why) => (None, Some(why)),
    }
}

/// The latest change of a file in `folder`.
fn written_at(folder: &Path, deep: usize) -> Option<Timestamp> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let times = entries.filter_map(|entry| {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() && deep > 1 {
            return written_at(&entry.path(), deep - 1);
        }
        let changed = entry.metadata().ok().filter(|_| kind.is_file())?;
        Timestamp::try_from(changed.modified().ok()?).ok()
    });
    times.max()
}
