//! Deliveries: who is sent events, what became of sending one, and the trait by which the client
//! that sends them is met. Plain data between the outbox, which keeps it, and the engine that sends.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::event::{Event, EventId, EventName};
use crate::base::secret::Secret;

/// A target may ask for a pause of up to this, for it may have meant another unit.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// A target's number, a UUID v7; also the id of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetId(pub Uuid);

impl TargetId {
    /// A new one.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Who named an address: it decides where it may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration.
    Configuration,
    /// Somebody over the API.
    Api,
}

/// Who is sent events, as it is asked for. Two are the same when owner, form, address and events are.
///
/// The address of a webhook is often a secret by itself: `Debug` shows its host only.
#[derive(Clone)]
pub struct Wanted {
    /// Which part of the agent it belongs to, for example `kernel`.
    pub owner: String,
    /// How its bodies are written; the owner's word.
    pub form: String,
    /// Where it is: `http` or `https`.
    pub url: String,
    /// What it is sent; nothing named is everything.
    pub events: Vec<EventName>,
    /// Who named its address.
    pub origin: Origin,
    /// With it the target is shown that it is us.
    pub secret: Option<Secret>,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<Secret>,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("owner", &self.owner)
            .field("form", &self.form)
            .field("host", &host_of(&self.url))
            .field("events", &self.events)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// The host of an address, which is what of it may be shown.
pub fn host_of(url: &str) -> String {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str);
    host.unwrap_or("?").to_owned()
}

impl Wanted {
    /// Whether events can be sent there at all; if not, why.
    pub fn check(&self) -> Result<(), String> {
        let url = Url::parse(&self.url).map_err(|e| format!("the address is no URL: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("the address is neither http:// nor https://".to_owned());
        }
        let secrets = self.secret.iter().chain(&self.bearer);
        for secret in secrets {
            let fits = |b: u8| b == b' ' || b.is_ascii_graphic();
            if secret.expose().is_empty() || !secret.expose().bytes().all(fits) {
                return Err("a secret is empty, or not of printable ASCII as HTTP needs it".into());
            }
        }
        Ok(())
    }
}

/// Who is sent events.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its number.
    pub id: TargetId,
    /// As it was asked for.
    pub wanted: Wanted,
    /// Since when.
    pub created: Timestamp,
}

/// How bodies are written for targets. Given by whoever knows all forms.
pub trait Render: Send + Sync {
    /// The JSON body for a target of `owner` with this form; `None`: not for it.
    fn body(&self, owner: &str, form: &str, event: &Event) -> Option<String>;
}

/// How often an event was sent to a target, without success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// How often in all.
    pub tries: u32,
    /// How often it was refused for what it is.
    pub refusals: u32,
    /// When first.
    pub first: Option<Timestamp>,
}

/// What becomes of an event after it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The target has it.
    Delivered,
    /// It is sent again.
    Retry {
        /// After this pause.
        pause: Duration,
        /// Whether the target refused it for what it is.
        refused: bool,
        /// What happened, fit to be shown.
        why: String,
    },
    /// It is not sent again by itself; the next one is.
    GivenUp {
        /// What happened, fit to be shown.
        why: String,
    },
    /// The target wants nothing more.
    Disabled {
        /// What happened, fit to be shown.
        why: String,
    },
}

/// A `POST` to be sent.
#[derive(Clone)]
pub struct PostRequest {
    /// Where to.
    pub url: String,
    /// Who named that address.
    pub origin: Origin,
    /// Names in lower case, and values that are not to be shown.
    pub headers: Vec<(&'static str, Secret)>,
    /// JSON.
    pub body: Bytes,
}

impl fmt::Debug for PostRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostRequest")
            .field("host", &host_of(&self.url))
            .field("origin", &self.origin)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostAnswer {
    /// The status.
    pub status: u16,
    /// `Retry-After`, as it stands there.
    pub retry_after: Option<String>,
    /// The host that `Location` names.
    pub location_host: Option<String>,
}

/// What `Retry-After` asks for: seconds, or a date of HTTP; no more than [`RETRY_AFTER_MAX`].
pub fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let asked = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let until = DateTimeParser::new().parse_timestamp(text).ok()?;
        // A date that is past asks for no pause.
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

/// An answer with its body.
#[derive(Clone)]
pub struct PostReply {
    /// Its head.
    pub answer: PostAnswer,
    /// Its body, or the beginning of it.
    pub body: Bytes,
    /// Whether that is all of it.
    pub is_whole: bool,
}

impl fmt::Debug for PostReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostReply")
            .field("answer", &self.answer)
            .field("body_bytes", &self.body.len())
            .field("is_whole", &self.is_whole)
            .finish()
    }
}

/// Why there is no answer, in words fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nothing of the body was sent: to repeat it is safe.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

/// Sends what must not be sent twice, and reads the answer. Follows no redirect. Whoever calls sets the
/// deadline; one who leaves before the end does not know the outcome.
pub trait PostForAnswer: Send + Sync {
    /// Comes back with the answer and at most `body_bytes_max` bytes of its body, or with why there is
    /// none: no secret, and of the address the host at most.
    fn post_for_answer(
        &self,
        request: PostRequest,
        body_bytes_max: usize,
    ) -> BoxFuture<'_, Result<PostReply, Unanswered>>;
}

/// Sends. Follows no redirect; keeps no answer's body. Whoever calls sets the deadline.
pub trait Post: Send + Sync {
    /// Comes back with the answer's head, or with why there is none, in words fit to be shown: no
    /// secret, and of the address the host at most.
    fn post(&self, request: PostRequest) -> BoxFuture<'_, Result<PostAnswer, String>>;
}

/// An event in a target's queue.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its place.
    pub seq: i64,
    /// Whose queue.
    pub target: Target,
    /// The event.
    pub event: EventId,
    /// What is sent.
    pub body: String,
    /// What became of it so far.
    pub tried: Tried,
    /// Not to be sent before.
    pub due: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(url: &str, secret: &str) -> Wanted {
        Wanted {
            owner: "kernel".to_owned(),
            form: "node".to_owned(),
            url: url.to_owned(),
            events: Vec::new(),
            origin: Origin::Api,
            secret: Some(Secret::new(secret)),
            bearer: None,
        }
    }

    #[test]
    fn nothing_of_a_target_that_is_secret_is_shown() {
        let wanted = wanted("https://canary:canary@a.example/canary?canary", "canary");
        let request = PostRequest {
            url: wanted.url.clone(),
            origin: wanted.origin,
            headers: vec![("authorization", Secret::new("canary"))],
            body: Bytes::from_static(b"canary"),
        };
        let shown = format!("{wanted:?} {request:?}");
        assert!(
            !shown.contains("canary") && shown.contains("a.example"),
            "{shown}"
        );
    }

    #[test]
    fn only_what_can_be_sent_to_passes() {
        assert_eq!(wanted("http://[::1]:80/a?b", "s e-c").check(), Ok(()));
        for (url, secret) in [
            ("", "s"),
            ("a", "s"),
            ("ftp://a/", "s"),
            ("unix:/run/a", "s"),
            ("http://a/", ""),
            ("http://a/", "a\r\nb"),
            ("http://a/", "\u{e4}"),
        ] {
            assert!(wanted(url, secret).check().is_err(), "{url} {secret}");
        }
    }
}
