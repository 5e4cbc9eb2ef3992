//! Groups of tasks, which come and go in the midst of a run while all others run on.
//!
//! Kept here: a group that was asked to end is over, its last task included, before whoever asked
//! goes on; so what takes its place never runs beside it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::ABORT_TAKES;
use super::handles::TaskBoard;
use super::tasks::{Request, Tasks};

/// Starts groups in a supervisor that runs. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    arrivals: mpsc::UnboundedSender<Tasks>,
    board: TaskBoard,
}

/// A group that runs. It runs on when this is dropped.
pub struct Group {
    request: Request,
    board: TaskBoard,
    rows: Vec<usize>,
    /// Closed by the end of the last task.
    ended: mpsc::Receiver<Infallible>,
}

impl Groups {
    pub(super) fn new(board: TaskBoard) -> (Self, mpsc::UnboundedReceiver<Tasks>) {
        // Nobody starts groups but whoever reloads, one after the other.
        let (arrivals, arrived) = mpsc::unbounded_channel();
        (Self { arrivals, board }, arrived)
    }

    /// Starts what `add` adds. In a supervisor that has ended nothing is started.
    pub fn start<T>(&self, add: impl FnOnce(&mut Tasks) -> T) -> (Group, T) {
        let (until_end, ended) = mpsc::channel(1);
        let mut tasks = Tasks::of_group(self.board.clone(), until_end);
        let added = add(&mut tasks);
        let group = Group {
            request: tasks.request(),
            board: self.board.clone(),
            rows: tasks.rows(),
            ended,
        };
        // A supervisor that has ended gives the tasks back, and they are dropped: the group is over.
        let _ = self.arrivals.send(tasks);
        (group, added)
    }
}

impl Group {
    /// Asks its tasks to end, waits for `grace` at most, and aborts the rest. They leave the board.
    pub async fn stop(mut self, grace: Duration) {
        self.request.make();
        if timeout(grace, self.ended.recv()).await.is_err() {
            let late = self.board.abort(&self.rows);
            warn!(
                "aborted, as they did not end within {grace:?}: {}",
                late.join(", ")
            );
            let _ = timeout(ABORT_TAKES, self.ended.recv()).await;
        }
        self.board.remove(&self.rows);
    }
}
