//! What a call can come to when there is no answer. Keeps apart what a sender must know: refused,
//! not sent at all (safe to repeat), sent with an outcome that nobody knows. Shows of a URL scheme,
//! host and port only: the rest may hold a token.

use std::error::Error;
use std::time::Duration;

use super::policy::Refusal;
use crate::base::redact;

/// Most characters of a reason.
const SHOWN_CHARS: usize = 400;

/// A call without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The policy forbids the target, or what it redirects to.
    #[error("{refusal}{}", hops(*.redirects))]
    Refused {
        /// What was refused.
        #[source]
        refusal: Refusal,
        /// So many redirects had been followed before; with 0 nothing was sent.
        redirects: u32,
    },
    /// Not a byte of the body was sent, and without a body no request: to repeat it is safe.
    #[error("{target}: {cause}; nothing was sent")]
    NotSent {
        /// Scheme, host and port.
        target: String,
        /// Why.
        cause: Cause,
    },
    /// It may have arrived, and there is no answer.
    #[error("{target}: {cause}; the request may have arrived")]
    Lost {
        /// Scheme, host and port.
        target: String,
        /// Why.
        cause: Cause,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The name has no address, or nobody says.
    #[error("cannot look up {name:?}: {why}; check the name, and the host's DNS")]
    Name {
        /// The name.
        name: String,
        /// The system's reason.
        why: String,
    },
    /// The time was over.
    #[error("no answer within {0:?}; check that it is up and reachable, or allow more time")]
    Timeout(Duration),
    /// Connection, TLS, proxy or protocol.
    #[error("{0}")]
    Transport(String),
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may go better later.
    Transient,
    /// Only a change of the target or of the configuration mends it.
    Permanent,
}

impl EgressError {
    /// Whether to try again.
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } => Class::Permanent,
            Self::NotSent { .. } | Self::Lost { .. } => Class::Transient,
        }
    }

    /// Whether it is the time that was over.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::NotSent { cause, .. } | Self::Lost { cause, .. } => {
                matches!(cause, Cause::Timeout(_))
            }
        }
    }
}

impl From<Refusal> for EgressError {
    fn from(refusal: Refusal) -> Self {
        let redirects = 0;
        Self::Refused { refusal, redirects }
    }
}

impl Cause {
    /// An error with what caused it.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let inner_text = inner.to_string();
            if !text.ends_with(&inner_text) {
                text.push_str(": ");
                text.push_str(&inner_text);
            }
            cause = inner.source();
        }
        Self::Transport(redact::line(&text, SHOWN_CHARS))
    }

    pub(super) fn of_name(name: &str, error: &std::io::Error) -> Self {
        Self::Name {
            name: redact::line(name, SHOWN_CHARS),
            why: redact::line(&error.to_string(), SHOWN_CHARS),
        }
    }
}

fn hops(redirects: u32) -> String {
    match redirects {
        0 => String::new(),
        1 => " (after a redirect)".to_owned(),
        many => format!(" (after {many} redirects)"),
    }
}
