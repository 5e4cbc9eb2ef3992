//! One task, from its first start to the end of the run: started, watched, judged, started again.
//!
//! Kept here: every end of a task that nobody asked for is logged, counted and shown, and a leaf
//! never runs twice at once.

use std::any::Any;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::Kind;
use super::fault;
use super::handles::{Heartbeat, Shutdown, TaskBoard};
use crate::base::retry::Backoff;

/// Pauses before a failed task is started again (jitter adds up to as much again).
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A task that lived this long was well: the next pause is the first again.
const WELL_AFTER: Duration = Duration::from_mins(1);
/// An essential task that failed so often within so long does not come back by trying.
pub(super) const FAILURES_MAX: usize = 5;
const FAILURES_WITHIN: Duration = Duration::from_mins(1);

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
pub(super) type Make = Box<dyn FnMut(Shutdown, Heartbeat) -> Work + Send>;

/// The name and the last failure of an essential task.
pub(super) type GivenUp = (String, String);

/// One task and what keeps it alive.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) limit: Option<Duration>,
    pub(super) make: Make,
    pub(super) board: TaskBoard,
    pub(super) row: usize,
    pub(super) shutdown: Shutdown,
    /// Dropped with the task: whoever waits for its end sees it by that.
    #[expect(dead_code, reason = "only its being dropped is of use")]
    pub(super) until_end: Option<mpsc::Sender<Infallible>>,
}

/// How one life of a task ended that nobody had asked to end.
struct Failure {
    why: String,
    hung: bool,
}

impl Task {
    /// Life after life, until the end is asked for (`None`) or the task is given up.
    pub(super) async fn keep(mut self) -> Option<GivenUp> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        let mut failures = VecDeque::new();
        while !self.shutdown.is_requested() {
            let began = Instant::now();
            let failure = self.live().await?;
            failures.push_back(Instant::now());
            failures.retain(|at| at.elapsed() <= FAILURES_WITHIN);
            let hopeless = failure.hung || failures.len() >= FAILURES_MAX;
            if self.kind == Kind::Essential && hopeless {
                error!(task = self.name, "an essential task is given up");
                return Some((self.name, failure.why));
            }
            if began.elapsed() >= WELL_AFTER {
                backoff.reset();
            }
            // Both arms are cancel-safe.
            tokio::select! {
                () = sleep(backoff.next_pause()) => {}
                () = self.shutdown.requested() => return None,
            }
            self.board
                .update(self.row, |entry| entry.status.restarts += 1);
            info!(task = self.name, "started again");
        }
        None
    }

    /// One life. `None`: it ended after that was asked for.
    async fn live(&mut self) -> Option<Failure> {
        let heartbeat = Heartbeat::new(fault::limit(&self.name, self.limit));
        let mut handle = match self.start(&heartbeat) {
            Ok(handle) => handle,
            Err(why) => return Some(self.failed(why, false)),
        };
        let mut shutdown = self.shutdown.clone();
        // All arms are cancel-safe: a join handle stays usable.
        let ended = tokio::select! {
            ended = &mut handle.0 => ended,
            // On its way out a task need not beat: the grace watches over it.
            () = shutdown.requested() => (&mut handle.0).await,
            limit = heartbeat.overdue() => {
                let why = format!("hung: no sign of life for {limit:?}");
                let failure = self.failed(why, true);
                handle.0.abort();
                // Never two of a leaf at once, even if it blocks its thread and cannot be aborted:
                // it then shows as alive, with this as its last error.
                if self.kind == Kind::Leaf {
                    let _ = (&mut handle.0).await;
                }
                self.board.update(self.row, |entry| entry.status.alive = false);
                return Some(failure);
            }
        };
        self.board
            .update(self.row, |entry| entry.status.alive = false);
        self.judge(ended)
    }

    fn start(&mut self, heartbeat: &Heartbeat) -> Result<Owned, String> {
        let watched = (self.kind == Kind::Essential).then(|| heartbeat.clone());
        let (shutdown, heartbeat) = (self.shutdown.clone(), heartbeat.clone());
        let work = catch_unwind(AssertUnwindSafe(|| (self.make)(shutdown, heartbeat)))
            .map_err(|panic| panic_message(&*panic))?;
        let handle = spawn(fault::work(&self.name, work));
        self.board.update(self.row, |entry| {
            entry.watched = watched;
            entry.status.alive = true;
            entry.abort = Some(handle.0.abort_handle());
        });
        Ok(handle)
    }

    fn judge(&self, ended: Result<(), JoinError>) -> Option<Failure> {
        let requested = self.shutdown.is_requested();
        match ended {
            Ok(()) if requested => None,
            Ok(()) => Some(self.failed("ended though nobody asked it to".to_owned(), false)),
            // Only the supervisor aborts: the grace is over.
            Err(error) if error.is_cancelled() => None,
            Err(error) => {
                let failure = self.failed(panic_message(&*error.into_panic()), false);
                (!requested).then_some(failure)
            }
        }
    }

    fn failed(&self, why: String, hung: bool) -> Failure {
        error!(task = self.name, "{why}");
        self.board.update(self.row, |entry| {
            entry.status.last_error = Some(why.clone());
        });
        Failure { why, hung }
    }
}

/// A task that ends with its handle.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may: it owns what it starts"
)]
fn spawn(work: Work) -> Owned {
    Owned(tokio::spawn(work))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}
