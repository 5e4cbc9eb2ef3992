//! What a call to the panel can come to: it names the address, what came back, and what to do about
//! it. Keeps: a panel may send back whatever it was sent, so nothing of an answer is told before
//! [`Reason::told`] took the token out and shortened users.

use std::error::Error;
use std::time::Duration;

use http::StatusCode;

use crate::base::redact;
use crate::base::secret::Secret;

/// Most characters of an answer that are shown.
const SHOWN_CHARS: usize = 200;
/// So many bytes of an answer are kept to find those in: tokens and users at the edge are whole.
const KEPT_BYTES: usize = 20 * SHOWN_CHARS;

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
    /// No answer within the time.
    #[error("no answer in time (HTTP_TIMEOUT_SECONDS, panel.timeout)")]
    Timeout,
    /// An answer whose body did not come, or not whole.
    #[error("answered {status}, but its body cannot be read: {why}")]
    CutShort {
        /// Status of the answer.
        status: StatusCode,
        /// What happened to the body.
        why: String,
    },
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
    #[error("answered 200 OK, but {0}; the users that are there stay")]
    Absurd(String),
    /// A success whose content is not what was asked for.
    #[error("answered 200 OK, but {0}")]
    Unfit(String),
    /// A body over the limit.
    #[error("answered {status} with more than {bytes_max} bytes (panel.body_bytes_max)")]
    TooLarge {
        /// Status of the answer.
        status: StatusCode,
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

    /// Of a failure in the middle of the answer.
    pub(super) fn of_body(status: StatusCode, error: &reqwest::Error) -> Self {
        let why = match Self::of_transport(error) {
            Self::Timeout => "not whole in time (HTTP_TIMEOUT_SECONDS, panel.timeout)".to_owned(),
            other => other.to_string(),
        };
        Self::CutShort { status, why }
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

    /// What may be told of it.
    pub(super) fn told(mut self, token: &Secret) -> Self {
        match &mut self {
            // Nothing of the answer's content is in these.
            Self::Transport(_) | Self::Timeout | Self::TooLarge { .. } => {}
            Self::CutShort { why: text, .. }
            | Self::Refused { message: text, .. }
            | Self::Redirected { to: text, .. }
            | Self::Absurd(text)
            | Self::Unfit(text) => make_tellable(text, token),
            Self::Malformed { why, beginning, .. } => {
                make_tellable(why, token);
                make_tellable(beginning, token);
            }
        }
        self
    }
}

/// Takes the token out, shortens users, and makes it one short line.
pub(super) fn make_tellable(text: &mut String, token: &Secret) {
    *text = redact::line(&text.replace(token.expose(), "***"), SHOWN_CHARS);
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

/// The first bytes of an answer, as they are.
pub(super) fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(KEPT_BYTES)]).into_owned()
}

fn mend(code: i64, message: &str) -> &'static str {
    match (code, message.trim()) {
        (403, "forbidden") => " (the token is wrong: INTERNAL_API_KEY, panel.token)",
        (404, "uuid not found") => "",
        (404, _) => " (does the panel know this node? NODE_IDS, node.id)",
        _ => "",
    }
}
