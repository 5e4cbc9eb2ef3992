//! What waits to be written down. Kept here: a place is taken at once or not at all, and what was not
//! taken is counted; an entry leaves only when its fate is known, whoever drains.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::record::Entry;
use super::{AuditHealth, SinkHealth};

/// Entries that wait at most: some seconds of a busy panel, at half a KiB each.
pub(super) const QUEUE_MAX: usize = 1024;
/// The only sink there is.
const SINK: &str = "store";

/// The queue, with what became of those that were in it.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Rung when something waits.
    pub(super) bell: Notify,
    /// The number of the last entry whose fate is known.
    settled: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<(u64, Entry)>,
    /// The number of the last one taken.
    last: u64,
    dropped: u64,
    failures: u64,
    last_error: Option<String>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            bell: Notify::new(),
            settled: watch::Sender::new(0),
        }
    }

    /// Takes an entry, or counts it as dropped.
    pub(super) fn push(&self, entry: Entry) {
        let mut waiting = self.locked();
        if waiting.entries.len() >= QUEUE_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.entries.push_back((number, entry));
        drop(waiting);
        self.bell.notify_one();
    }

    /// The first `most` of those that wait; they stay until they are settled.
    pub(super) fn head(&self, most: usize) -> Vec<(u64, Entry)> {
        let waiting = self.locked();
        waiting.entries.iter().take(most).cloned().collect()
    }

    /// Those up to this number were written down.
    pub(super) fn written(&self, up_to: u64) {
        self.settle(up_to);
    }

    /// Those up to this number can never be written down.
    pub(super) fn given_up(&self, up_to: u64) {
        let gone = self.settle(up_to);
        self.locked().dropped += gone;
    }

    /// A write failed.
    pub(super) fn failed(&self, why: String) {
        let mut waiting = self.locked();
        waiting.failures += 1;
        waiting.last_error = Some(why);
    }

    /// Completes when the fate of all that waits now is known. Cancel-safe.
    pub(super) async fn all_settled(&self) {
        let last = self.locked().last;
        let mut settled = self.settled.subscribe();
        let _ = settled.wait_for(|number| *number >= last).await;
    }

    pub(super) fn health(&self) -> AuditHealth {
        let waiting = self.locked();
        AuditHealth {
            queued: waiting.entries.len(),
            dropped: waiting.dropped,
            sink_failures: waiting.failures,
            last_error: waiting.last_error.clone(),
            sinks: vec![SinkHealth {
                name: SINK,
                failures: waiting.failures,
            }],
        }
    }

    /// Lets go of those up to this number, and says how many they were.
    fn settle(&self, up_to: u64) -> u64 {
        let mut waiting = self.locked();
        let mut gone = 0;
        while waiting.entries.front().is_some_and(|it| it.0 <= up_to) {
            waiting.entries.pop_front();
            gone += 1;
        }
        drop(waiting);
        self.settled
            .send_modify(|number| *number = (*number).max(up_to));
        gone
    }

    /// A panic while it was held leaves it whole: each change is one step.
    fn locked(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
