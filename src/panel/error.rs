//! What a call to the panel can come to: it names the address (never the token), what came back, and
//! what to do about it.

use std::error::Error;
use std::time::Duration;

use http::StatusCode;

use crate::base::redact;

/// Most characters of an answer that are shown.
const SHOWN_CHARS: usize = 200;

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct PanelError {
    /// The address that was called.
    pub url: String,
    /// Why it did not succeed.
    pub reason: Reason,
}

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Connection, TLS, proxy or protocol.
    #[error("{0}")]
    Transport(String),
    /// No whole answer within the time.
    #[error("no whole answer in time (HTTP_TIMEOUT_SECONDS, panel.timeout)")]
    Timeout,
    /// A 3xx.
    #[error(
        "answered {status}, a redirect to {to:?}, which is not followed: the token would go along. \
         Set the panel's address to where it points"
    )]
    Redirected {
        /// The status.
        status: StatusCode,
        /// Host of its `Location`.
        to: String,
    },
    /// The panel's own word, in its envelope.
    #[error("answered {status} with code {code}: {message:?}{}", mend(*.code, .message))]
    Refused {
        /// Status of the answer.
        status: StatusCode,
        /// `code` of the envelope.
        code: i64,
        /// `message` of the envelope, cut.
        message: String,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// Anything that is not the panel's envelope.
    #[error("answered {status}, but {why}; it begins: {beginning:?}")]
    Malformed {
        /// Status of the answer.
        status: StatusCode,
        /// What is wrong with it.
        why: String,
        /// Its first characters.
        beginning: String,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// A success whose content cannot be right.
    #[error("{0}; the users that are there stay")]
    Absurd(String),
    /// A body over the limit.
    #[error("the answer is larger than {bytes_max} bytes (panel.body_bytes_max)")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl Reason {
    pub(super) fn of_transport(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else {
            Self::Transport(chain(error))
        }
    }

    pub(super) fn malformed(
        status: StatusCode,
        retry_after: Option<Duration>,
        why: impl Into<String>,
        body: &[u8],
    ) -> Self {
        Self::Malformed {
            status,
            why: why.into(),
            beginning: beginning(body),
            retry_after,
        }
    }
}

impl PanelError {
    /// How long the panel asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.reason {
            Reason::Refused { retry_after, .. } | Reason::Malformed { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// An error with its causes, without the address (it is named once, by [`PanelError`]).
pub(super) fn chain(error: &reqwest::Error) -> String {
    let text = error.to_string();
    let mut out = text
        .split(" for url (")
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        out.push_str(": ");
        out.push_str(&inner.to_string());
        cause = inner.source();
    }
    redact::line(&out, 2 * SHOWN_CHARS)
}

pub(super) fn beginning(body: &[u8]) -> String {
    redact::line(
        &String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]),
        SHOWN_CHARS,
    )
}

fn mend(code: i64, message: &str) -> &'static str {
    match (code, message) {
        (403, "forbidden") => " (the token is wrong: INTERNAL_API_KEY, panel.token)",
        (404, _) => " (does the panel know this node? NODE_IDS, node.id)",
        _ => "",
    }
}
