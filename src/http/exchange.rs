//! One request and its answer: id, host, limits, route, log line.
//!
//! Kept here: whatever a route does (panic, never answer, refuse without a word), the client gets an
//! answer with a status and an id, and the log neither a query nor a credential.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;
use tracing::{debug, error, trace, warn};

use super::body::{Meter, Overrun};
use super::client::Client;
use super::error::{Cause, HttpError};
use super::host::Hosts;
use super::request_id::{RequestId, X_REQUEST_ID};
use crate::base::redact;

/// Longest path in the log, in characters.
const PATH_CHARS_MAX: usize = 200;

/// What a listener serves.
#[derive(Clone, Debug)]
pub(super) struct Served {
    router: Router,
    /// The names under which it may be asked; `None`: under every name.
    hosts: Option<Hosts>,
}

/// What the log says of a request.
struct Line {
    method: Method,
    path: String,
    id: RequestId,
    began: Instant,
}

impl Served {
    pub(super) fn new(router: Router, hosts: Option<Hosts>) -> Self {
        // The meter's limits hold instead.
        let router = router.layer(DefaultBodyLimit::disable());
        Self { router, hosts }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, client: &Client, request: Request<Incoming>) -> Response {
        let line = Line {
            method: request.method().clone(),
            path: redact::line(request.uri().path(), PATH_CHARS_MAX),
            id: RequestId::of(request.headers()),
            began: Instant::now(),
        };
        line.begin(client);
        let mut response = match self.check(&request) {
            Ok(()) => self.within_limits(client, &line, request).await,
            Err(refusal) => closing(refusal.into_response()),
        };
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, line.id.value());
        let nosniff = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
        line.log(client, &response);
        response
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), HttpError> {
        let Some(hosts) = &self.hosts else {
            return Ok(());
        };
        hosts.check(request.version(), request.uri(), request.headers())
    }

    async fn within_limits(
        &self,
        client: &Client,
        line: &Line,
        request: Request<Incoming>,
    ) -> Response {
        let meter = Meter::new();
        let waits_to_send = request.headers().contains_key(header::EXPECT);
        let (mut parts, incoming) = request.into_parts();
        parts.extensions.insert(meter.clone());
        parts.extensions.insert(client.clone());
        parts.extensions.insert(line.id.clone());
        let body = if incoming.is_end_stream() {
            meter.none();
            Body::empty()
        } else {
            Body::new(meter.on(incoming))
        };
        let request = Request::from_parts(parts, body);
        let routed = AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind();
        let answered = in_time(&meter, routed).await;
        let all_read = meter.drain(!waits_to_send).await;
        if let Some(overrun) = meter.overrun() {
            return closing(refusal(overrun).into_response());
        }
        let response = match answered {
            Some(Ok(Ok(response))) => worded(response),
            Some(Err(panic)) => HttpError::internal(&panic_message(&*panic)).into_response(),
            None => {
                let message = "no answer was ready in time; try again later";
                HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
            }
        };
        if all_read {
            response
        } else {
            closing(response)
        }
    }
}

/// What it comes to, or `None` when the answer was due.
pub(super) async fn in_time<T>(meter: &Meter, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let due = meter.answer_due();
        // Both arms are cancel-safe: the work is only lent.
        tokio::select! {
            done = &mut work => return Some(done),
            () = sleep_until(due) => {}
        }
        // The body ended, or got more time, meanwhile: the answer may be due at another moment.
        if meter.answer_due() <= Instant::now() {
            return None;
        }
    }
}

fn refusal(overrun: Overrun) -> HttpError {
    match overrun {
        Overrun::TooLarge(most) => {
            let message = format!("the body is larger than {most} bytes");
            HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
        Overrun::TooSlow(limit) => {
            let message = format!("the body did not come within {} s", limit.as_secs());
            HttpError::new(StatusCode::REQUEST_TIMEOUT, message)
        }
    }
}

/// The connection ends with this answer.
fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// Gives a refusal without a word, such as that of an unknown path, the words of its status; its
/// headers (`Allow`) stay.
fn worded(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || !response.body().is_end_stream() {
        return response;
    }
    let words = status.canonical_reason().unwrap_or("error").to_lowercase();
    let (parts, _) = response.into_parts();
    let mut response = HttpError::new(status, words).into_response();
    for (name, value) in &parts.headers {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response.extensions_mut().extend(parts.extensions);
    response
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a route panicked: {}", text.unwrap_or("without a message"))
}

impl Line {
    fn begin(&self, client: &Client) {
        let (id, peer) = (&self.id, client.peer());
        trace!(request = %id, %peer, method = %self.method, path = self.path, "asked");
    }

    fn log(&self, client: &Client, response: &Response) {
        let Self {
            method,
            path,
            id,
            began,
        } = self;
        let (status, peer) = (response.status(), client.peer());
        let took: Duration = began.elapsed();
        if let Some(Cause(cause)) = response.extensions().get() {
            if status.is_server_error() {
                error!(request = %id, %method, path, status = status.as_u16(), "{cause}");
            } else {
                warn!(request = %id, %method, path, status = status.as_u16(), "{cause}");
            }
        }
        debug!(request = %id, %peer, %method, path, status = status.as_u16(), ?took, "answered");
    }
}
