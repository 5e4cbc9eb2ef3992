//! What a request says, read strictly: a body that is no JSON of the right shape and a query with a
//! wrong value are refused in words.

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::error::bad_request;
use super::wire::special::Object;
use crate::http::HttpError;

/// A body of JSON that is one object.
pub struct Sent<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, HttpError> {
        let body = request.into_body().collect().await;
        let body = body.map_err(|e| bad_request(format!("the body cannot be read: {e}")))?;
        json(&body.to_bytes()).map(|Object(sent)| Self(sent))
    }
}

/// Reads JSON, or says where it is wrong.
fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, HttpError> {
    serde_json::from_slice(body).map_err(|e| unreadable(&e))
}

/// What is wrong with JSON. It may quote what was sent, and goes to whoever sent it alone.
pub fn unreadable(error: &serde_json::Error) -> HttpError {
    bad_request(format!("the body is not the JSON that is needed: {error}")).quoting()
}

/// The query: names with values, each as often as it is there.
#[derive(Clone, Debug, Default)]
pub struct Asked(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, HttpError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Asked {
    fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The last value of that name that is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().filter(|(it, _)| it == name);
        named
            .map(|(_, value)| value.trim())
            .rfind(|it| !it.is_empty())
    }

    /// Every value of that name that is not empty.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(it, _)| it == name);
        named
            .map(|(_, value)| value.trim())
            .filter(|it| !it.is_empty())
    }

    /// A whole number; one beyond what is counted with is the most, or the least, of that.
    pub fn number(&self, name: &str) -> Result<Option<i64>, HttpError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
            let message = format!("{name} is no whole number; write {name}=100");
            return Err(bad_request(message));
        }
        let beyond = if text == digits { i64::MAX } else { i64::MIN };
        Ok(Some(text.parse().unwrap_or(beyond)))
    }

    /// A truth value; false where nothing is said.
    pub fn flag(&self, name: &str) -> Result<bool, HttpError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => {
                let message = format!("{name} is neither true nor false; write {name}=true");
                Err(bad_request(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_repeated_and_the_last_one_counts() {
        let asked = Asked::parse("node=a&node=b+c&node=&x=%2C&redact=true&all=maybe");
        assert_eq!(asked.all("node").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!((asked.text("x"), asked.text("y")), (Some(","), None));
        assert!(asked.flag("redact").unwrap() && !asked.flag("y").unwrap());
        let error = asked.flag("all").unwrap_err();
        assert!(error.to_string().contains("neither true nor false"));
    }

    #[test]
    fn a_number_beyond_all_bounds_is_the_bound_and_anything_else_is_refused() {
        let number = |text: &str| Asked::parse(&format!("n={text}")).number("n");
        for (text, read) in [
            ("", None),
            ("-7", Some(-7)),
            ("54028767714331664257646592", Some(i64::MAX)),
            ("-54028767714331664257646592", Some(i64::MIN)),
        ] {
            assert_eq!(number(text), Ok(read), "{text}");
        }
        for text in ["-", "1.5", "x", "0x10", "--1"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
