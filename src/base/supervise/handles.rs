//! What tasks and screens hold of the supervisor: the wish to end, the sign of life, the board.
//!
//! Kept here: no handle keeps a task alive or blocks one; a supervisor that is gone reads as a wish
//! to end.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Tells a task when to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    pub(super) fn new(seen: watch::Receiver<bool>) -> Self {
        Self(seen)
    }

    /// Waits until the end is asked for. Cancel-safe.
    pub async fn requested(&mut self) {
        // A supervisor that is gone asks for the end too.
        let _ = self.0.wait_for(|requested| *requested).await;
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// By which a watched task shows that it is not stuck. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    last: Arc<Mutex<Instant>>,
    limit: Option<Duration>,
}

impl Heartbeat {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            last: Arc::new(Mutex::new(Instant::now())),
            limit,
        }
    }

    /// A sign of life. A watched task gives one at least once per limit, from its start on until
    /// the end is asked for.
    pub fn beat(&self) {
        *locked(&self.last) = Instant::now();
    }

    /// Whether the sign of life is late now.
    fn is_overdue(&self) -> bool {
        self.limit
            .is_some_and(|limit| locked(&self.last).elapsed() >= limit)
    }

    /// Completes, with the limit, when no sign of life came in time.
    pub(super) async fn overdue(&self) -> Duration {
        let Some(limit) = self.limit else {
            return pending().await;
        };
        loop {
            let due = *locked(&self.last) + limit;
            if Instant::now() >= due {
                return limit;
            }
            sleep_until(due).await;
        }
    }
}

/// A task as the status screen shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its name.
    pub name: String,
    /// How often it was started again.
    pub restarts: u64,
    /// Whether it is running now; not so before the run, in a pause, and after its end.
    pub alive: bool,
    /// Its last failure.
    pub last_error: Option<String>,
}

/// Shows how all tasks are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TaskBoard(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    /// By number, which is the order in which they were added.
    entries: BTreeMap<usize, Entry>,
    next: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) status: TaskStatus,
    pub(super) abort: Option<AbortHandle>,
    /// Of its present life, where the task is essential.
    pub(super) watched: Option<Heartbeat>,
}

impl TaskBoard {
    /// All tasks, in the order in which they were added.
    pub fn status(&self) -> Vec<TaskStatus> {
        let rows = locked(&self.0);
        let entries = rows.entries.values();
        entries.map(|entry| entry.status.clone()).collect()
    }

    /// The essential tasks that live and whose sign of life is late. The supervisor gives such a
    /// task up at once: one that is still here shows that the supervisor itself is stuck.
    pub fn overdue(&self) -> Vec<String> {
        let rows = locked(&self.0);
        let late = |entry: &&Entry| {
            entry.status.alive && entry.watched.as_ref().is_some_and(Heartbeat::is_overdue)
        };
        let late = rows.entries.values().filter(late);
        late.map(|entry| entry.status.name.clone()).collect()
    }

    pub(super) fn add(&self, name: String) -> usize {
        let status = TaskStatus {
            name,
            restarts: 0,
            alive: false,
            last_error: None,
        };
        let entry = Entry {
            status,
            abort: None,
            watched: None,
        };
        let mut rows = locked(&self.0);
        let row = rows.next;
        rows.next += 1;
        rows.entries.insert(row, entry);
        row
    }

    pub(super) fn update(&self, row: usize, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = locked(&self.0).entries.get_mut(&row) {
            change(entry);
        }
    }

    pub(super) fn remove(&self, rows: &[usize]) {
        locked(&self.0).entries.retain(|row, _| !rows.contains(row));
    }

    /// Aborts what lives, and names it.
    pub(super) fn abort_all(&self) -> Vec<String> {
        self.abort_where(|_| true)
    }

    /// Aborts what lives of these, and names it.
    pub(super) fn abort(&self, rows: &[usize]) -> Vec<String> {
        self.abort_where(|row| rows.contains(&row))
    }

    fn abort_where(&self, chosen: impl Fn(usize) -> bool) -> Vec<String> {
        let rows = locked(&self.0);
        let living = rows
            .entries
            .iter()
            .filter(|(row, entry)| chosen(**row) && entry.status.alive);
        living
            .map(|(_, entry)| {
                entry.abort.iter().for_each(AbortHandle::abort);
                entry.status.name.clone()
            })
            .collect()
    }
}

/// A panic elsewhere leaves these values whole: each is replaced in one step.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
