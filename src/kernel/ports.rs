//! What the surface asks of the agent: traits that `app` implements over what runs now, since a reload
//! puts other engines in the place of those that run. Whoever answers holds nothing up for long.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::config::Config;
use crate::model::health::Health;
use crate::model::ids::{InboundTag, NodeId, UserId};
use crate::model::pushed::{PushedPatch, PushedUser};
use crate::model::user_list::Users;
use crate::registry::lives::{Lease, Node, Refused, Registered, Said};
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

    /// Removes an inbound from the running Xray, until that is started again; an error says why it is
    /// still there.
    fn remove_inbound<'a>(
        &'a self,
        xray: &'a str,
        tag: &'a InboundTag,
    ) -> BoxFuture<'a, Result<(), String>>;

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

    /// Those of one id, one for each place that he was pushed to. To be overridden by whoever finds
    /// them faster than by looking through all.
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Vec<PushedView>> {
        Box::pin(async move {
            let all = self.list().await.into_iter();
            all.filter(|it| &*it.user.id.0 == id).collect()
        })
    }

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
    fn patch<'a>(&'a self, id: &'a str, patch: PushedPatch)
    -> BoxFuture<'a, Result<(), PushError>>;

    /// Removes one.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PushError>>;
}

/// Why a registration stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// An inbound has that id.
    #[error("{0} is the id of a managed inbound; register the node under another id")]
    Managed(String),
    /// The registry does not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The disk does not take it.
    #[error("cannot keep it: {0}")]
    Store(String),
}

/// The nodes that register themselves.
pub trait Registrations: Send + Sync {
    /// All of them, by id.
    fn list(&self) -> Vec<Arc<Registered>>;

    /// How a managed inbound was last told to be, by its kernel id; `None`: nothing was told yet.
    fn health_of(&self, inbound: &str) -> Option<Health>;

    /// Takes one in, or renews it.
    fn register(&self, node: Node) -> BoxFuture<'_, Result<Lease, RegistrationError>>;

    /// A sign of life, with words.
    fn heartbeat<'a>(
        &'a self,
        id: &'a str,
        said: Said,
        message: Option<String>,
    ) -> BoxFuture<'a, Result<Lease, RegistrationError>>;

    /// Removes one.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RegistrationError>>;
}

/// Judges addresses that are registered.
pub trait Callbacks: Send + Sync {
    /// Whether it may be called; an error says why not, and the mend.
    fn check<'a>(&'a self, url: &'a url::Url) -> BoxFuture<'a, Result<(), String>>;
}
