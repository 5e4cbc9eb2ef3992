//! The owner of all long tasks, and the only place where one is started.
//!
//! Kept here: a task cannot end, panic or hang unseen. It is started again after a pause, counted
//! and shown on the [`TaskBoard`]; one without which the agent is of no use ends the whole run
//! when that does not help, and the service manager starts the process anew.
//!
//! What this cannot see is a deadlock that stops the runtime itself; a thread beside it does
//! (`guard`), and so does the service manager's watchdog, fed by a supervised task.

mod fault;
mod group;
mod guard;
mod handles;
mod task;
mod tasks;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

pub use group::{Group, Groups};
pub use handles::{Heartbeat, Shutdown, TaskBoard, TaskStatus};
use task::{GivenUp, Task};
use tasks::Request;
pub use tasks::Tasks;

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
pub struct Supervisor {
    board: TaskBoard,
    tasks: Tasks,
    groups: Groups,
    arrivals: mpsc::UnboundedReceiver<Tasks>,
}

impl Default for Supervisor {
    fn default() -> Self {
        let board = TaskBoard::default();
        let (groups, arrivals) = Groups::new(board.clone());
        Self {
            tasks: Tasks::new(board.clone()),
            board,
            groups,
            arrivals,
        }
    }
}

impl Supervisor {
    /// One without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that tells when the end is asked for.
    pub fn shutdown(&self) -> Shutdown {
        self.tasks.shutdown()
    }

    /// A handle for the status screen.
    pub fn board(&self) -> TaskBoard {
        self.board.clone()
    }

    /// The tasks that begin with the run and end with it.
    pub fn tasks(&mut self) -> &mut Tasks {
        &mut self.tasks
    }

    /// A handle by which groups of tasks are started in the midst of the run.
    pub fn groups(&self) -> Groups {
        self.groups.clone()
    }

    /// Runs all tasks until `stop` completes or an essential one is given up. Then asks all to
    /// end, waits for `grace` at most, and aborts the rest.
    pub async fn run(self, stop: impl Future<Output = ()>, grace: Duration) -> Ended {
        let Self {
            board,
            tasks,
            groups: _,
            mut arrivals,
        } = self;
        let guard = guard::watch(board.clone());
        let mut kept = Kept::default();
        kept.add(tasks);
        let failed = kept.until(stop, &mut arrivals).await;
        arrivals.close();
        kept.requests.iter().for_each(Request::make);
        guard.stops_within(grace + ABORT_TAKES);
        let mut late = Vec::new();
        if timeout(grace, kept.all()).await.is_err() {
            late = board.abort_all();
            warn!(
                "aborted, as they did not end within {grace:?}: {}",
                late.join(", ")
            );
            let _ = timeout(ABORT_TAKES, kept.all()).await;
        }
        match failed {
            Some((name, why)) => Ended::EssentialFailed { name, why },
            None if late.is_empty() => Ended::Stopped,
            None => Ended::TimedOut(late),
        }
    }
}

type Keeper = std::pin::Pin<Box<dyn Future<Output = Option<GivenUp>> + Send>>;

/// The tasks that run, and the ways to ask them to end.
#[derive(Default)]
struct Kept {
    keepers: FuturesUnordered<Keeper>,
    requests: Vec<Request>,
}

impl Kept {
    fn add(&mut self, tasks: Tasks) {
        // A group that was ended needs no more asking.
        self.requests.retain(|request| !request.is_made());
        let (request, tasks) = tasks.into_parts();
        self.requests.push(request);
        let keepers = tasks.into_iter();
        self.keepers
            .extend(keepers.map(|task| Box::pin(Task::keep(task)) as Keeper));
    }

    /// Until `stop` completes, or an essential task is given up.
    async fn until(
        &mut self,
        stop: impl Future<Output = ()>,
        arrivals: &mut mpsc::UnboundedReceiver<Tasks>,
    ) -> Option<GivenUp> {
        let mut stop = pin!(stop);
        loop {
            // All arms are cancel-safe.
            tokio::select! {
                () = &mut stop => return None,
                Some(tasks) = arrivals.recv() => self.add(tasks),
                Some(kept) = self.keepers.next(), if !self.keepers.is_empty() => {
                    if kept.is_some() {
                        return kept;
                    }
                }
            }
        }
    }

    async fn all(&mut self) {
        while self.keepers.next().await.is_some() {}
    }
}
