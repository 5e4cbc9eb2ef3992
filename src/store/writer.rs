//! The writer: what the store's thread does with each work. One connection, one transaction for
//! each work, or for several that waited together, each then within a savepoint; every failure is
//! judged once, here, and decides what becomes of the file, the handle and the store.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tracing::{debug, error, info, warn};

use crate::base::failpoint;

use super::aside;
use super::error::{Class, StoreError, Trouble, class_of, describe, reason_of};
use super::health::State;
use super::open::{self, Opened};
use super::{AfterCommit, Job, Shared, Spec, Work};

/// Whether work is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What became of one work of several.
type Outcome = Result<(), Trouble>;

/// The thread's state.
pub(super) struct Writer {
    spec: Spec,
    shared: Arc<Shared>,
    opened: Option<Opened>,
    generation: u64,
    /// What everything is answered with, once the store is refused or has failed.
    ended: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(spec: Spec, shared: Arc<Shared>) -> Self {
        Self {
            spec,
            shared,
            opened: None,
            generation: 0,
            ended: None,
        }
    }

    /// Does these works, which are writes if they are several, and answers each.
    pub(super) fn run(&mut self, mut group: Vec<Box<dyn Job>>) {
        let label = group.first().map_or("", |job| job.label());
        let done = match self.ended.clone() {
            Some(error) => Err(error),
            None => self
                .attempt(&mut group)
                .map_err(|trouble| self.judge(label, trouble)),
        };
        match done {
            Ok(each) => {
                for (job, done) in group.into_iter().zip(each) {
                    let done = done.map_err(|trouble| self.judge(job.label(), trouble));
                    job.answer(done);
                }
            }
            Err(error) => {
                for job in group {
                    job.answer(Err(error.clone()));
                }
            }
        }
    }

    /// What became of each, or what undid them all.
    fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Result<Vec<Outcome>, Trouble> {
        if self.opened.is_none() {
            self.generation += 1;
            self.opened = Some(open::open(&self.spec)?);
        }
        let opened = self.opened.as_ref().expect("invariant: just opened");
        let connection = &opened.connection;
        match group {
            [job] if job.kind() == Kind::Read => {
                let transaction =
                    Transaction::new_unchecked(connection, TransactionBehavior::Deferred)?;
                self.perform(connection, job, &RefCell::default())?;
                transaction.rollback()?;
                Ok(vec![Ok(())])
            }
            _ => self.write(opened, group),
        }
    }

    fn write(&self, opened: &Opened, group: &mut [Box<dyn Job>]) -> Result<Vec<Outcome>, Trouble> {
        let begun = self.spec.clock.monotonic();
        let connection = &opened.connection;
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let after_commit = RefCell::default();
        let done = match &mut *group {
            [job] => {
                self.perform(connection, job, &after_commit)?;
                vec![Ok(())]
            }
            several => several
                .iter_mut()
                .map(|job| self.perform_alone(connection, job, &after_commit))
                .collect::<Result<_, _>>()?,
        };
        let commits: i64 = connection
            .prepare_cached("UPDATE store_commits SET n = n + 1 RETURNING n")?
            .query_row([], |row| row.get(0))?;
        self.reach(group, "before_commit");
        transaction.commit()?;
        self.reach(group, "after_commit");
        if let Err(e) = opened.witness.note(commits.unsigned_abs()) {
            warn!(store = self.spec.what, "the witness cannot be written: {e}");
        }
        self.committed(begun);
        after_commit.take().into_iter().for_each(|act| act());
        Ok(done)
    }

    fn committed(&self, begun: Duration) {
        let took = self.spec.clock.monotonic().saturating_sub(begun);
        self.shared.commits.count(took);
        self.shared.health(|health| {
            if health.state != State::Ok {
                info!(store = self.spec.what, "writes succeed again");
            }
            health.state = State::Ok;
            health.commits += 1;
            health.last_commit = Some(took);
        });
    }

    /// One work of several: when it fails by its own fault, only what it did is undone.
    fn perform_alone(
        &self,
        connection: &Connection,
        job: &mut Box<dyn Job>,
        after_commit: &RefCell<Vec<AfterCommit>>,
    ) -> Result<Outcome, Trouble> {
        let acts = after_commit.borrow().len();
        connection.execute_batch("SAVEPOINT work")?;
        match self.perform(connection, job, after_commit) {
            Err(trouble) if trouble.is_of_the_work() && !connection.is_autocommit() => {
                connection.execute_batch("ROLLBACK TO work; RELEASE work")?;
                after_commit.borrow_mut().truncate(acts);
                Ok(Err(trouble))
            }
            Err(trouble) => Err(trouble),
            Ok(()) => {
                connection.execute_batch("RELEASE work")?;
                Ok(Ok(()))
            }
        }
    }

    /// Calls the work within the transaction that is open, which is undone when it fails.
    fn perform(
        &self,
        connection: &Connection,
        job: &mut Box<dyn Job>,
        after_commit: &RefCell<Vec<AfterCommit>>,
    ) -> Result<(), Trouble> {
        let work = Work {
            connection,
            after_commit,
            generation: self.generation,
        };
        match catch_unwind(AssertUnwindSafe(|| job.perform(&work))) {
            Ok(done) => done?,
            Err(panic) => return Err(Trouble::Bug(message_of(&*panic))),
        }
        // Some failures end the transaction by themselves; work that passes over one and goes on must
        // not pass for committed.
        if connection.is_autocommit() {
            let why = "the work ended its transaction, or passed over an error that did";
            return Err(Trouble::Bug(why.to_owned()));
        }
        Ok(())
    }

    fn reach(&self, group: &[Box<dyn Job>], edge: &str) {
        if cfg!(debug_assertions) {
            for job in group {
                failpoint::reach(&format!("{}.{}.{edge}", self.spec.what, job.label()));
            }
        }
    }

    /// Decides what a failure means, and does it.
    fn judge(&mut self, label: &str, trouble: Trouble) -> StoreError {
        let doing = format!("{} ({label})", self.spec.what);
        let (class, reason) = match trouble {
            Trouble::Sql(error) => (class_of(&error), reason_of(&error)),
            Trouble::Damaged(why) => (Class::Damaged, why),
            Trouble::Unavailable(why) => (Class::Unavailable, why),
            Trouble::Bug(why) => {
                // Who knows what it left half done: what is remembered beside the store is void.
                self.abandon();
                (Class::Bug, why)
            }
            Trouble::Newer(found) => return self.refuse(found),
        };
        let text = describe(class, &doing, &self.spec.file, &reason);
        match class {
            Class::Full => {
                self.make_room();
                self.degrade(&text);
                StoreError::Full(text)
            }
            Class::Unavailable => {
                self.abandon();
                self.degrade(&text);
                StoreError::Unavailable(text)
            }
            Class::Damaged => self.set_aside(text),
            Class::Failed => {
                self.abandon();
                self.shared.fail(&text);
                self.ended = Some(StoreError::Failed(text.clone()));
                StoreError::Failed(text)
            }
            Class::Bug => StoreError::Bug(text),
        }
    }

    fn refuse(&mut self, found: usize) -> StoreError {
        let refused = StoreError::Newer {
            found,
            known: self.spec.migrations.len(),
            file: self.spec.file.clone(),
        };
        error!(store = self.spec.what, "{refused}");
        self.shared
            .health(|health| health.state = State::Refused(refused.to_string()));
        self.ended = Some(refused.clone());
        refused
    }

    fn set_aside(&mut self, why: String) -> StoreError {
        self.abandon();
        let now = self.spec.clock.now().as_second();
        match aside::set_aside(&self.spec.file, now) {
            Ok(kept_as) => {
                let kept = kept_as.clone();
                let damaged = StoreError::Damaged { why, kept_as };
                error!(store = self.spec.what, "{damaged}");
                self.shared.health(|health| {
                    health.state = State::Degraded(damaged.to_string());
                    health.set_aside = Some(kept);
                });
                damaged
            }
            // Never goes on with what is known to be damaged: the next work finds it again.
            Err(e) => {
                let text = format!("{why}; {e}");
                self.degrade(&text);
                StoreError::Unavailable(text)
            }
        }
    }

    /// Takes the log into the database and cuts it to nothing: on a full disk that may be the room
    /// that is missing. Where it does not succeed, the log keeps what it held.
    fn make_room(&self) {
        if let Some(opened) = &self.opened {
            let made = opened
                .connection
                .pragma(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
            if let Err(e) = made {
                debug!(store = self.spec.what, "the log cannot be taken in: {e}");
            }
        }
    }

    fn degrade(&self, why: &str) {
        self.shared.health(|health| {
            if health.state == State::Ok {
                warn!(store = self.spec.what, "{why}");
            }
            health.state = State::Degraded(why.to_owned());
        });
    }

    /// Lets go of the handle without touching the file again: its log stays, to be read when it
    /// is opened anew, or to be kept as evidence.
    fn abandon(&mut self) {
        if let Some(opened) = self.opened.take() {
            let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            if let Err(e) = opened.connection.set_db_config(config, true) {
                warn!(store = self.spec.what, "closing: {e}");
            }
        }
    }
}

/// What a panic said.
pub(super) fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}
