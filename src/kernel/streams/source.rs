//! What a stream tells next, be it by server-sent events or over a WebSocket.
//!
//! Kept here: nothing is made before it is asked for, so a reader that does not read has no queue.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::super::error::unavailable;
use super::message::{Message, TooLarge};
use super::query::{EventsAsked, Mode, StatusAsked, Topics};
use super::room::{Base, Room, Rooms};
use crate::events::bus::{Bus, Heard, Subscription};
use crate::http::HttpError;
use crate::model::event::Event;

/// A stream that has nothing to tell gives a sign of life so often: the contract says 15 s at most.
pub(super) const SIGN_EVERY: Duration = Duration::from_secs(10);

/// What a stream tells next.
#[derive(Debug)]
pub(super) enum Next {
    Message(Message),
    /// Nothing but that it is still there.
    Sign,
    /// Nothing more, as what comes next does not fit.
    TooLarge(TooLarge),
    /// Nothing more, as the bus is gone.
    Over,
}

/// A stream's place in what it tells.
pub(super) struct Source {
    /// What it begins with.
    first: Option<Message>,
    status: Option<Status>,
    events: Option<Events>,
    /// When a sign of life is due.
    sign: Instant,
}

struct Status {
    room: Arc<Room>,
    mode: Mode,
    base: Base,
    /// The turn to be told next.
    next: u32,
}

struct Events {
    subscription: Subscription,
    topics: Topics,
}

impl Source {
    /// The status, beginning with a whole one, and with it the events that were asked for.
    pub(super) async fn of_status(
        rooms: &Rooms,
        bus: &Bus,
        asked: StatusAsked,
    ) -> Result<Self, HttpError> {
        // What happens while the snapshot is made is told after it.
        let events = asked.events.map(|asked| Events::new(bus, asked));
        let room = rooms.enter(asked.cut, asked.interval);
        let next = room.turn() + 1;
        let Some(first) = room.begin().await else {
            return Err(unavailable(
                "the status cannot be told now; try again later",
            ));
        };
        let first = first?;
        let status = Status {
            room,
            mode: asked.mode,
            base: Base::Begun(first.clone()),
            next,
        };
        Ok(Self {
            first: Some(first),
            status: Some(status),
            events,
            sign: Instant::now() + SIGN_EVERY,
        })
    }

    /// Events alone.
    pub(super) fn of_events(bus: &Bus, asked: EventsAsked) -> Self {
        Self {
            first: None,
            status: None,
            events: Some(Events::new(bus, asked)),
            sign: Instant::now() + SIGN_EVERY,
        }
    }

    /// Waits for what is next. Cancel-safe: what was not given out is still next.
    pub(super) async fn next(&mut self) -> Next {
        if let Some(first) = self.first.take() {
            return self.told(Next::Message(first));
        }
        // All arms are cancel-safe: each takes its step when it has what it tells.
        let next = tokio::select! {
            next = of(self.status.as_mut(), Status::next) => next,
            next = of(self.events.as_mut(), Events::next) => next,
            () = sleep_until(self.sign) => Next::Sign,
        };
        self.told(next)
    }

    fn told(&mut self, next: Next) -> Next {
        self.sign = Instant::now() + SIGN_EVERY;
        next
    }
}

/// What a part tells next; nothing, where it is not asked for.
async fn of<T>(part: Option<&mut T>, next: impl AsyncFnOnce(&mut T) -> Next) -> Next {
    match part {
        Some(part) => next(part).await,
        None => pending().await,
    }
}

impl Status {
    async fn next(&mut self) -> Next {
        loop {
            sleep_until(self.room.begins(self.next)).await;
            let Some(turn) = self.room.turning().await else {
                self.next = self.room.turn().max(self.next) + 1;
                continue;
            };
            let message = match self.mode {
                Mode::Full => turn.full(),
                Mode::Diff => turn.since(&self.base),
            };
            self.base = Base::Turn(turn.number());
            self.next = turn.number() + 1;
            return match message {
                Ok(message) => Next::Message(message),
                Err(too_large) => Next::TooLarge(too_large),
            };
        }
    }
}

impl Events {
    fn new(bus: &Bus, asked: EventsAsked) -> Self {
        Self {
            subscription: bus.subscribe(asked.after),
            topics: asked.topics,
        }
    }

    async fn next(&mut self) -> Next {
        loop {
            let heard = self.subscription.next().await;
            return match heard {
                None => Next::Over,
                Some(Heard::Missed(count)) => missed(count),
                Some(Heard::Event(event)) if !self.topics.contain(event.name.topic()) => continue,
                Some(Heard::Event(event)) => told(&event),
            };
        }
    }
}

/// An event that does not fit is one that is missed: those after it are told.
fn told(event: &Event) -> Next {
    let message = Message::new(&event.name.stream_name(), Some(event.id), event);
    message.map_or_else(|TooLarge| missed(Some(1)), Next::Message)
}

fn missed(count: Option<u64>) -> Next {
    let message = Message::new("missed", None, &json!({ "missed": count }));
    message.map_or_else(Next::TooLarge, Next::Message)
}
