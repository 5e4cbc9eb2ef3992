//! Streams over WebSockets (RFC 6455): a frame of JSON text for each message.
//!
//! Kept here: every socket belongs to one task and none outlives it; what a client says is read and
//! thrown away, within bounds; all are told of a stop by a close frame.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{
    CloseCode, CloseFrame, Message as Frame, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code,
};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use super::super::error::ApiError;
use super::message;
use super::origin;
use super::query::{EventsQuery, StatusQuery, read};
use super::source::{Next, Source};
use super::{Place, Streams};
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::http::{Client, HttpError};

/// Largest message of a client, in bytes: it has nothing to say.
const HEARD_BYTES_MAX: usize = 1 << 10;
/// Messages of a client within [`HEARD_WITHIN`] that are passed over; pings are among them.
const HEARD_MAX: u32 = 100;
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// What is read and written at once, in bytes; a message that is larger is written as it is.
const BUFFER_BYTES: usize = 4 << 10;
/// What waits to be written: one message, and answers to pings.
const WAITING_BYTES_MAX: usize = message::BYTES_MAX + (8 << 10);
/// A client has so long to answer a close frame, and at a stop all have so long to take one: the
/// contract says 5 s.
const CLOSE_TAKES: Duration = Duration::from_secs(2);
const STOP_TAKES: Duration = Duration::from_secs(4);
/// Sockets that were opened and not taken over yet: it takes as long as a turn of a task.
const OPENED_MAX: usize = 64;

/// How often who serves sockets gives a sign of life, if nothing else comes: well within the time after
/// which he is held to hang.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

type Asked<T> = Result<Query<T>, QueryRejection>;
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

#[utoipa::path(
    get, path = "/v1/status/ws", tag = "kernel", operation_id = "status_ws",
    summary = "The status over a WebSocket",
    params(StatusQuery),
    responses(
        (status = 101, description = "JSON as in the data of `/v1/status/stream`, a frame each"),
        ApiError
    )
)]
pub(super) async fn status(
    State(streams): State<Streams>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    query: Asked<StatusQuery>,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let upgrade = admitted(upgrade, &headers, &streams)?;
    let asked = read(query)?.asked(&headers)?;
    let source = Source::of_status(&streams.rooms, &streams.bus, asked).await?;
    opened(upgrade, &client, &streams, source)
}

#[utoipa::path(
    get, path = "/v1/events/ws", tag = "kernel", operation_id = "events_ws",
    summary = "Events over a WebSocket",
    params(EventsQuery),
    responses(
        (status = 101, description = "JSON as in the data of `/v1/events/stream`, a frame each"),
        ApiError
    )
)]
pub(super) async fn events(
    State(streams): State<Streams>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    query: Asked<EventsQuery>,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let upgrade = admitted(upgrade, &headers, &streams)?;
    let asked = read(query)?.asked(&headers)?;
    let source = Source::of_events(&streams.bus, asked);
    opened(upgrade, &client, &streams, source)
}

/// Whether it is a handshake, of a page that may open one.
fn admitted(
    upgrade: Upgrade,
    headers: &HeaderMap,
    streams: &Streams,
) -> Result<WebSocketUpgrade, HttpError> {
    let upgrade = upgrade.map_err(|rejection| {
        let message = format!("a WebSocket is opened here: {}", rejection.body_text());
        HttpError::new(rejection.status(), message).coded("BAD_REQUEST")
    })?;
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    match text(header::ORIGIN) {
        Some(page) if !origin::is_allowed(page, host, &streams.hosts) => Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "pages of this origin may not open it; add its host to http.hosts (HTTP_HOSTS)",
        )),
        _ => Ok(upgrade),
    }
}

fn opened(
    upgrade: WebSocketUpgrade,
    client: &Client,
    streams: &Streams,
    source: Source,
) -> Result<Response, HttpError> {
    client.become_stream()?;
    let upgrade = upgrade
        .max_message_size(HEARD_BYTES_MAX)
        .max_frame_size(HEARD_BYTES_MAX)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(WAITING_BYTES_MAX);
    let (sockets, place) = (streams.sockets.clone(), streams.place());
    let answer = upgrade.on_upgrade(async move |socket| {
        let opened = Opened {
            socket,
            source,
            _place: place,
        };
        sockets.take_over(opened).await;
    });
    Ok(answer.into_response())
}

/// By which a socket that was opened comes to the task that serves it. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Sockets(Arc<Mutex<Option<mpsc::Sender<Opened>>>>);

/// A socket, and what is told on it.
struct Opened {
    socket: WebSocket,
    source: Source,
    _place: Place,
}

impl Sockets {
    async fn take_over(&self, opened: Opened) {
        let to = self.locked().clone();
        let left = match to {
            Some(to) => to.try_send(opened).err().map(TrySendError::into_inner),
            None => Some(opened),
        };
        // The task is being started anew, or a stop is under way.
        if let Some(mut left) = left {
            left.say_close(close_code::AGAIN, "try again later").await;
        }
    }

    /// Serves sockets until the end is asked for, and on until they are closed or had their time.
    pub(super) async fn run(&self, mut shutdown: Shutdown, heartbeat: Heartbeat) {
        let (to, mut from) = mpsc::channel(OPENED_MAX);
        *self.locked() = Some(to);
        let mut serving = JoinSet::new();
        loop {
            heartbeat.beat();
            // All arms are cancel-safe.
            tokio::select! {
                () = shutdown.requested() => break,
                () = sleep(ALIVE_EVERY) => {}
                Some(opened) = from.recv() => {
                    serving.spawn(Opened::serve(opened, shutdown.clone()));
                }
                Some(ended) = serving.join_next(), if !serving.is_empty() => {
                    if let Err(failure) = ended && failure.is_panic() {
                        error!("a WebSocket ended by a panic: {failure}");
                    }
                }
            }
        }
        *self.locked() = None;
        let all = async { while serving.join_next().await.is_some() {} };
        if timeout(STOP_TAKES, all).await.is_err() {
            debug!("WebSockets that take nothing are cut");
        }
    }

    /// A panic elsewhere leaves it whole: it is replaced in one step.
    fn locked(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Opened>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a socket is closed by us.
type Closing = (CloseCode, &'static str);

impl Opened {
    async fn serve(mut self, shutdown: Shutdown) {
        if let Some((code, why)) = self.talk(shutdown).await {
            self.say_close(code, why).await;
        }
    }

    /// Tells what there is until one side ends it; `None`: it is closed already.
    async fn talk(&mut self, mut shutdown: Shutdown) -> Option<Closing> {
        let mut heard = Heard::default();
        loop {
            // All arms are cancel-safe: what was read in part stays in the socket.
            let frame = tokio::select! {
                next = self.source.next() => match next {
                    Next::Message(message) => text(message.json())?,
                    Next::Sign => Frame::Ping(Bytes::new()),
                    Next::TooLarge(_) => return Some((close_code::SIZE, "a message is too large")),
                    Next::Over => return Some((close_code::AWAY, "the agent ends")),
                },
                said = self.socket.recv() => match said {
                    Some(Ok(Frame::Close(_))) | None => return None,
                    Some(Ok(_)) if !heard.is_too_much(Instant::now()) => continue,
                    // Too much, too large or no frame at all; or the socket is broken.
                    Some(_) => return Some((close_code::POLICY, "nothing is to be said here")),
                },
                () = shutdown.requested() => return Some((close_code::AWAY, "the agent ends")),
            };
            // `http` cuts a peer that takes nothing.
            self.socket.send(frame).await.ok()?;
        }
    }

    /// Says that it closes, and waits for the answer, so that what was sent before arrives.
    async fn say_close(&mut self, code: CloseCode, why: &'static str) {
        let frame = CloseFrame {
            code,
            reason: Utf8Bytes::from_static(why),
        };
        let closed = async {
            if self.socket.send(Frame::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        if timeout(CLOSE_TAKES, closed).await.is_err() {
            debug!("a client did not answer the close of its WebSocket");
        }
    }
}

/// Always one: JSON is UTF-8.
fn text(json: Bytes) -> Option<Frame> {
    Utf8Bytes::try_from(json).ok().map(Frame::Text)
}

/// How much a client says.
#[derive(Default)]
struct Heard {
    since: Option<Instant>,
    count: u32,
}

impl Heard {
    /// Counts a message; whether there were too many of late.
    fn is_too_much(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        if now - since >= HEARD_WITHIN {
            *self = Self {
                since: Some(now),
                count: 0,
            };
        }
        self.count += 1;
        self.count > HEARD_MAX
    }
}
