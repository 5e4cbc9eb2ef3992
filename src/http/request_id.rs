//! By what a request is found in the log: the id that it brings, where that is harmless, else one of
//! ours. Pure but for the dice.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::base::redact;

/// Where it stands in requests and answers.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken, in characters.
const CHARS_MAX: usize = 64;
/// Digits of one of ours: 64 bits.
const OWN_CHARS: usize = 16;

/// A request's id; prints as the log may show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(X_REQUEST_ID).and_then(sane);
        Self(brought.map_or_else(own, Arc::from))
    }

    /// For the answer.
    pub(super) fn value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("invariant: an id is plain ASCII")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Clients like UUIDs, and so do users' secrets.
        f.write_str(&redact::uuids(&self.0))
    }
}

fn sane(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let fits = !text.is_empty() && text.len() <= CHARS_MAX;
    (fits && text.bytes().all(plain)).then_some(text)
}

fn own() -> Arc<str> {
    let id = Uuid::now_v7().simple().to_string();
    // The end of it is the random part.
    id[id.len() - OWN_CHARS..].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_brought_is_taken_when_it_is_harmless() {
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            RequestId::of(&headers).value()
        };
        assert_eq!(of(b"abc-1.2_3:4"), "abc-1.2_3:4");
        for strange in [&b""[..], b"a b", b"a\tb", b"\"", b"\xff", &[b'a'; 65]] {
            assert_eq!(of(strange).len(), OWN_CHARS, "{strange:?}");
        }
        assert_ne!(of(b""), of(b""));
    }

    #[test]
    fn the_log_never_shows_a_whole_uuid() {
        let mut headers = HeaderMap::new();
        let id = "aaaaaaaa-0000-4000-8000-00000000000f";
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(id));
        assert_eq!(RequestId::of(&headers).to_string(), "aaaaaaaa…");
    }
}
