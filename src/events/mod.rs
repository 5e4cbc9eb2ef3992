//! Events: engines tell what happened; streams hear it from the bus, and targets are sent it from the
//! outbox.
//!
//! Kept here: an event is written in its caller's transaction, together with what it tells of, for
//! the journal and for every target that wants it. It goes to the bus when that is committed, in the
//! order of commits: what a stream heard before a restart is where it goes on after it.

pub mod bus;
mod journal;
pub mod outbox;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tracing::warn;

use crate::model::delivery::Render;
use crate::model::event::Event;
use crate::store::{Store, StoreError, Work, WorkError};
use bus::{Bounds, Bus};
use outbox::Outbox;

/// A handle; clones share bus, journal and outbox.
#[derive(Clone)]
pub struct Events {
    bus: Bus,
    bounds: Bounds,
    outbox: Outbox,
    render: Arc<dyn Render>,
    store: Store,
}

impl Events {
    /// With what the store remembers of the last run. Where that cannot be read, streams are told
    /// that they missed events; all else goes on.
    pub async fn start(outbox: Outbox, render: Arc<dyn Render>, bounds: Bounds) -> Self {
        let store = outbox.store().clone();
        let remembered = store.read("journal", |work| journal::read(work)).await;
        let remembered = remembered.unwrap_or_else(|e| {
            warn!("streams cannot be taken up where they were: {e}");
            Vec::new()
        });
        Self {
            bus: Bus::new(bounds, remembered),
            bounds,
            outbox,
            render,
            store,
        }
    }

    /// Where streams subscribe.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Targets and their queues.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Writes an event down within the caller's transaction on `agent.db`. When that is committed it
    /// is told to streams and sent to targets; when it is undone it never happened.
    pub fn record(&self, work: &Work<'_>, event: Event) -> Result<(), WorkError> {
        journal::append(work, &event, self.bounds)?;
        self.outbox.enqueue_for_all(work, &event, &*self.render)?;
        let bus = self.bus.clone();
        work.after_commit(move || bus.publish(event));
        Ok(())
    }

    /// Tells of something that the store keeps nothing of. Comes back when it is on the disk. Where
    /// the store does not take it, streams hear it all the same, targets do not, and the error says
    /// why.
    pub async fn publish(&self, event: Event) -> Result<(), StoreError> {
        let (events, recorded) = (self.clone(), event.clone());
        let done = self
            .store
            .write("event", move |work| events.record(work, recorded))
            .await;
        if done.is_err() {
            self.bus.publish(event);
        }
        done
    }
}
