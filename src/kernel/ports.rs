//! What the surface asks of the agent: traits that `app` implements over what runs now, since a reload
//! puts other engines in the place of those that run. Whoever answers holds nothing up for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::requests::{Change, Metadata};
use crate::base::secret::Secret;
use crate::config::Config;
use crate::model::health::Health;
use crate::model::ids::{NodeId, UserId};
use crate::model::pushed::PushedUser;
use crate::model::user_list::Users;
use crate::sync::status::NodeStatus;
use crate::xray::inbound::InboundInfo;

/// The agent as it runs now.
pub trait Agent: Send + Sync {
    /// The configuration in force.
    fn config(&self) -> Arc<Config>;

    /// How every node stands.
    fn nodes(&self) -> Vec<NodeStatus>;

    /// What the running Xray by that name says of its inbounds; `None`: it does not answer, or cannot
    /// list them.
    fn listing<'a>(&'a self, xray: &'a str) -> BoxFuture<'a, Option<Vec<InboundInfo>>>;

    /// Whom the polled panel allows at each node, by its last good answer.
    fn allowed(&self) -> Vec<(NodeId, Users)>;

    /// Brings every inbound to who should be there, without asking the polled panel first. Comes
    /// back when that is done, or takes too long to wait for.
    fn reconcile(&self) -> BoxFuture<'_, ()>;
}

/// Bytes from users and to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From users.
    pub up: u64,
    /// To users.
    pub down: u64,
}

/// Bytes of one inbound since the ledger was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundBytes {
    /// The name of its Xray.
    pub xray: String,
    /// Its tag.
    pub tag: String,
    /// How many.
    pub bytes: Bytes,
}

/// What the ledger counted.
pub trait Totals: Send + Sync {
    /// Of every inbound; an error says why it cannot be told.
    fn of_inbounds(&self) -> BoxFuture<'_, Result<Vec<InboundBytes>, String>>;

    /// In both directions of every user.
    fn of_users(&self) -> BoxFuture<'_, Result<HashMap<UserId, u64>, String>>;
}

/// A pushed user, as he stands.
#[derive(Clone, Debug)]
pub struct PushedView {
    /// As he was pushed.
    pub user: PushedUser,
    /// The kernel id of the inbound that he was pushed to; `None`: to every one.
    pub inbound: Option<String>,
    /// Who he is in inbounds; he may be a polled user, too.
    pub identities: Vec<UserId>,
    /// Bytes of his quota that are used up now.
    pub used: u64,
    /// Whether his quota keeps him out.
    pub exhausted: bool,
}

/// What is to change of a pushed user.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    /// His password.
    pub password: Option<Secret>,
    /// Bytes that he may have.
    pub allocated: Option<u64>,
    /// Bytes that he had.
    pub used: Option<u64>,
    /// His limit of speed.
    pub up: Change,
    /// The limit of what he is sent.
    pub down: Change,
    /// Further facts.
    pub metadata: Option<Metadata>,
    /// Words that he is sorted by.
    pub tags: Option<Vec<String>>,
}

/// Why pushed users stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// There is one of that id.
    #[error("a user with the id {0} is there already; change him with PATCH /v1/users/{0}")]
    Exists(String),
    /// There is none of that id.
    #[error("no pushed user has the id {0}")]
    Unknown(String),
    /// He lacks what an inbound would know him by; the second says what.
    #[error("user {0}: {1}")]
    Unfit(String, String),
    /// One id is there twice.
    #[error("the id {0} is there twice; send each user once")]
    Twice(String),
    /// More would go than a mistake may take away.
    #[error(
        "{gone} of {of} pushed users would go, which looks like a mistake; repeat it with \
         ?force=true if it is meant"
    )]
    TooManyGone {
        /// Who would go.
        gone: usize,
        /// Who are there.
        of: usize,
    },
    /// The disk does not take it.
    #[error("cannot keep it: {0}")]
    Store(String),
}

/// The pushed users. Every change is whole or not made, and on the disk when it comes back.
pub trait PushedUsers: Send + Sync {
    /// All of them, in the order of their ids.
    fn list(&self) -> BoxFuture<'_, Vec<PushedView>>;

    /// Those of one id, one for each place that he was pushed to.
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Vec<PushedView>>;

    /// Makes these the users that were pushed to one inbound, by its kernel id.
    fn replace<'a>(
        &'a self,
        inbound: &'a str,
        users: Vec<PushedUser>,
    ) -> BoxFuture<'a, Result<(), PushError>>;

    /// Makes these the users that were pushed to every inbound; how many there are.
    fn import(
        &self,
        users: Vec<PushedUser>,
        force: bool,
    ) -> BoxFuture<'_, Result<usize, PushError>>;

    /// Adds one for every inbound.
    fn create(&self, user: PushedUser) -> BoxFuture<'_, Result<(), PushError>>;

    /// Changes one.
    fn patch<'a>(&'a self, id: &'a str, patch: Patch) -> BoxFuture<'a, Result<(), PushError>>;

    /// Removes one.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PushError>>;
}

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub role: String,
    /// What it speaks.
    pub protocol: String,
    /// Free words.
    pub tags: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// Where it listens.
    pub listen: Option<Value>,
    /// Where it connects to.
    pub connect: Option<Value>,
    /// How long it lives after a sign of life.
    pub ttl: Duration,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredNode {
    /// What it said of itself.
    pub node: NewNode,
    /// How it is.
    pub health: Health,
    /// Its last words.
    pub message: Option<String>,
    /// When it gave its last sign of life.
    pub heard_at: Timestamp,
    /// Until when it lives without a further one.
    pub lease: NodeLease,
}

/// Until when a node lives, and how often it is to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLease {
    /// Then it is unhealthy.
    pub expires_at: Timestamp,
    /// How often it is to give a sign of life.
    pub heartbeat_interval: Duration,
}

/// Why a registration stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// An inbound has that id.
    #[error("{0} is the id of a managed inbound; register the node under another id")]
    Managed(String),
    /// No node has that id.
    #[error("no node is registered as {0}; register it again")]
    Unknown(String),
    /// What it says cannot be.
    #[error("{0}")]
    Unfit(String),
    /// There are too many.
    #[error("{0}")]
    TooMany(String),
    /// The disk does not take it.
    #[error("cannot keep it: {0}")]
    Store(String),
}

/// How a node says that it is: the health, and words.
pub type Sign = (NodeWord, Option<String>);

/// How a node says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeWord {
    /// All is well.
    #[default]
    Healthy,
    /// It works, and something is wrong.
    Degraded,
    /// It does not work.
    Unhealthy,
}

/// The nodes that register themselves.
pub trait Registrations: Send + Sync {
    /// All of them.
    fn list(&self) -> Vec<RegisteredNode>;

    /// Takes one in, or renews it.
    fn register(&self, node: NewNode) -> BoxFuture<'_, Result<NodeLease, RegistrationError>>;

    /// A sign of life.
    fn heartbeat<'a>(
        &'a self,
        id: &'a str,
        sign: Sign,
    ) -> BoxFuture<'a, Result<NodeLease, RegistrationError>>;

    /// Removes one.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RegistrationError>>;
}

/// Judges addresses that are registered.
pub trait Callbacks: Send + Sync {
    /// Whether it may be called; an error says why not, and the mend.
    fn check<'a>(&'a self, url: &'a url::Url) -> BoxFuture<'a, Result<(), String>>;
}
