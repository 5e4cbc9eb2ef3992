//! Snapshots that are built once for all readers that want the same one at the same pace.
//!
//! Kept here: one snapshot, one text and one patch for each turn of a room, however many readers it
//! has; a reader that leaves half way, or stands still, holds nobody up. What nobody reads is not
//! built.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tracing::error;

use super::message::{Message, TooLarge};
use super::patch::{diff, without_nulls};
use super::snapshot::{Cut, Snapshots};

/// A snapshot that takes longer is given up: the store has stood still.
const SNAPSHOT_TAKES: Duration = Duration::from_secs(10);
/// Readers that come within so long of each other begin with the same snapshot.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// All rooms.
pub(super) struct Rooms {
    snapshots: Arc<dyn Snapshots>,
    /// From which turns are counted, so that rooms of one pace take them together.
    epoch: Instant,
    open: Mutex<HashMap<Key, Weak<Room>>>,
}

type Key = (Cut, Duration);

/// Readers of one cut at one pace.
pub(super) struct Room {
    snapshots: Arc<dyn Snapshots>,
    cut: Cut,
    interval: Duration,
    epoch: Instant,
    /// The latest turn that somebody asked for.
    latest: Mutex<Option<(u32, Turning)>>,
    /// For who comes between two turns, and since when.
    fresh: Mutex<Option<(Instant, Beginning)>>,
}

/// A turn that may still be made; whoever waits for it makes it go on. `None`: it failed.
pub(super) type Turning = Shared<BoxFuture<'static, Option<Arc<Turn>>>>;
type Beginning = Shared<BoxFuture<'static, Option<Result<Message, TooLarge>>>>;

/// A snapshot, and what is written of it.
pub(super) struct Turn {
    number: u32,
    snapshot: Arc<Value>,
    /// The turn before that somebody asked for.
    before: Option<(u32, Arc<Value>)>,
    full: OnceLock<Result<Message, TooLarge>>,
    patch: OnceLock<Result<Message, TooLarge>>,
}

/// What a reader was sent last.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// What it began with; no turn of the room.
    Begun(Message),
    /// This turn.
    Turn(u32),
}

impl Rooms {
    pub(super) fn new(snapshots: Arc<dyn Snapshots>) -> Self {
        Self {
            snapshots,
            epoch: Instant::now(),
            open: Mutex::default(),
        }
    }

    /// The room of this cut and pace; it is there for as long as somebody holds it.
    pub(super) fn enter(&self, cut: Cut, interval: Duration) -> Arc<Room> {
        let mut rooms = locked(&self.open);
        rooms.retain(|_, room| room.strong_count() > 0);
        let key = (cut, interval);
        if let Some(room) = rooms.get(&key).and_then(Weak::upgrade) {
            return room;
        }
        let room = Arc::new(Room {
            snapshots: Arc::clone(&self.snapshots),
            cut: key.0.clone(),
            interval,
            epoch: self.epoch,
            latest: Mutex::default(),
            fresh: Mutex::default(),
        });
        rooms.insert(key, Arc::downgrade(&room));
        room
    }

    /// How many there are, empty ones included.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        locked(&self.open).len()
    }
}

impl Room {
    /// What a reader begins with, no older than [`FRESH_FOR`]; `None` where there is no snapshot.
    pub(super) async fn begin(&self) -> Option<Result<Message, TooLarge>> {
        let beginning = {
            let mut fresh = locked(&self.fresh);
            match &*fresh {
                Some((since, beginning)) if since.elapsed() < FRESH_FOR => beginning.clone(),
                _ => {
                    let snapshot = self.snapshot();
                    let beginning = async move { Some(full(&snapshot.await?)) };
                    let beginning = beginning.boxed().shared();
                    *fresh = Some((Instant::now(), beginning.clone()));
                    beginning
                }
            }
        };
        beginning.await
    }

    /// The turn that it is now.
    pub(super) fn turn(&self) -> u32 {
        let turns = self.epoch.elapsed().as_nanos() / self.interval.as_nanos();
        u32::try_from(turns).expect("invariant: an agent does not run for 136 years")
    }

    /// When that turn begins.
    pub(super) fn begins(&self, turn: u32) -> Instant {
        self.epoch + self.interval * turn
    }

    /// The present turn, made or being made.
    pub(super) fn turning(&self) -> Turning {
        let number = self.turn();
        let mut latest = locked(&self.latest);
        if let Some((made, turning)) = &*latest
            && *made >= number
        {
            return turning.clone();
        }
        let before = latest.take().map(|(_, turning)| turning);
        let turning = self.make(number, before).boxed().shared();
        *latest = Some((number, turning.clone()));
        turning
    }

    fn make(
        &self,
        number: u32,
        before: Option<Turning>,
    ) -> impl Future<Output = Option<Arc<Turn>>> + Send + use<> {
        let snapshot = self.snapshot();
        async move {
            let before = match before {
                Some(before) => before.await,
                None => None,
            };
            Some(Arc::new(Turn {
                number,
                snapshot: Arc::new(snapshot.await?),
                before: before.map(|turn| (turn.number, Arc::clone(&turn.snapshot))),
                full: OnceLock::new(),
                patch: OnceLock::new(),
            }))
        }
    }

    /// A snapshot without nulls, in time.
    fn snapshot(&self) -> impl Future<Output = Option<Value>> + Send + use<> {
        let (snapshots, cut) = (Arc::clone(&self.snapshots), self.cut.clone());
        async move {
            // A panic here would be one of every reader.
            let told = async { snapshots.snapshot(&cut).await };
            let told = AssertUnwindSafe(told).catch_unwind();
            let Ok(Ok(mut snapshot)) = timeout(SNAPSHOT_TAKES, told).await else {
                error!("the status could not be told to streams: it panicked or took too long");
                return None;
            };
            without_nulls(&mut snapshot);
            Some(snapshot)
        }
    }
}

impl Turn {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// All of it.
    pub(super) fn full(&self) -> Result<Message, TooLarge> {
        self.full.get_or_init(|| full(&self.snapshot)).clone()
    }

    /// What changed since what a reader was sent last; all of it where that is too long ago.
    pub(super) fn since(&self, base: &Base) -> Result<Message, TooLarge> {
        let patch = match (base, &self.before) {
            (Base::Turn(last), Some((number, before))) if last == number => self
                .patch
                .get_or_init(|| patch(&diff(before, &self.snapshot)))
                .clone(),
            (Base::Turn(_), _) => return self.full(),
            (Base::Begun(message), _) => match begun(message) {
                Some(before) => patch(&diff(&before, &self.snapshot)),
                None => return self.full(),
            },
        };
        patch.or_else(|TooLarge| self.full())
    }
}

fn full(snapshot: &Value) -> Result<Message, TooLarge> {
    let content = json!({"type": "full", "snapshot": snapshot});
    Message::new("status.full", None, &content)
}

fn patch(patch: &Value) -> Result<Message, TooLarge> {
    let content = json!({"type": "diff", "patch": patch});
    Message::new("status.diff", None, &content)
}

/// The snapshot in a message. To read it again costs a new reader once what keeping it would cost
/// for as long as the reader stands still.
fn begun(message: &Message) -> Option<Value> {
    let mut content: Value = serde_json::from_slice(&message.json()).ok()?;
    content.get_mut("snapshot").map(Value::take)
}

/// A panic elsewhere leaves the value whole: each change is one step.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
