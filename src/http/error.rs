//! The one error of all routes: what the client is told, apart from what the log is.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::admission::Refused;

/// When to come back where nobody knows better, in seconds: what is away is mostly back by then.
const AFTER_S: u64 = 5;

/// A request that is not answered as it was meant; `{"code": …, "message": …}` with a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct HttpError {
    status: StatusCode,
    code: Option<&'static str>,
    challenge: &'static str,
    message: String,
    quotes: bool,
    after_s: u64,
    cause: Option<Cause>,
}

/// What is not answered as it was meant.
#[derive(Serialize, ToSchema)]
pub struct ErrorResponse {
    /// Its kind, for programs: `NOT_FOUND`.
    pub code: &'static str,
    /// Why, and what to do about it.
    pub message: String,
}

/// For the description of a route: its answers besides its own.
#[derive(IntoResponses)]
pub enum ApiError {
    /// With the status that fits.
    #[response(status = "default", description = "Not answered as meant, and why")]
    Failed(ErrorResponse),
}

/// Why a request was not answered as it was meant, for others than its client, such as an audit: an
/// extension of the answer. Of what was sent it repeats nothing that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(pub String);

/// What the log is told of an answer, and the client is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause(pub(super) String);

impl HttpError {
    /// The client may see all of it.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            challenge: "Bearer",
            message: message.into(),
            quotes: false,
            after_s: AFTER_S,
            cause: None,
        }
    }

    /// With another code than its status has.
    #[must_use]
    pub fn coded(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Asks for another credential than a bearer's, where it is a 401 (RFC 9110, 11.6.1).
    #[must_use]
    pub fn challenging(mut self, challenge: &'static str) -> Self {
        self.challenge = challenge;
        self
    }

    /// Whose message repeats what was sent: only the client is told it.
    #[must_use]
    pub fn quoting(mut self) -> Self {
        self.quotes = true;
        self
    }

    /// Says when to come back, in seconds, where it is a 429 or a 503 (RFC 9110, 10.2.3).
    #[must_use]
    pub fn after(mut self, seconds: u64) -> Self {
        self.after_s = seconds;
        self
    }

    /// The code of its kind.
    pub fn code(&self) -> &'static str {
        self.code.unwrap_or_else(|| code_of(self.status))
    }

    /// A fault of ours: the log has the cause, under the request's id.
    pub fn internal(cause: &(impl ToString + ?Sized)) -> Self {
        let message = "internal error; the log says more under this request's id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).because(cause)
    }

    /// With a cause that only the log is told.
    #[must_use]
    pub fn because(mut self, cause: &(impl ToString + ?Sized)) -> Self {
        self.cause = Some(Cause(cause.to_string()));
        self
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn reason(&self) -> Reason {
        let code = self.code();
        Reason(if self.quotes {
            code.to_owned()
        } else {
            format!("{code}: {}", self.message)
        })
    }
}

impl From<Refused> for HttpError {
    fn from(refused: Refused) -> Self {
        let message = format!("{refused}; close one, or try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let reason = self.reason();
        let body = Json(ErrorResponse {
            code: self.code(),
            message: self.message,
        });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(reason);
        if self.status == StatusCode::UNAUTHORIZED {
            let asked_for = HeaderValue::from_static(self.challenge);
            response.headers_mut().insert(WWW_AUTHENTICATE, asked_for);
        }
        let passes = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if passes.contains(&self.status) {
            let after = HeaderValue::from(self.after_s);
            response.headers_mut().insert(RETRY_AFTER, after);
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// The code that a status has by itself.
fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "FORBIDDEN",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
        StatusCode::REQUEST_TIMEOUT => "REQUEST_TIMEOUT",
        StatusCode::CONFLICT => "CONFLICT",
        StatusCode::PAYLOAD_TOO_LARGE => "PAYLOAD_TOO_LARGE",
        StatusCode::MISDIRECTED_REQUEST => "MISDIRECTED_REQUEST",
        StatusCode::TOO_MANY_REQUESTS => "RATE_LIMITED",
        StatusCode::NOT_IMPLEMENTED => "NOT_SUPPORTED",
        StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
        status if status.is_client_error() => "BAD_REQUEST",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_says_when_to_come_back() {
        let after = |status: StatusCode| {
            let response = HttpError::new(status, "no").after(7).into_response();
            response.headers().get(RETRY_AFTER).cloned()
        };
        for status in [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ] {
            assert_eq!(after(status), Some(HeaderValue::from(7)), "{status}");
        }
        assert_eq!(after(StatusCode::NOT_FOUND), None);
        assert_eq!(after(StatusCode::INTERNAL_SERVER_ERROR), None);
    }

    #[test]
    fn others_than_the_client_are_not_told_what_it_sent() {
        let reason = |error: HttpError| error.into_response().extensions().get().cloned();
        let error = HttpError::new(StatusCode::BAD_REQUEST, "canary is no number");
        let told = Reason("BAD_REQUEST: canary is no number".to_owned());
        assert_eq!(reason(error.clone()), Some(told));
        let told = Reason("BAD_REQUEST".to_owned());
        assert_eq!(reason(error.quoting()), Some(told));
    }
}
