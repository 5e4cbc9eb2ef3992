//! A call and what came back of it. Keeps: no more of an answer is read than the call wants, and no
//! longer; nothing here prints what a URL, a header or a body holds.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use reqwest::Response;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::error::Cause;
use super::target::shown_url;

/// Most bytes of an answer's body that are read, unless a call wants more: enough to say why.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Headers that frame a message or hold for one connection: they are the client's to set.
const OF_CONNECTION: [HeaderName; 9] = [
    PROXY_AUTHORIZATION,
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// One request, and how far it may go.
#[derive(Clone)]
pub struct Call {
    /// Any but CONNECT.
    pub method: Method,
    /// `http` or `https`; a user and password in it are sent as Basic credentials.
    pub url: Url,
    /// Headers that a user set: not sent to another origin.
    pub headers: HeaderMap,
    /// Headers of the agent's own, sent to every hop; they stand above a user's.
    pub own_headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// For all of it, from the look-up to the answer's last byte.
    pub timeout: Duration,
    /// Most redirects that are followed.
    pub redirects: u32,
    /// Most bytes of the answer's body that are read.
    pub body_bytes_max: usize,
}

/// Shows neither headers nor body, and of the URL no more than an error does.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, shown_url(&self.url))
    }
}

/// What came back. A redirect that was not followed is one too.
#[derive(Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, or the beginning of it.
    pub body: Bytes,
    /// Whether that is all of it.
    pub end: End,
    /// So many redirects were followed.
    pub redirects: u32,
    /// Who answered: a proxy, where there is one.
    pub from: Option<SocketAddr>,
}

/// Shows neither headers nor body: either may send back what it was sent.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, from, bytes) = (self.status, self.from, self.body.len());
        let (end, redirects) = (&self.end, self.redirects);
        write!(
            f,
            "{status} from {from:?}: {bytes} bytes, {end:?}, {redirects} redirects"
        )
    }
}

/// How an answer's body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is whole.
    Whole,
    /// More came than the call wanted.
    TooLong,
    /// It broke off, or did not come in time.
    Broken(Cause),
}

impl Call {
    /// A call without headers and body that follows no redirect.
    pub fn new(method: Method, url: Url, timeout: Duration) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            own_headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout,
            redirects: 0,
            body_bytes_max: BODY_BYTES_MAX,
        }
    }

    /// Takes out what a user must not set.
    pub(super) fn drop_framing(&mut self) {
        for name in OF_CONNECTION {
            self.headers.remove(&name);
        }
    }
}

impl Answer {
    /// Reads the body as far as the call wants.
    pub(super) async fn read(
        mut response: Response,
        call: &Call,
        redirects: u32,
        deadline: Instant,
    ) -> Self {
        let mut body = Vec::new();
        let end = loop {
            let part = match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(part))) => part,
                Ok(Ok(None)) => break End::Whole,
                Ok(Err(error)) => break End::Broken(Cause::of(&error.without_url())),
                Err(_) => break End::Broken(Cause::Timeout(call.timeout)),
            };
            let room = call.body_bytes_max - body.len();
            body.extend_from_slice(&part[..part.len().min(room)]);
            if part.len() > room {
                break End::TooLong;
            }
        };
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: body.into(),
            end,
            redirects,
            from: response.remote_addr(),
        }
    }
}
