//! The bus: the latest events in memory, and readers that each stand somewhere in them.
//!
//! Kept here: a reader costs its place only, so one that is stuck neither delays anybody nor grows
//! memory; what it was too slow for it is told. Nothing is given to a reader twice or out of order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::event::{Event, EventId};

/// How much the bus remembers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events at most.
    pub events: usize,
    /// Bytes at most, by [`Event::bytes`].
    pub bytes: usize,
}

impl Default for Bounds {
    /// The events that the contract names, as far as they are small: an agent that idles takes 16 MiB
    /// in all.
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 4 << 20,
        }
    }
}

/// A handle; clones share the bus. Subscriptions end when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Bus {
    ring: Arc<Mutex<Ring>>,
    /// The place of the next event.
    head: Arc<watch::Sender<u64>>,
}

/// What a subscriber hears next.
#[derive(Clone, Debug)]
pub enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// Events before the next one are no longer remembered: so many, if that is known.
    Missed(Option<u64>),
}

/// A place in the stream of events.
#[derive(Debug)]
pub struct Subscription {
    ring: Arc<Mutex<Ring>>,
    head: watch::Receiver<u64>,
    /// The place of the next event to be heard.
    place: u64,
    /// Asked for an event that is not remembered.
    is_cut: bool,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The place of the first of them; places are never used again.
    first: u64,
    bytes: usize,
    bounds: Bounds,
}

impl Bus {
    /// One that remembers up to `bounds`, and knows `events` from before, oldest first.
    pub fn new(bounds: Bounds, events: impl IntoIterator<Item = Event>) -> Self {
        let mut ring = Ring {
            events: VecDeque::new(),
            first: 0,
            bytes: 0,
            bounds,
        };
        for event in events {
            ring.push(Arc::new(event));
        }
        let (head, _) = watch::channel(ring.end());
        Self {
            ring: Arc::new(Mutex::new(ring)),
            head: Arc::new(head),
        }
    }

    /// Tells an event to all. Never waits.
    pub fn publish(&self, event: Event) {
        let mut ring = locked(&self.ring);
        ring.push(Arc::new(event));
        // Within the lock: two at once must not move it back.
        self.head.send_replace(ring.end());
    }

    /// Subscribes: to what follows the event `after`, or to what is published from now on. When
    /// `after` is not remembered, the first that is heard is [`Heard::Missed`], and then all that is
    /// younger by its number.
    pub fn subscribe(&self, after: Option<EventId>) -> Subscription {
        let ring = locked(&self.ring);
        let found = after.map(|id| ring.place_after(id));
        Subscription {
            ring: Arc::clone(&self.ring),
            head: self.head.subscribe(),
            place: found.map_or(ring.end(), |(place, _)| place),
            is_cut: found.is_some_and(|(_, is_cut)| is_cut),
        }
    }

    /// How much is remembered: events and bytes.
    pub fn remembered(&self) -> (usize, usize) {
        let ring = locked(&self.ring);
        (ring.events.len(), ring.bytes)
    }
}

impl Subscription {
    /// Waits for what is next; `None` when the bus is gone and all was heard. Cancel-safe.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            self.head.mark_unchanged();
            if let Some(heard) = self.try_next() {
                return Some(heard);
            }
            if self.head.changed().await.is_err() {
                return self.try_next();
            }
        }
    }

    /// What is next, if it is there.
    pub fn try_next(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.is_cut) {
            return Some(Heard::Missed(None));
        }
        let ring = locked(&self.ring);
        if self.place < ring.first {
            let missed = ring.first - self.place;
            self.place = ring.first;
            return Some(Heard::Missed(Some(missed)));
        }
        let event = ring.at(self.place)?;
        self.place += 1;
        Some(Heard::Event(event))
    }
}

impl Ring {
    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
    }

    /// The place of the next event.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn at(&self, place: u64) -> Option<Arc<Event>> {
        let at = usize::try_from(place.checked_sub(self.first)?).ok()?;
        self.events.get(at).map(Arc::clone)
    }

    /// The place after that event, and whether it is not remembered.
    fn place_after(&self, id: EventId) -> (u64, bool) {
        // Most ask for one of the latest.
        if let Some(at) = self.events.iter().rposition(|event| event.id == id) {
            return (self.first + at as u64 + 1, false);
        }
        let at = self.events.iter().position(|event| event.id > id);
        (self.first + at.unwrap_or(self.events.len()) as u64, true)
    }
}

/// A panic while it was held leaves it whole: it is changed by what cannot fail.
fn locked(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}
