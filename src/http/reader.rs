//! Who may read what is open on this host alone: whoever asks from here, and from elsewhere whoever has
//! the read token.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};

use super::client::Client;
use super::error::HttpError;
use crate::base::secret::Secret;

/// How a credential of this kind is announced (RFC 6750).
const SCHEME: &str = "bearer ";

/// Lets readers in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reader(Option<Arc<Secret>>);

impl Reader {
    /// With this token; `None`: nobody but who asks from this host.
    pub fn new(token: Option<Secret>) -> Self {
        Self(token.map(Arc::new))
    }

    /// Lets a request in or not; `what` is named so in the refusal.
    pub fn admit(&self, client: &Client, head: &HeaderMap, what: &str) -> Result<(), HttpError> {
        if client.is_local() {
            return Ok(());
        }
        let refused = |why: &str| {
            let message =
                format!("{what} open to this host, and elsewhere to who has the read token: {why}");
            Err(HttpError::new(StatusCode::UNAUTHORIZED, message))
        };
        let Some(token) = &self.0 else {
            return refused("none is configured; set read_token under [http] (HTTP_READ_TOKEN)");
        };
        let shown = head.get(header::AUTHORIZATION);
        if shown
            .and_then(of_bearer)
            .is_some_and(|shown| shown == **token)
        {
            client.authenticated();
            return Ok(());
        }
        refused("send it as «Authorization: Bearer …»")
    }
}

fn of_bearer(value: &http::HeaderValue) -> Option<Secret> {
    let text = value.to_str().ok()?;
    let scheme = text.get(..SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME);
    is_bearer.then(|| Secret::new(text[SCHEME.len()..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_after_its_scheme_only() {
        let shown = |text: &str| {
            let value = http::HeaderValue::from_str(text).unwrap();
            of_bearer(&value).map(|it| it.expose().to_owned())
        };
        for right in ["Bearer t0ken", "bearer t0ken", "BEARER  t0ken"] {
            assert_eq!(shown(right).as_deref(), Some("t0ken"), "{right}");
        }
        for other in ["", "t0ken", "Basic t0ken", "Bearert0ken", "Bearer"] {
            assert_eq!(shown(other), None, "{other}");
        }
    }
}
