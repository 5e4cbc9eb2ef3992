//! SQLite stores. Each has one file and one thread that alone writes it; work is handed to that
//! thread, runs in one transaction, and is on the disk when its caller hears of it.
//!
//! Kept here: a file is never emptied in silence. A damaged one, or one that is older than what
//! was committed, is set aside with all its bytes and a new one begun; one of a newer schema is
//! refused untouched. After a failed sync of the disk nothing is tried again: the process ends.

mod aside;
#[cfg(test)]
mod damage_tests;
mod error;
mod health;
mod open;
#[cfg(test)]
mod tests;
mod witness;
mod writer;

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use crate::base::clock::Clock;
use crate::model::tally::{Distribution, Durations};

pub use error::{StoreError, WorkError};
pub use health::{Health, State};
pub use open::{look_into, open_read_only};
use writer::{Kind, Writer};

/// Marks a database as one of ours (SQLite's `application_id`): `XRAG`.
const APPLICATION_ID: i64 = 0x5852_4147;
/// The oldest SQLite that is used: up to 3.51.2 two connections could corrupt a write-ahead log at
/// its reset. As `major * 1 000 000 + minor * 1 000 + patch`.
const SQLITE_OLDEST: i32 = 3_051_003;
/// Work that waits for the thread. More waits in its callers, who are then slowed down to what the
/// disk can do; nothing is dropped.
const QUEUE_MAX: usize = 64;

/// What a store is: its file, its schema.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What it is called in messages, failpoints and as a thread, for example `ledger`.
    pub what: &'static str,
    /// The database; its log, index and witness stand beside it.
    pub file: PathBuf,
    /// The schema's steps as SQL, in order. A released one is never changed.
    pub migrations: &'static [&'static str],
    /// Names files set aside and times commits.
    pub clock: Clock,
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A handle; clones share the store. After the last one is dropped the thread does what was queued
/// and closes the file.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    /// Its other end is dropped by the thread when the file is closed.
    closed: watch::Receiver<()>,
}

impl Store {
    /// Starts the thread. The file is opened by the first work, and again after a failure.
    pub fn start(spec: Spec) -> Result<Self, StoreError> {
        if rusqlite::version_number() < SQLITE_OLDEST {
            let version = rusqlite::version();
            return Err(StoreError::Bug(format!(
                "SQLite {version} can corrupt a store; build with 3.51.3 or newer"
            )));
        }
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (closing, closed) = watch::channel(());
        let shared = Arc::new(Shared::default());
        let what = spec.what;
        let writer = Writer::new(spec, Arc::clone(&shared));
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name(what.to_owned())
            .spawn(move || {
                work_off(queue, writer, &of_thread);
                drop(closing);
            })
            .map_err(|e| {
                StoreError::Unavailable(format!(
                    "the thread of the {what} does not start: {e}; raise the unit's TasksMax"
                ))
            })?;
        Ok(Self {
            jobs,
            shared,
            closed,
        })
    }

    /// Runs `work` in one transaction (`BEGIN IMMEDIATE`) on the store's thread and commits it to
    /// the disk. `label` names it for failpoints (`<what>.<label>.before_commit`, `.after_commit`)
    /// and messages. A caller that is dropped while its work is queued or runs does not stop it; one
    /// that is dropped while it still waits for a place in the queue takes its work along.
    pub async fn write<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.hand_over(Kind::Write, label, work).await
    }

    /// The same for work that only reads (`BEGIN DEFERRED`): whatever it does is rolled back.
    pub async fn read<T: Send + 'static>(
        &self,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.hand_over(Kind::Read, label, work).await
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        let mut health = Health::default();
        self.shared.health(|now| health.clone_from(now));
        health
    }

    /// How long its committed transactions took, from their begin to the disk.
    pub fn commits(&self) -> Distribution {
        self.shared.commits.distribution()
    }

    /// Completes, with the reason, when a sync of the disk failed (or the thread died): the process
    /// has to end, and nothing of this store is used again.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .expect("invariant: the sender lives as long as this handle")
    }

    /// Drops this handle and completes when the file is closed: when the other handles are dropped
    /// too, and what was queued is done.
    pub async fn close(self) {
        let Self {
            jobs, mut closed, ..
        } = self;
        drop(jobs);
        let _ = closed.changed().await;
    }

    async fn hand_over<T: Send + 'static>(
        &self,
        kind: Kind,
        label: &'static str,
        work: impl FnOnce(&Work<'_>) -> Result<T, WorkError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            let (mut work, mut result) = (Some(work), None);
            let done = writer.run(kind, label, &mut |within| {
                let work = work.take().expect("invariant: work is run once");
                result = Some(work(within)?);
                Ok(())
            });
            let done = done.map(|()| result.expect("invariant: work that succeeded left a result"));
            // Nobody there: the caller was dropped, which does not undo its work.
            let _ = answer.send(done);
        });
        if self.jobs.send(job).await.is_err() {
            return Err(self.gone());
        }
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> StoreError {
        match &*self.shared.failed.borrow() {
            Some(why) => StoreError::Failed(why.clone()),
            None => StoreError::Closed,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Within a transaction: the connection, by `Deref`. Statements prepared with `prepare_cached`
/// stay prepared. An error of SQLite is to be given back, not passed over: some end the transaction.
#[derive(Debug)]
pub struct Work<'a> {
    connection: &'a Connection,
    /// Changes whenever the file was opened anew: what a caller remembers of the store's content
    /// under another one is void.
    pub generation: u64,
}

impl Deref for Work<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// What the thread tells the handles.
#[derive(Debug, Default)]
struct Shared {
    health: Mutex<Health>,
    commits: Durations,
    failed: watch::Sender<Option<String>>,
}

impl Shared {
    fn health(&self, look: impl FnOnce(&mut Health)) {
        look(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fail(&self, why: &str) {
        self.health(|health| health.state = State::Failed(why.to_owned()));
        self.failed.send_replace(Some(why.to_owned()));
    }
}

/// The thread: works until the last handle is dropped.
fn work_off(mut queue: mpsc::Receiver<Job>, mut writer: Writer, shared: &Shared) {
    let ended = catch_unwind(AssertUnwindSafe(move || {
        while let Some(job) = queue.blocking_recv() {
            job(&mut writer);
        }
    }));
    // Work that panics is caught where it is called; this is a fault in the store itself.
    if let Err(panic) = ended {
        let why = format!("the store's thread {}", writer::message_of(&*panic));
        error!("{why}");
        shared.fail(&why);
    }
}
