//! Streams as server-sent events (WHATWG HTML, 9.2).
//!
//! Kept here: the connection's own task pulls the body, a message at a time, when the last one is on
//! its way; there is no queue, and `http` cuts a reader that takes nothing.

use std::convert::Infallible;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};

use super::super::error::ApiError;
use super::message::{Message, TooLarge};
use super::query::{EventsQuery, StatusQuery, read};
use super::source::{Next, Source};
use super::{Place, Streams};
use crate::base::supervise::Shutdown;
use crate::http::{Client, ErrorResponse, HttpError};

/// A comment, which readers pass over: a sign of life.
const SIGN: Bytes = Bytes::from_static(b":\n\n");
/// The last words to all at a stop.
const BYE: Bytes = Bytes::from_static(b": bye\n\n");
/// Tells nginx not to collect an answer before it passes it on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

type Asked<T> = Result<Query<T>, QueryRejection>;

#[utoipa::path(
    get, path = "/v1/status/stream", tag = "kernel", operation_id = "status_stream",
    summary = "The status as server-sent events",
    params(StatusQuery),
    responses(
        (
            status = 200, content_type = "text/event-stream", body = String,
            description = "`status.full`, then every interval another or a `status.diff`",
        ),
        ApiError
    )
)]
pub(super) async fn status(
    State(streams): State<Streams>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    query: Asked<StatusQuery>,
) -> Result<Response, HttpError> {
    let asked = read(query)?.asked(&headers)?;
    let source = Source::of_status(&streams.rooms, &streams.bus, asked).await?;
    opened(&streams, &client, source)
}

#[utoipa::path(
    get, path = "/v1/events/stream", tag = "kernel", operation_id = "events_stream",
    summary = "Events as server-sent events; `Last-Event-ID` goes on where a client was",
    params(EventsQuery),
    responses(
        (
            status = 200, content_type = "text/event-stream", body = String,
            description = "An event each; `missed` where some are no longer remembered",
        ),
        ApiError
    )
)]
pub(super) async fn events(
    State(streams): State<Streams>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    query: Asked<EventsQuery>,
) -> Result<Response, HttpError> {
    let asked = read(query)?.asked(&headers)?;
    opened(&streams, &client, Source::of_events(&streams.bus, asked))
}

fn opened(streams: &Streams, client: &Client, source: Source) -> Result<Response, HttpError> {
    client.become_stream()?;
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_ACCEL_BUFFERING, "no"),
        // It is counted as a stream until it ends.
        (CONNECTION, "close"),
    ];
    let told = Told {
        source,
        shutdown: client.shutdown(),
        _place: streams.place(),
    };
    let body = Body::from_stream(written(told));
    Ok((headers, body).into_response())
}

/// What is told on a connection.
struct Told {
    source: Source,
    shutdown: Shutdown,
    _place: Place,
}

/// All that is written, up to the last words.
fn written(told: Told) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(Some(told), async |told| {
        let mut told = told?;
        // Both arms are cancel-safe.
        let next = tokio::select! {
            next = told.source.next() => next,
            () = told.shutdown.requested() => Next::Over,
        };
        Some(match next {
            Next::Message(message) => (Ok(message.sse()), Some(told)),
            Next::Sign => (Ok(SIGN), Some(told)),
            Next::TooLarge(why) => (Ok(last_error(why)), None),
            Next::Over => (Ok(BYE), None),
        })
    })
}

fn last_error(why: TooLarge) -> Bytes {
    let content = ErrorResponse {
        code: "BAD_REQUEST",
        message: why.to_string(),
    };
    Message::new("error", None, &content).map_or(BYE, Message::sse)
}
