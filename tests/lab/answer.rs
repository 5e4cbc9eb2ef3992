//! What the scripted panel sends back, faults included: wrong statuses, delays, bodies that are
//! cut off, stall or never end, connections closed without a word.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use serde_json::{Value, json};

/// How the panel answers. Clones share the body.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    ending: Ending,
    delay: Duration,
    /// A panel that dedupes adds the request's key.
    echoes: bool,
}

/// What comes after the body's given bytes.
#[derive(Clone, Debug)]
enum Ending {
    Whole,
    /// The connection is closed.
    Cut,
    /// Nothing, on an open connection.
    Stall,
    /// These bytes, for ever.
    Repeat(Bytes),
    /// No answer at all: the connection is closed once the request is read.
    NoAnswer,
}

impl Answer {
    pub fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        let body = body.into();
        Self {
            status,
            headers,
            body,
            ending: Ending::Whole,
            delay: Duration::ZERO,
            echoes: true,
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::bytes(status, "application/json; charset=utf-8", body.to_string())
    }

    /// An error in the panel's envelope, with the same code as the status.
    pub fn error(status: u16, message: &str) -> Self {
        Self::json(status, &json!({"code": status, "message": message}))
    }

    /// The panel's success without data.
    pub fn success() -> Self {
        let envelope = json!({"code": 200, "message": "success", "data": null});
        Self::json(200, &envelope)
    }

    /// A reverse proxy's page, e.g. of a 502.
    pub fn html(status: u16) -> Self {
        let page = format!("<html><body><h1>{status}</h1><hr>nginx</body></html>\n");
        Self::bytes(status, "text/html", page)
    }

    /// The panel's success with such a list, well-formed or not.
    pub fn users(node: u64, uuids: &Value) -> Self {
        let data = json!({"node_id": node, "uuids": uuids});
        Self::json(
            200,
            &json!({"code": 200, "message": "success", "data": data}),
        )
    }

    /// 304 without a body.
    pub fn not_modified(etag: &str) -> Self {
        Self {
            headers: vec![("etag", etag.to_owned())],
            ..Self::bytes(304, "", "")
        }
    }

    /// Closes the connection instead of answering.
    pub fn close() -> Self {
        Self {
            ending: Ending::NoAnswer,
            ..Self::bytes(200, "text/plain", "")
        }
    }

    /// 200 and zeros for ever, chunked.
    pub fn endless_zeros() -> Self {
        let zeros = vec![0; 65_536].into();
        Self {
            ending: Ending::Repeat(zeros),
            ..Self::bytes(200, "application/json", "")
        }
    }

    /// 200 and a JSON list of users that never ends, chunked.
    pub fn endless_list(node: u64) -> Self {
        let uuid = super::uuid();
        let start = format!(
            r#"{{"code":200,"message":"success","data":{{"node_id":{node},"uuids":["{uuid}""#
        );
        let more = format!(r#","{uuid}""#).repeat(1000).into();
        Self {
            ending: Ending::Repeat(more),
            ..Self::bytes(200, "application/json", start)
        }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As of a proxy that knows no `Idempotency-Key`, before a panel that does.
    pub fn without_echo(self) -> Self {
        Self {
            echoes: false,
            ..self
        }
    }

    /// Adds a header of the request, unless this answer is one [`Answer::without_echo`].
    pub fn echoing(self, name: &'static str, value: String) -> Self {
        if self.echoes {
            self.header(name, value)
        } else {
            self
        }
    }

    /// Waits that long before the first byte.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Announces `missing` bytes more than it sends, then closes the connection.
    pub fn truncated(mut self, missing: usize) -> Self {
        self.ending = Ending::Cut;
        let announced = self.body.len() + missing;
        self.header("content-length", announced.to_string())
    }

    /// Announces `missing` bytes more than it sends, and keeps the connection open.
    pub fn stalled(self, missing: usize) -> Self {
        Self {
            ending: Ending::Stall,
            ..self.truncated(missing)
        }
    }

    /// The answer as hyper sends it, after its delay; an error closes the connection.
    pub async fn send(self) -> io::Result<Response<Sending>> {
        tokio::time::sleep(self.delay).await;
        if matches!(self.ending, Ending::NoAnswer) {
            return Err(io::Error::other("the script says not to answer"));
        }
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let sending = Sending {
            first: Some(self.body),
            flushed: false,
            ending: self.ending,
        };
        response.body(sending).map_err(io::Error::other)
    }
}

/// A body on its way.
pub struct Sending {
    first: Option<Bytes>,
    /// Once pending, so that hyper writes out what it has before the fault.
    flushed: bool,
    ending: Ending,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match &self.ending {
            Ending::Whole => Poll::Ready(None),
            Ending::Repeat(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes.clone())))),
            Ending::Cut if self.flushed => {
                Poll::Ready(Some(Err(io::Error::other("the script says to cut it off"))))
            }
            Ending::Cut => {
                self.flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Ending::Stall | Ending::NoAnswer => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.ending, Ending::Whole) && self.first.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self.ending {
            Ending::Whole => {
                SizeHint::with_exact(self.first.as_ref().map_or(0, |body| body.len() as u64))
            }
            _ => SizeHint::default(),
        }
    }
}
