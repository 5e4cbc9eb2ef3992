//! The owner of all long tasks, and the only place where one is started.
//!
//! Kept here: a task cannot end, panic or hang unseen. It is started again after a pause, counted
//! and shown on the [`TaskBoard`]; one without which the agent is of no use ends the whole run
//! when that does not help, and the service manager starts the process anew.
//!
//! What this cannot see is a deadlock that blocks every thread of the runtime; that is what the
//! service manager's watchdog is for, fed by a supervised task.

mod handles;
mod task;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

pub use handles::{Heartbeat, Shutdown, TaskBoard, TaskStatus};
use task::{GivenUp, Make, Task};

/// How long aborted tasks may take to drop what they hold.
const ABORT_TAKES: Duration = Duration::from_secs(1);

/// What the failure of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without it the agent is of no use: 5 failures within 60 s, or one hang, end the run.
    Essential,
    /// It fails alone, and is started again for ever.
    Leaf,
}

/// How a run of the supervisor ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// As asked, all tasks in time.
    Stopped,
    /// As asked, but these tasks did not end in time and were aborted.
    TimedOut(Vec<String>),
    /// An essential task was given up; the others were stopped.
    EssentialFailed {
        /// The task.
        name: String,
        /// Its last failure.
        why: String,
    },
}

/// Owns tasks: they begin with [`Supervisor::run`], and none outlives it.
#[derive(Default)]
pub struct Supervisor {
    request: watch::Sender<bool>,
    board: TaskBoard,
    tasks: Vec<Task>,
}

impl Supervisor {
    /// One without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that tells when the end is asked for.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::new(self.request.subscribe())
    }

    /// A handle for the status screen.
    pub fn board(&self) -> TaskBoard {
        self.board.clone()
    }

    /// Adds a task that is made anew for every start. It ends when its [`Shutdown`] is requested;
    /// an end before that counts as a failure, like a panic.
    pub fn task<F, Fut>(&mut self, name: impl Into<String>, kind: Kind, make: F)
    where
        F: FnMut(Shutdown, Heartbeat) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add(name.into(), kind, None, make);
    }

    /// Like [`Supervisor::task`], and it hangs when it does not [`beat`](Heartbeat::beat) for
    /// `limit`.
    pub fn watched_task<F, Fut>(
        &mut self,
        name: impl Into<String>,
        kind: Kind,
        limit: Duration,
        make: F,
    ) where
        F: FnMut(Shutdown, Heartbeat) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.add(name.into(), kind, Some(limit), make);
    }

    fn add<F, Fut>(&mut self, name: String, kind: Kind, limit: Option<Duration>, mut make: F)
    where
        F: FnMut(Shutdown, Heartbeat) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let row = self.board.add(name.clone());
        let make: Make = Box::new(move |shutdown, heartbeat| Box::pin(make(shutdown, heartbeat)));
        let (board, shutdown) = (self.board.clone(), self.shutdown());
        self.tasks.push(Task {
            name,
            kind,
            limit,
            make,
            board,
            row,
            shutdown,
        });
    }

    /// Runs all tasks until `stop` completes or an essential one is given up. Then asks all to
    /// end, waits for `grace` at most, and aborts the rest.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> Ended {
        let Self {
            request,
            board,
            tasks,
        } = self;
        let mut keepers: FuturesUnordered<_> = tasks.into_iter().map(Task::keep).collect();
        let failed = tokio::select! {
            () = stop => None,
            failed = first_failure(&mut keepers) => Some(failed),
        };
        request.send_replace(true);
        let mut late = Vec::new();
        if timeout(grace, all(&mut keepers)).await.is_err() {
            late = board.abort_all();
            warn!(
                "aborted, as they did not end within {grace:?}: {}",
                late.join(", ")
            );
            let _ = timeout(ABORT_TAKES, all(&mut keepers)).await;
        }
        match failed {
            Some((name, why)) => Ended::EssentialFailed { name, why },
            None if late.is_empty() => Ended::Stopped,
            None => Ended::TimedOut(late),
        }
    }
}

async fn first_failure<K>(keepers: &mut FuturesUnordered<K>) -> GivenUp
where
    K: Future<Output = Option<GivenUp>>,
{
    while let Some(kept) = keepers.next().await {
        if let Some(failed) = kept {
            return failed;
        }
    }
    pending().await
}

async fn all<K: Future>(keepers: &mut FuturesUnordered<K>) {
    while keepers.next().await.is_some() {}
}
