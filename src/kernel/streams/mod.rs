//! The kernel API's streams: the status and the events, as server-sent events and over WebSockets.
//!
//! Kept here: a reader is asked what it wants, never pushed to. It holds one message at most, of
//! bounded size, and a place in what all share; so one that is stuck costs no more than that, and
//! nobody waits for it.

mod message;
mod origin;
mod patch;
mod query;
mod room;
mod snapshot;
mod source;
mod sse;
#[cfg(test)]
mod tests;
mod ws;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::supervise::{Heartbeat, Shutdown};
use crate::events::bus::Bus;
use room::Rooms;
pub use snapshot::{Cut, Snapshots};
use ws::Sockets;

/// What the streams are made of. Cheap to clone; clones share what is built.
#[derive(Clone)]
pub struct Streams {
    bus: Bus,
    rooms: Arc<Rooms>,
    sockets: Sockets,
    /// Names under which the agent is known beside its addresses (`http.hosts`).
    hosts: Arc<[String]>,
    open: Arc<AtomicUsize>,
}

/// Counts a stream for as long as it is open.
struct Place(Arc<AtomicUsize>);

impl Streams {
    /// Streams of these events and snapshots. Pages served under `hosts` may open WebSockets.
    pub fn new(bus: Bus, snapshots: Arc<dyn Snapshots>, hosts: &[String]) -> Self {
        Self {
            bus,
            rooms: Arc::new(Rooms::new(snapshots)),
            sockets: Sockets::default(),
            hosts: hosts.into(),
            open: Arc::default(),
        }
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn place(&self) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(&self.open))
    }

    /// Serves WebSockets until the end is asked for, and then until each has been told so, which takes
    /// at most 5 s. A task: without it WebSockets are closed as they open.
    pub async fn run(self, shutdown: Shutdown, heartbeat: Heartbeat) {
        self.sockets.run(shutdown, heartbeat).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `/v1/status/stream`, `/v1/status/ws`, `/v1/events/stream` and `/v1/events/ws`. Who may ask is the
/// caller's business.
pub fn routes(streams: Streams) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(sse::status))
        .routes(routes!(ws::status))
        .routes(routes!(sse::events))
        .routes(routes!(ws::events))
        .with_state(streams)
}
