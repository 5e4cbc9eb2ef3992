//! A request's body within its limits of size and time. The route may raise them before it reads
//! ([`bulk`]); what it leaves unread is read and thrown away, so that a client that is still sending
//! gets its answer.
//!
//! Kept here: no byte over the limit, and none after the time, reaches a route.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::poll_fn;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::{ANSWER_TAKES, BodyLimits};

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the body did not come within {0:?}")]
    TooSlow(Duration),
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// A limit that a body went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overrun {
    TooLarge(u64),
    TooSlow(Duration),
}

impl From<Overrun> for BodyError {
    fn from(overrun: Overrun) -> Self {
        match overrun {
            Overrun::TooLarge(most) => Self::TooLarge(most),
            Overrun::TooSlow(limit) => Self::TooSlow(limit),
        }
    }
}

/// What the body, the route and the exchange share. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Mutex<Gauge>>);

#[derive(Debug)]
struct Gauge {
    limits: BodyLimits,
    began: Instant,
    received: u64,
    /// When it ended, or was left.
    ended: Option<Instant>,
    overrun: Option<Overrun>,
    /// Whether anybody began to read.
    touched: bool,
    /// What the route left unread.
    left: Option<Incoming>,
}

/// A body whose meter runs.
pub(super) struct Metered {
    inner: Option<Incoming>,
    meter: Meter,
    due: Pin<Box<Sleep>>,
}

/// Gives a route the limits of bulk: `route.layer(axum::middleware::from_fn(bulk))`.
pub async fn bulk(request: Request, next: Next) -> Response {
    if let Some(meter) = request.extensions().get::<Meter>() {
        meter.gauge().limits = BodyLimits::BULK;
    }
    next.run(request).await
}

impl Meter {
    /// Of a request whose head has just ended.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Gauge {
            limits: BodyLimits::DEFAULT,
            began: Instant::now(),
            received: 0,
            ended: None,
            overrun: None,
            touched: false,
            left: None,
        })))
    }

    /// Puts the body on this meter.
    pub(super) fn on(&self, body: Incoming) -> Metered {
        Metered {
            inner: Some(body),
            meter: self.clone(),
            due: Box::pin(sleep_until(self.gauge().due())),
        }
    }

    /// There is no body.
    pub(super) fn none(&self) {
        self.gauge().ended = Some(Instant::now());
    }

    /// When the answer must have begun.
    pub(super) fn answer_due(&self) -> Instant {
        let gauge = self.gauge();
        gauge.ended.unwrap_or_else(|| gauge.due()) + ANSWER_TAKES
    }

    /// The limit that the body went over, if it did.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        self.gauge().overrun
    }

    /// Reads what the route left, as far as the limits go; false where the connection must be closed
    /// because more may come.
    pub(super) async fn drain(&self, may_begin: bool) -> bool {
        let (left, touched, is_bulk) = {
            let mut gauge = self.gauge();
            let is_bulk = gauge.limits != BodyLimits::DEFAULT;
            (gauge.left.take(), gauge.touched, is_bulk)
        };
        let Some(left) = left else {
            return true;
        };
        // Reading would ask a client to send who waits to be asked, and much is not worth it.
        if is_bulk || !(touched || may_begin) {
            return false;
        }
        let mut body = self.on(left);
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }

    fn gauge(&self) -> MutexGuard<'_, Gauge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gauge {
    fn due(&self) -> Instant {
        self.began + self.limits.due(self.received)
    }

    /// Whether so many bytes, and at least so many more, are within the limits now.
    fn take(&mut self, bytes: u64, coming: u64) -> Result<(), Overrun> {
        self.touched = true;
        self.received += bytes;
        if self.received.saturating_add(coming) > self.limits.bytes_max {
            self.overrun = Some(Overrun::TooLarge(self.limits.bytes_max));
        } else if Instant::now() >= self.due() {
            self.overrun = Some(Overrun::TooSlow(self.limits.due(self.received)));
        }
        self.overrun.map_or(Ok(()), Err)
    }
}

impl Metered {
    /// The next frame, or the limit that was gone over.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        self.meter.gauge().take(0, inner.size_hint().lower())?;
        if let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) {
            let Some(frame) = frame else {
                return Poll::Ready(None);
            };
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.meter.gauge().take(bytes, 0)?;
            return Poll::Ready(Some(Ok(frame)));
        }
        let due = self.meter.gauge().due();
        if self.due.deadline() != due {
            self.due.as_mut().reset(due);
        }
        std::task::ready!(self.due.as_mut().poll(cx));
        let slow = self.meter.gauge().take(0, 0);
        Poll::Ready(slow.err().map(|overrun| Err(overrun.into())))
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_next(cx);
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            // Whatever it was: there is nothing more to read.
            self.inner = None;
            self.meter.none();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(SizeHint::new, Body::size_hint)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let mut gauge = self.meter.gauge();
        if let Some(inner) = self.inner.take() {
            gauge.ended = Some(Instant::now());
            gauge.left = (!inner.is_end_stream()).then_some(inner);
        }
    }
}
