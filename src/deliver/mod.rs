//! Delivery: sends what waits in the outbox.
//!
//! Kept here: one request at a time for each target, in the order of its queue, and what became of it
//! is written down before the next; so an event may arrive twice after a crash, and none is lost. A
//! target that is dead, slow or absurd holds up its own queue only.

pub mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::base::clock::Clock;
use crate::base::retry::Backoff;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::events::outbox::{Next, Outbox};
use crate::model::delivery::{
    Fate, Outgoing, Post, PostRequest, RETRY_AFTER_MAX, TargetId, host_of,
};
use crate::model::sign;

/// A target that has not answered by then is tried again.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Pauses after the store did not take something (jitter adds up to as much again).
const STORE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The longest sleep in one go: the wall clock may step, and the host sleep.
const NAP: Duration = Duration::from_secs(20);
/// When the end is asked for, requests under way may take so long to be over; they are repeated
/// otherwise.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Sends. Cheap to clone, but run once.
#[derive(Clone)]
pub struct Engine {
    outbox: Outbox,
    post: Arc<dyn Post>,
    clock: Clock,
}

impl Engine {
    /// One that sends what is in `outbox` through `post`.
    pub fn new(outbox: Outbox, post: Arc<dyn Post>, clock: Clock) -> Self {
        Self {
            outbox,
            post,
            clock,
        }
    }

    /// Sends until the end is asked for.
    pub async fn run(self, mut shutdown: Shutdown, heartbeat: Heartbeat) {
        let mut changes = self.outbox.list_changes();
        let mut serving = BTreeSet::new();
        let mut targets = FuturesUnordered::new();
        let mut backoff = Backoff::new(STORE_PAUSES.0, STORE_PAUSES.1);
        loop {
            heartbeat.beat();
            changes.mark_unchanged();
            let look_again = match self.outbox.targets().await {
                Ok(all) => {
                    backoff.reset();
                    let live = all.into_iter().filter(|status| status.disabled.is_none());
                    for id in live.map(|status| status.target.id) {
                        if serving.insert(id) {
                            targets.push(self.serve(id, shutdown.clone()));
                        }
                    }
                    NAP
                }
                Err(e) => {
                    debug!("the targets cannot be read: {e}");
                    backoff.next_pause().min(NAP)
                }
            };
            // All arms are cancel-safe: a target's future stays in its place.
            tokio::select! {
                () = shutdown.requested() => break,
                _ = changes.changed() => {}
                Some(id) = targets.next() => {
                    serving.remove(&id);
                }
                () = sleep(look_again) => {}
            }
        }
        // Those that wait end at once, those that send when they are answered.
        let last = async { while targets.next().await.is_some() {} };
        let _ = timeout(LAST_ANSWERS_WITHIN, last).await;
    }

    /// Sends to one target until it is gone or disabled, or the end is asked for.
    async fn serve(&self, id: TargetId, mut shutdown: Shutdown) -> TargetId {
        let bell = self.outbox.bell(id);
        let (mut next, mut said) = (None, Said::default());
        while !shutdown.is_requested() {
            let now_next = match next.take() {
                Some(next) => next,
                None => self.next(id, &mut shutdown).await,
            };
            let wait = match now_next {
                Next::Gone => break,
                Next::Nothing => None,
                Next::Event(event) => match self.wait_for(&event) {
                    None => {
                        next = self.send(&event, &mut said, &mut shutdown).await;
                        continue;
                    }
                    wait => wait,
                },
            };
            // All arms are cancel-safe; what is next is read anew after each.
            tokio::select! {
                () = shutdown.requested() => {}
                () = bell.notified() => {}
                () = sleep(wait.unwrap_or(NAP)) => {}
            }
        }
        id
    }

    /// How long until it is due. The wall clock may have gone back since that was written: never
    /// longer than any pause is.
    fn wait_for(&self, event: &Outgoing) -> Option<Duration> {
        let due = event.due?;
        let until = Duration::try_from(due.duration_since(self.clock.now())).ok()?;
        let waits = !until.is_zero() && until <= RETRY_AFTER_MAX;
        waits.then(|| until.min(NAP))
    }

    async fn next(&self, id: TargetId, shutdown: &mut Shutdown) -> Next {
        let mut backoff = Backoff::new(STORE_PAUSES.0, STORE_PAUSES.1);
        loop {
            match self.outbox.next(id).await {
                Ok(next) => return next,
                Err(e) => debug!(target_id = %id, "its queue cannot be read: {e}"),
            }
            tokio::select! {
                () = shutdown.requested() => return Next::Gone,
                () = sleep(backoff.next_pause()) => {}
            }
        }
    }

    /// Sends one event and writes down what became of it; what is next, if that is known.
    async fn send(
        &self,
        event: &Outgoing,
        said: &mut Said,
        shutdown: &mut Shutdown,
    ) -> Option<Next> {
        let now = self.clock.now();
        let sent = timeout(ANSWERED_WITHIN, self.post.post(request(event, now))).await;
        let answer = sent.unwrap_or_else(|_| {
            let seconds = ANSWERED_WITHIN.as_secs();
            Err(format!("no answer within {seconds} s"))
        });
        let fate = schedule::judge(&answer, event.tried, self.clock.now(), jitter());
        tell(event, &fate, said);
        let mut backoff = Backoff::new(STORE_PAUSES.0, STORE_PAUSES.1);
        loop {
            // Nothing is sent before this is written: else a full disk would repeat all at every start.
            match self.outbox.settle(event, fate.clone()).await {
                Ok(next) => return Some(next),
                Err(e) => debug!(target_id = %event.target.id, "cannot be written down: {e}"),
            }
            tokio::select! {
                () = shutdown.requested() => return None,
                () = sleep(backoff.next_pause()) => {}
            }
        }
    }
}

fn request(event: &Outgoing, now: Timestamp) -> PostRequest {
    let wanted = &event.target.wanted;
    let (secret, bearer) = (wanted.secret.as_ref(), wanted.bearer.as_ref());
    let body = Bytes::from(event.body.clone());
    PostRequest {
        url: wanted.url.clone(),
        origin: wanted.origin,
        headers: sign::headers(event.event, now, &body, secret, bearer),
        body,
    }
}

/// Says what a person may have to do something about, once for each trouble of a target; single events
/// are counted and listed.
fn tell(event: &Outgoing, fate: &Fate, said: &mut Said) {
    let host = host_of(&event.target.wanted.url);
    let subject = format!("target {} at {host}", event.target.id);
    match fate {
        Fate::Delivered => said.state(&subject, None),
        Fate::Retry { why, .. } => said.state(&subject, Some(why)),
        Fate::GivenUp { why } => {
            said.state(&subject, Some(why));
            debug!(event_id = %event.event, "given up");
        }
        Fate::Disabled { why } => {
            warn!(subject, "disabled, nothing more is sent to it: {why}");
        }
    }
}

/// From 0 to 1, by the random part of a fresh number.
fn jitter() -> f64 {
    let (_, random) = Uuid::now_v7().as_u64_pair();
    f64::from(u32::try_from(random & 0xffff_ffff).unwrap_or_default()) / f64::from(u32::MAX)
}
