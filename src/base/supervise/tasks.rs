//! Tasks that are started and asked to end together.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Kind;
use super::handles::{Heartbeat, Shutdown, TaskBoard};
use super::task::{Make, Task};

/// The wish that some tasks end. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Request(Arc<watch::Sender<bool>>);

impl Request {
    pub(super) fn make(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_made(&self) -> bool {
        *self.0.borrow()
    }
}

/// Tasks that were not started yet.
pub struct Tasks {
    request: Request,
    board: TaskBoard,
    all: Vec<Task>,
    /// Each task holds one until its end; `None`: nobody waits for that.
    until_end: Option<mpsc::Sender<Infallible>>,
}

impl Tasks {
    pub(super) fn new(board: TaskBoard) -> Self {
        Self {
            request: Request::default(),
            board,
            all: Vec::new(),
            until_end: None,
        }
    }

    /// The same for a group, whose end can be waited for.
    pub(super) fn of_group(board: TaskBoard, until_end: mpsc::Sender<Infallible>) -> Self {
        Self {
            until_end: Some(until_end),
            ..Self::new(board)
        }
    }

    /// A handle that tells when the end of these tasks is asked for.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::new(self.request.0.subscribe())
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

    /// Like [`Tasks::task`], and it hangs when it does not [`beat`](Heartbeat::beat) for `limit`.
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
        self.all.push(Task {
            name,
            kind,
            limit,
            make,
            board,
            row,
            shutdown,
            until_end: self.until_end.clone(),
        });
    }

    pub(super) fn request(&self) -> Request {
        self.request.clone()
    }

    pub(super) fn rows(&self) -> Vec<usize> {
        self.all.iter().map(|task| task.row).collect()
    }

    pub(super) fn into_parts(self) -> (Request, Vec<Task>) {
        (self.request, self.all)
    }
}
