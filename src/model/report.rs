//! Reports of traffic: what a panel is told of one user's bytes, and what it can answer. Plain data
//! between the ledger, which decides what an answer means, and the adapters that carry reports out.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::batch::BatchReply;
use super::desired::InboundKey;
use super::ids::{NodeId, UserId};

/// A report's number, a UUID v7: also its idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReportId(pub Uuid);

impl fmt::Display for ReportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Bytes of one user at one node, or in one inbound, to be counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its number, the same however often it is sent.
    pub id: ReportId,
    /// The panel's node.
    pub node: NodeId,
    /// Whose bytes.
    pub user: UserId,
    /// From the user, in bytes.
    pub up: u64,
    /// To the user, in bytes.
    pub down: u64,
    /// The inbound, in a report to a panel that pushes users; others are told of nodes.
    pub inbound: Option<InboundKey>,
    /// Until when they were counted.
    pub until: Timestamp,
}

/// Bytes that a panel that pushes users has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whose.
    pub user: UserId,
    /// The inbound that he used.
    pub inbound: InboundKey,
    /// From the user, in bytes.
    pub up: u64,
    /// To the user, in bytes.
    pub down: u64,
}

/// Hears what panels that push users have taken, when that is written down. Must not block.
pub trait TakenBytes: Send + Sync {
    /// The sink of this name has taken these.
    fn taken(&self, sink: &str, records: &[Taken]);
}

/// What a person decides of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// An unknown one arrived: settled.
    Delivered,
    /// An unknown one did not: it is sent again, under its number.
    NotDelivered,
    /// A rejected one is sent again, under a new number: a panel that drops repeats may remember
    /// its refusal by the old one.
    Retry,
}

/// What became of sending a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It failed before the first byte of the request was written: nobody can have taken it.
    NotSent {
        /// What happened, fit to be shown.
        why: String,
    },
    /// It failed after that: it may have been taken or not.
    Lost {
        /// What happened, fit to be shown.
        why: String,
    },
    /// A whole answer came.
    Replied(Reply),
    /// A whole answer came, of a panel that takes many at once.
    Batch(BatchReply),
}

/// A whole answer to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The panel's JSON envelope; `None` where the body is anything else.
    pub envelope: Option<Envelope>,
    /// What `Retry-After` asked for.
    pub retry_after: Option<Duration>,
    /// Whether the answer echoed the report's `Idempotency-Key`: such a panel drops repeats.
    pub echoes_key: bool,
    /// The answer in one line, fit to be shown.
    pub shown: String,
}

/// The panel's own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Its `code`.
    pub code: i64,
    /// Its `message`, whole.
    pub message: String,
}
