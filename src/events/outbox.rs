//! The outbox: who is sent events, and what waits for each of them, in `agent.db`.
//!
//! Kept here: what was put into a queue leaves it delivered, or given up with a reason, counted and
//! kept for a while to be listed and sent again; each queue has an order and bounds. Nothing is sent
//! from here.

mod queue;
mod targets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::base::clock::Clock;
use crate::model::delivery::{Fate, Outgoing, Render, Target, TargetId, Wanted};
use crate::model::event::{Event, EventId};
use crate::store::{Spec, Store, StoreError, Work, WorkError, open_read_only};

pub use queue::{GivenUp, Next};
pub use targets::TargetStatus;

/// Targets at most that are put in over the API: each may have one request under way.
const TARGETS_MAX: i64 = 256;

/// How much waits for a target, and is kept of what was given up for it. Beyond it the oldest goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Waiting events.
    pub queued: u64,
    /// Their bodies, in bytes.
    pub queued_bytes: u64,
    /// Events that were given up.
    pub kept: u64,
    /// Their bodies, in bytes.
    pub kept_bytes: u64,
}

impl Default for Limits {
    /// What waits is bounded by the contract; of what was given up enough is kept for a person to see
    /// what was lost in a day.
    fn default() -> Self {
        Self {
            queued: 100_000,
            queued_bytes: 64 << 20,
            kept: 10_000,
            kept_bytes: 8 << 20,
        }
    }
}

/// Why a target is not put in.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Unfit(String),
    /// There are too many.
    #[error("{TARGETS_MAX} targets are there already, no more are taken; remove one")]
    TooMany,
    /// It cannot be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A handle; clones share the outbox.
#[derive(Clone)]
pub struct Outbox {
    store: Store,
    bells: Arc<Bells>,
    limits: Limits,
    clock: Clock,
}

/// By which whoever sends is woken.
#[derive(Debug, Default)]
struct Bells {
    of_targets: Mutex<HashMap<TargetId, Arc<Notify>>>,
    /// Counts changes of which targets there are.
    list: watch::Sender<u64>,
}

impl Bells {
    /// A panic while it was held leaves it whole: each change is one step.
    fn locked(&self) -> MutexGuard<'_, HashMap<TargetId, Arc<Notify>>> {
        let bells = self.of_targets.lock();
        bells.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The targets in this `agent.db`, whoever has it open; none where there is no file yet.
pub fn kept(spec: &Spec) -> Result<Vec<TargetStatus>, StoreError> {
    let Some(connection) = open_read_only(spec)? else {
        return Ok(Vec::new());
    };
    let unread = |e| StoreError::Unavailable(format!("reading {}: {e}", spec.file.display()));
    targets::all(&connection).map_err(unread)
}

impl Outbox {
    /// The outbox in this `agent.db`.
    pub fn new(store: Store, limits: Limits, clock: Clock) -> Self {
        Self {
            store,
            bells: Arc::default(),
            limits,
            clock,
        }
    }

    /// The `agent.db` that it is in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Puts an event into the queues of these targets, within the caller's transaction. Targets that
    /// are not there, or disabled, are passed over.
    pub fn enqueue(
        &self,
        work: &Work<'_>,
        event: &Event,
        bodies: impl IntoIterator<Item = (TargetId, String)>,
    ) -> Result<(), WorkError> {
        for (target, body) in bodies {
            if queue::add(work, target, event, &body, self.now_ms(), &self.limits)? {
                let bell = self.bell(target);
                work.after_commit(move || bell.notify_one());
            }
        }
        Ok(())
    }

    /// [`Outbox::enqueue`] for every target that wants it, as `render` writes it.
    pub fn enqueue_for_all(
        &self,
        work: &Work<'_>,
        event: &Event,
        render: &dyn Render,
    ) -> Result<(), WorkError> {
        let mut bodies = Vec::new();
        for (id, owner, form) in targets::wanting(work, event.name)? {
            bodies.extend(render.body(&owner, &form, event).map(|body| (id, body)));
        }
        self.enqueue(work, event, bodies)
    }

    /// Puts a target in. One that is there already is given the secrets of this one, and is enabled.
    pub async fn put(&self, wanted: Wanted) -> Result<Target, PutError> {
        wanted.check().map_err(PutError::Unfit)?;
        let now = self.now_ms();
        let put = self.change("target", move |work| {
            targets::put(work, &wanted, now, Some(TARGETS_MAX))
        });
        let target = put.await?.ok_or(PutError::TooMany)?;
        self.bell(target.id).notify_one();
        Ok(target)
    }

    /// Makes the targets of `owner` that the configuration names these, in one step. Those that stay
    /// keep their queues; the queues of others go with them. A disabled one stays so.
    pub async fn configure(&self, owner: &str, wanted: Vec<Wanted>) -> Result<(), PutError> {
        for one in &wanted {
            one.check().map_err(PutError::Unfit)?;
        }
        let (owner, now) = (owner.to_owned(), self.now_ms());
        let gone = self
            .change("targets", move |work| {
                targets::configure(work, &owner, &wanted, now)
            })
            .await?;
        for id in gone {
            self.silence(id);
        }
        Ok(())
    }

    /// Removes a target with its queue; whether it was there.
    pub async fn remove(&self, id: TargetId) -> Result<bool, StoreError> {
        let was_there = self
            .change("untarget", move |work| targets::remove(work, id))
            .await?;
        self.silence(id);
        Ok(was_there)
    }

    /// Sends to a disabled target again; whether it was disabled.
    pub async fn enable(&self, id: TargetId) -> Result<bool, StoreError> {
        self.change("enable", move |work| targets::enable(work, id))
            .await
    }

    /// All targets, oldest first, and how they are.
    pub async fn targets(&self) -> Result<Vec<TargetStatus>, StoreError> {
        self.store.read("targets", |work| targets::all(work)).await
    }

    /// The latest `count` events that were given up for a target, newest first.
    pub async fn given_up(&self, id: TargetId, count: u32) -> Result<Vec<GivenUp>, StoreError> {
        self.store
            .read("given_up", move |work| queue::given_up(work, id, count))
            .await
    }

    /// Puts events that were given up for a target back into its queue, before all others: this one,
    /// or all that are kept; how many.
    pub async fn replay(&self, id: TargetId, event: Option<EventId>) -> Result<usize, StoreError> {
        let limits = self.limits;
        let now = self.now_ms();
        let replayed = self
            .store
            .write("replay", move |work| {
                queue::replay(work, id, event, now, &limits)
            })
            .await?;
        if replayed > 0 {
            self.bell(id).notify_one();
        }
        Ok(replayed)
    }

    /// The event that is to be sent to a target next.
    pub async fn next(&self, id: TargetId) -> Result<Next, StoreError> {
        self.store
            .read("next", move |work| queue::next(work, id))
            .await
    }

    /// Writes down what became of an event that was sent, and tells what is next.
    pub async fn settle(&self, sent: &Outgoing, fate: Fate) -> Result<Next, StoreError> {
        let (limits, now) = (self.limits, self.now_ms());
        let (seq, event, id) = (sent.seq, sent.event, sent.target.id);
        let settle = move |work: &Work<'_>| {
            queue::settle(work, (seq, id, event), &fate, now, &limits)?;
            queue::next(work, id)
        };
        self.store.write("settle", settle).await
    }

    /// Rings when something may be new for a target. For one listener at a time.
    pub fn bell(&self, id: TargetId) -> Arc<Notify> {
        Arc::clone(self.bells.locked().entry(id).or_default())
    }

    /// Changes when targets come, go, or are enabled.
    pub fn list_changes(&self) -> watch::Receiver<u64> {
        self.bells.list.subscribe()
    }

    /// Wakes whoever sends to a target that is gone.
    fn silence(&self, id: TargetId) {
        if let Some(bell) = self.bells.locked().remove(&id) {
            bell.notify_one();
        }
    }

    async fn change<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let bells = Arc::clone(&self.bells);
        let changing = move |within: &Work<'_>| {
            within.after_commit(move || bells.list.send_modify(|changes| *changes += 1));
            work(within)
        };
        self.store.write(label, changing).await
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }
}

/// A time that was written by us.
fn time(ms: i64) -> Result<Timestamp, WorkError> {
    Timestamp::from_millisecond(ms)
        .map_err(|_| WorkError::Damaged(format!("{ms} is no time of the outbox")))
}

/// An amount as SQLite takes it.
fn stored(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
