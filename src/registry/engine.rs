//! Who is there besides and how he is: nodes that registered themselves, and what was last told of the
//! managed inbounds. The rows of `agent.db` are the truth; what is shown is a picture of them.
//!
//! Kept here: what became of a node is written down and told in one transaction, so a restart loses no
//! change and tells none twice. A time in which the agent did not run counts as silence, but nobody is
//! judged by it before the agent has listened for one of his heartbeat intervals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::debug;

use super::inbounds::{Inbound, Look, Managed};
use super::lives::{Change, Lease, Lives, NODES_MAX, Node, Refused, Registered, Said, What};
use super::{rows, telling};
use crate::base::clock::Clock;
use crate::base::redact;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::events::Events;
use crate::model::health::Thresholds;
use crate::store::{Store, StoreError, Work, WorkError};

/// The longest sleep in one go: the wall clock may step, and the host sleep.
const NAP: Duration = Duration::from_secs(20);
/// The shortest pause between two looks at who is silent: a look is a transaction.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Of what a node says of itself so much is kept, as JSON: all of it is held in memory and shown.
const NODE_BYTES_MAX: usize = 4 << 10;
/// Characters of a node's last words.
const WORDS_CHARS_MAX: usize = 300;

/// Why a registration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The id is that of a managed inbound.
    #[error("{0} is the id of an inbound that this agent manages; register under another")]
    Managed(String),
    /// It says too much.
    #[error("a node takes at most {NODE_BYTES_MAX} bytes to describe; shorten tags or description")]
    TooLong,
    /// The node is not known, or one too many.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A handle; clones share the registry.
#[derive(Clone)]
pub struct Handle(Arc<Registry>);

struct Registry {
    events: Events,
    thresholds: Thresholds,
    clock: Clock,
    shown: Arc<Mutex<Shown>>,
    /// Rings when somebody's silence may mean something sooner than was known.
    changed: Arc<Notify>,
}

/// A picture of the rows, in the order of commits.
#[derive(Default)]
struct Shown {
    /// Of which opening of the file; `None`: of none yet.
    generation: Option<u64>,
    nodes: BTreeMap<String, Arc<Registered>>,
    inbounds: BTreeMap<String, Inbound>,
}

impl Handle {
    /// The registry in the store of `events`, with what is known from the last run where that can be
    /// read; else it is read as soon as it can be.
    pub async fn open(events: Events, thresholds: Thresholds, clock: Clock) -> Self {
        let handle = Self(Arc::new(Registry {
            events,
            thresholds,
            clock,
            shown: Arc::default(),
            changed: Arc::default(),
        }));
        if let Err(e) = handle.0.tick().await {
            debug!("registered nodes cannot be read: {e}");
        }
        handle
    }

    /// Takes a node in, or takes what one says of himself now.
    pub async fn register(&self, node: Node) -> Result<Lease, RegistryError> {
        if serde_json::to_vec(&node).map_or(0, |text| text.len()) > NODE_BYTES_MAX {
            return Err(RegistryError::TooLong);
        }
        let (registry, now) = (self.0.clone(), self.0.clock.now());
        let write = move |work: &Work<'_>| {
            if rows::is_managed(work, &node.id)? {
                return Ok(Err(RegistryError::Managed(node.id)));
            }
            let known = rows::node(work, &node.id)?;
            if known.is_none() && rows::count(work)? >= NODES_MAX {
                return Ok(Err(Refused::TooMany.into()));
            }
            let id = node.id.clone();
            let mut lives = Lives::new(known, registry.thresholds);
            let (lease, change) = match lives.register(node, now) {
                Ok(taken) => taken,
                Err(refused) => return Ok(Err(refused.into())),
            };
            registry.keep(work, &lives, &id, change, now)?;
            Ok(Ok(lease))
        };
        self.0.store().write("register", write).await?
    }

    /// Takes a node's sign of life. Of a message one line of harmless characters is kept.
    pub async fn heartbeat(
        &self,
        id: &str,
        said: Said,
        message: Option<String>,
    ) -> Result<Lease, RegistryError> {
        let message = message.map(|words| redact::line(&words, WORDS_CHARS_MAX));
        let (registry, now, id) = (self.0.clone(), self.0.clock.now(), id.to_owned());
        let write = move |work: &Work<'_>| {
            let mut lives = Lives::new(rows::node(work, &id)?, registry.thresholds);
            let (lease, change) = match lives.heartbeat(&id, said, message, now) {
                Ok(heard) => heard,
                Err(refused) => return Ok(Err(refused.into())),
            };
            registry.keep(work, &lives, &id, change, now)?;
            Ok(Ok(lease))
        };
        self.0.store().write("heartbeat", write).await?
    }

    /// Takes a node out.
    pub async fn remove(&self, id: &str) -> Result<(), RegistryError> {
        let (registry, now, id) = (self.0.clone(), self.0.clock.now(), id.to_owned());
        let write = move |work: &Work<'_>| {
            let mut lives = Lives::new(rows::node(work, &id)?, registry.thresholds);
            let change = match lives.remove(&id) {
                Ok(change) => change,
                Err(refused) => return Ok(Err(refused.into())),
            };
            registry.keep(work, &lives, &id, Some(change), now)?;
            Ok(Ok(()))
        };
        self.0.store().write("unregister", write).await?
    }

    /// All registered nodes, by id.
    pub fn list(&self) -> Vec<Arc<Registered>> {
        self.0.shown().nodes.values().cloned().collect()
    }

    /// All managed inbounds as they were last told of, by kernel id, with the failures counted since.
    pub fn inbounds(&self) -> Vec<Inbound> {
        self.0.shown().inbounds.values().cloned().collect()
    }

    /// These are the managed inbounds from now on; who is new and who is gone is told. A registered
    /// node of the same name gives way.
    pub async fn manage(&self, managed: Vec<Managed>) -> Result<(), StoreError> {
        let (registry, now) = (self.0.clone(), self.0.clock.now());
        let write = move |work: &Work<'_>| registry.managed(work, managed, now);
        self.0.store().write("managed", write).await
    }

    /// Somebody looked at a managed inbound; a change is told.
    pub async fn looked(&self, look: Look) -> Result<(), StoreError> {
        {
            let mut shown = self.0.shown();
            let Some(known) = shown.inbounds.get_mut(&look.id) else {
                return Ok(());
            };
            let (after, is_told) = known.after(&look, self.0.thresholds);
            if !is_told {
                // Nobody writes a count down for every pass that fails.
                *known = after;
                return Ok(());
            }
        }
        let (registry, now) = (self.0.clone(), self.0.clock.now());
        let write = move |work: &Work<'_>| {
            // As it was when it was looked at: one caller looks.
            let known = registry.shown().inbounds.get(&look.id).cloned();
            let Some((after, true)) = known.map(|known| known.after(&look, registry.thresholds))
            else {
                return Ok(());
            };
            let event = telling::of_inbound(&after, What::Is(after.health), now);
            rows::put_inbound(work, &after)?;
            registry.events.record(work, event)?;
            registry.show(work, move |shown| {
                shown.inbounds.insert(after.id.clone(), after);
            });
            Ok(())
        };
        self.0.store().write("looked", write).await
    }

    /// Judges whoever is silent now; when to look next.
    pub(super) async fn look_at_silence(&self) -> Result<Option<Timestamp>, StoreError> {
        self.0.tick().await
    }

    /// Watches for silence until the end is asked for.
    pub async fn run(self, mut shutdown: Shutdown, heartbeat: Heartbeat) {
        loop {
            heartbeat.beat();
            let pause = match self.look_at_silence().await {
                Ok(next) => next.map_or(NAP, |next| self.0.until(next)),
                Err(e) => {
                    debug!("registered nodes cannot be looked at: {e}");
                    NAP
                }
            };
            // All arms are cancel-safe.
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.0.changed.notified() => sleep(PAUSE_MIN).await,
                () = sleep(pause) => {}
            }
        }
    }
}

impl Registry {
    fn store(&self) -> &Store {
        self.events.outbox().store()
    }

    fn until(&self, next: Timestamp) -> Duration {
        let until = Duration::try_from(next.duration_since(self.clock.now()));
        until.unwrap_or_default().clamp(PAUSE_MIN, NAP)
    }

    /// Looks at who is silent; when to look next. Where nobody is due, nothing is written.
    async fn tick(self: &Arc<Self>) -> Result<Option<Timestamp>, StoreError> {
        let (registry, now) = (self.clone(), self.clock.now());
        let look = move |work: &Work<'_>| {
            let is_known = registry.shown().generation == Some(work.generation);
            let is_quiet = is_known && rows::due(work, now)?.is_empty();
            Ok((is_quiet, rows::next_due(work)?))
        };
        let (is_quiet, next) = self.store().read("silence", look).await?;
        if is_quiet {
            return Ok(next);
        }
        let registry = self.clone();
        let judge = move |work: &Work<'_>| registry.judge(work, now);
        self.store().write("silence", judge).await
    }

    fn judge(&self, work: &Work<'_>, now: Timestamp) -> Result<Option<Timestamp>, WorkError> {
        self.resume(work, now)?;
        let due = rows::due(work, now)?;
        let mut lives = Lives::new(due.iter().cloned(), self.thresholds);
        for change in lives.tick(now) {
            let event = telling::of_node(&change, now);
            self.events.record(work, event)?;
        }
        for node in due {
            self.keep(work, &lives, &node.node.id, None, now)?;
        }
        rows::next_due(work)
    }

    /// Takes the picture of a file that was opened anew.
    fn resume(&self, work: &Work<'_>, now: Timestamp) -> Result<(), WorkError> {
        if self.shown().generation == Some(work.generation) {
            return Ok(());
        }
        let nodes = rows::nodes(work)?;
        for node in &nodes {
            let interval = SignedDuration::try_from(node.lease().heartbeat_interval);
            let heard_by_then = interval.ok().and_then(|it| now.checked_add(it).ok());
            rows::put_node(work, node, heard_by_then)?;
        }
        let inbounds: Vec<_> = rows::inbounds(work)?
            .into_iter()
            .map(Inbound::resumed)
            .collect();
        let generation = work.generation;
        self.show(work, move |shown| {
            shown.generation = Some(generation);
            let nodes = nodes.into_iter();
            shown.nodes = nodes
                .map(|node| (node.node.id.clone(), Arc::new(node)))
                .collect();
            let inbounds = inbounds.into_iter();
            shown.inbounds = inbounds.map(|it| (it.id.clone(), it)).collect();
        });
        Ok(())
    }

    /// Writes down and shows how a node is now, and tells what became of it.
    fn keep(
        &self,
        work: &Work<'_>,
        lives: &Lives,
        id: &str,
        change: Option<Change>,
        now: Timestamp,
    ) -> Result<(), WorkError> {
        match lives.get(id) {
            Some(node) => rows::put_node(work, node, None)?,
            None => drop(rows::remove_node(work, id)?),
        }
        if let Some(change) = change {
            self.events.record(work, telling::of_node(&change, now))?;
        }
        let (id, node) = (id.to_owned(), lives.get(id).cloned().map(Arc::new));
        self.show(work, move |shown| {
            match node {
                Some(node) => shown.nodes.insert(id, node),
                None => shown.nodes.remove(&id),
            };
        });
        Ok(())
    }

    fn managed(
        &self,
        work: &Work<'_>,
        managed: Vec<Managed>,
        now: Timestamp,
    ) -> Result<(), WorkError> {
        self.resume(work, now)?;
        let known = rows::inbounds(work)?;
        for gone in &known {
            if !managed.iter().any(|it| it.id == gone.id) {
                rows::remove_inbound(work, &gone.id)?;
                let event = telling::of_inbound(gone, What::Removed, now);
                self.events.record(work, event)?;
                let id = gone.id.clone();
                self.show(work, move |shown| drop(shown.inbounds.remove(&id)));
            }
        }
        for new in managed {
            if known.iter().any(|it| it.id == new.id) {
                continue;
            }
            let mut lives = Lives::new(rows::node(work, &new.id)?, self.thresholds);
            if let Ok(change) = lives.remove(&new.id) {
                self.keep(work, &lives, &new.id, Some(change), now)?;
            }
            let new = Inbound::new(new);
            rows::put_inbound(work, &new)?;
            let event = telling::of_inbound(&new, What::Added, now);
            self.events.record(work, event)?;
            self.show(work, move |shown| {
                shown.inbounds.insert(new.id.clone(), new);
            });
        }
        Ok(())
    }

    /// Changes what is shown when the work is committed.
    fn show(&self, work: &Work<'_>, change: impl FnOnce(&mut Shown) + Send + 'static) {
        let (shown, changed) = (self.shown.clone(), self.changed.clone());
        work.after_commit(move || {
            change(&mut shown.lock().unwrap_or_else(PoisonError::into_inner));
            changed.notify_one();
        });
    }

    /// A panic while it was held leaves it whole: it is changed by what cannot fail.
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
