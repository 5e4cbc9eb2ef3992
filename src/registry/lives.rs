//! Who is registered, until when, and what becomes of those who fall silent. Pure: the time comes in
//! as an argument, and is the wall clock's, for registrations outlive the agent.
//!
//! Invariant: each change of a node is told once, in the order in which it came about; a clock that is
//! set back lets nobody live longer than his time to live from then.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::health::{Health, Thresholds};

/// How long a node lives after its last sign of life, where it does not say.
pub const TTL_DEFAULT: Duration = Duration::from_secs(90);
/// The shortest: a heartbeat each second is enough for anybody.
pub const TTL_MIN: Duration = Duration::from_secs(3);
/// The longest: who is silent for a day is gone.
pub const TTL_MAX: Duration = Duration::from_hours(24);
/// Of its time to live a node is asked to give a sign of life after this part.
const HEARTBEATS: u32 = 3;
/// After so many times its time to live in silence it is removed.
const REMOVED_AFTER: u32 = 3;
/// Nodes at once; each is a few hundred bytes, kept and shown whole.
pub const NODES_MAX: usize = 10_000;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique among all nodes.
    pub id: String,
    /// What it is for, such as `listener`.
    pub role: String,
    /// What it speaks, such as `vless`.
    pub protocol: String,
    /// Free words.
    #[serde(default)]
    pub tags: Vec<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Where it listens, as it wrote it.
    #[serde(default)]
    pub listen: Option<Value>,
    /// Where it connects to, as it wrote it.
    #[serde(default)]
    pub connect: Option<Value>,
    /// How long it lives after its last sign of life; within [`TTL_MIN`] and [`TTL_MAX`].
    pub ttl: Duration,
}

/// What a sign of life says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// All is well.
    #[default]
    Healthy,
    /// It works, and something is wrong.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// A registered node as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// What it said of itself when it registered last.
    pub node: Node,
    /// When it gave its last sign of life.
    pub heard_at: Timestamp,
    /// How it is.
    pub health: Health,
    /// Its last words, or why it is as it is.
    pub message: Option<String>,
    /// Its time has run out, and that was told.
    #[serde(default)]
    pub expired: bool,
}

/// Until when a node lives without a further sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Then it is unhealthy.
    pub expires_at: Timestamp,
    /// How often it is to give a sign of life.
    pub heartbeat_interval: Duration,
}

/// What has become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is otherwise than before: how.
    Is(Health),
}

/// A change to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The node, as it is after the change.
    pub node: Registered,
    /// What has become of it.
    pub what: What,
}

/// Why a registration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such node, or no more.
    #[error("no node is registered under this id; register it again")]
    Unknown,
    /// There are too many.
    #[error("{NODES_MAX} nodes are registered, and that is all there can be; unregister some")]
    TooMany,
}

/// All registered nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    nodes: BTreeMap<String, Registered>,
    thresholds: Thresholds,
}

impl Lives {
    /// Those that were kept. Whoever's time ran out meanwhile is told of by the next [`Lives::tick`].
    pub fn new(kept: impl IntoIterator<Item = Registered>, thresholds: Thresholds) -> Self {
        let nodes = kept.into_iter().map(|it| (it.node.id.clone(), it));
        Self {
            nodes: nodes.collect(),
            thresholds,
        }
    }

    /// All of them, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Registered> {
        self.nodes.values()
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<&Registered> {
        self.nodes.get(id)
    }

    /// Registers a node, which is a sign of life; one that is registered already is as it says now.
    pub fn register(
        &mut self,
        node: Node,
        now: Timestamp,
    ) -> Result<(Lease, Option<Change>), Refused> {
        let node = Node {
            ttl: node.ttl.clamp(TTL_MIN, TTL_MAX),
            ..node
        };
        let id = node.id.clone();
        let Some(known) = self.nodes.get_mut(&id) else {
            if self.nodes.len() >= NODES_MAX {
                return Err(Refused::TooMany);
            }
            let added = Registered {
                node,
                heard_at: now,
                health: Health::Healthy,
                message: None,
                expired: false,
            };
            self.nodes.insert(id, added.clone());
            let change = Change {
                node: added.clone(),
                what: What::Added,
            };
            return Ok((added.lease(), Some(change)));
        };
        known.node = node;
        let change = known.heard(Said::Healthy, None, now, self.thresholds);
        Ok((known.lease(), change))
    }

    /// Takes a sign of life.
    pub fn heartbeat(
        &mut self,
        id: &str,
        said: Said,
        message: Option<String>,
        now: Timestamp,
    ) -> Result<(Lease, Option<Change>), Refused> {
        let node = self.nodes.get_mut(id).ok_or(Refused::Unknown)?;
        let change = node.heard(said, message, now, self.thresholds);
        Ok((node.lease(), change))
    }

    /// Unregisters a node.
    pub fn remove(&mut self, id: &str) -> Result<Change, Refused> {
        let node = self.nodes.remove(id).ok_or(Refused::Unknown)?;
        Ok(Change {
            node,
            what: What::Removed,
        })
    }

    /// What has become of those who are silent, the longest silent first.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Change> {
        let mut due: Vec<_> = self
            .nodes
            .values_mut()
            .map(|node| {
                // The clock was set back: from now on at most.
                node.heard_at = node.heard_at.min(now);
                (node.expires_at(), node.node.id.clone())
            })
            .filter(|(expires_at, _)| *expires_at <= now)
            .collect();
        due.sort();
        due.into_iter()
            .flat_map(|(_, id)| self.silent(&id, now))
            .collect()
    }

    /// When [`Lives::tick`] has something to do at the earliest; `None`: as long as nobody is
    /// registered.
    pub fn next_tick(&self) -> Option<Timestamp> {
        let next = |node: &Registered| {
            if node.expired {
                node.after(REMOVED_AFTER)
            } else {
                node.expires_at()
            }
        };
        self.nodes.values().map(next).min()
    }

    fn silent(&mut self, id: &str, now: Timestamp) -> Vec<Change> {
        let thresholds = self.thresholds;
        let mut changes = Vec::new();
        let Some(node) = self.nodes.get_mut(id) else {
            return changes;
        };
        if !node.expired {
            node.expired = true;
            let health = node.unhealthy(thresholds);
            let message = "no sign of life in its time".to_owned();
            changes.extend(node.is_now(health, Some(message)));
        }
        if node.after(REMOVED_AFTER) <= now {
            changes.extend(self.remove(id));
        }
        changes
    }
}

impl Registered {
    /// Until when it lives.
    pub fn lease(&self) -> Lease {
        Lease {
            expires_at: self.expires_at(),
            heartbeat_interval: self.node.ttl / HEARTBEATS,
        }
    }

    fn expires_at(&self) -> Timestamp {
        self.after(1)
    }

    fn after(&self, times: u32) -> Timestamp {
        let silence = SignedDuration::try_from(self.node.ttl * times);
        let at = silence
            .ok()
            .and_then(|it| self.heard_at.checked_add(it).ok());
        at.unwrap_or(Timestamp::MAX)
    }

    /// One failure more, and enough of them.
    fn unhealthy(&self, thresholds: Thresholds) -> Health {
        let failures = self.health.failures().saturating_add(1);
        Health::after(failures.max(thresholds.unhealthy), thresholds)
    }

    fn heard(
        &mut self,
        said: Said,
        message: Option<String>,
        now: Timestamp,
        thresholds: Thresholds,
    ) -> Option<Change> {
        (self.heard_at, self.expired) = (now, false);
        let health = match said {
            Said::Healthy => Health::Healthy,
            Said::Degraded => Health::Degraded {
                consecutive_failures: self.health.failures().saturating_add(1),
            },
            Said::Unhealthy => self.unhealthy(thresholds),
        };
        self.is_now(health, message)
    }

    /// A change of the word is told; one of the count alone is not.
    fn is_now(&mut self, health: Health, message: Option<String>) -> Option<Change> {
        let changed = self.health.word() != health.word();
        self.health = health;
        self.message = message;
        changed.then(|| Change {
            node: self.clone(),
            what: What::Is(health),
        })
    }
}
