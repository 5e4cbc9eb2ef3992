//! How a store is, as status, metrics and the ledger's callers see it. Only a commit makes a store
//! well again: that reads work says nothing about the disk.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How a store is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum State {
    /// As far as is known, the next work succeeds.
    #[default]
    Ok,
    /// The last work failed, and why; the next one is tried.
    Degraded(String),
    /// The file has a newer schema: nothing is tried.
    Refused(String),
    /// A sync of the disk failed: nothing is tried, the process has to end.
    Failed(String),
}

/// How a store is and what it did since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// How it is.
    #[serde(flatten)]
    pub state: State,
    /// How long the last committed transaction took, from its begin to the disk.
    #[serde(rename = "last_commit_ms", serialize_with = "milliseconds")]
    pub last_commit: Option<Duration>,
    /// Commits since the start.
    pub commits: u64,
    /// Where a damaged file was last set aside since the start.
    pub set_aside: Option<PathBuf>,
}

#[expect(clippy::ref_option, reason = "the form that serde calls")]
fn milliseconds<S: Serializer>(took: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    took.map(|took| took.as_secs_f64() * 1_000.0).serialize(to)
}
