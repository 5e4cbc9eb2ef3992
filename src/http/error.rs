//! The one error of all routes: what the client is told, apart from what the log is.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// A request that is not answered as it was meant; `{"code": …, "message": …, "error": …}` with a
/// status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct HttpError {
    status: StatusCode,
    code: Option<&'static str>,
    challenge: &'static str,
    message: String,
    cause: Option<Cause>,
}

/// What is not answered as it was meant.
#[derive(Serialize, ToSchema)]
pub struct Failure {
    /// Its kind, for programs: `NOT_FOUND`.
    pub code: &'static str,
    /// Why, and what to do about it.
    pub message: String,
    /// The same, for those who look for it here.
    pub error: String,
}

/// For the description of a route: its answers besides its own.
#[derive(IntoResponses)]
pub enum Otherwise {
    /// With the status that fits.
    #[response(
        status = "default",
        description = "Not answered as meant: 400, 401, 408, 413, 421, 500 or 503, in words"
    )]
    Refused(Failure),
}

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
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let body = Json(Failure {
            code: self.code(),
            message: self.message.clone(),
            error: self.message,
        });
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let asked_for = HeaderValue::from_static(self.challenge);
            response.headers_mut().insert(WWW_AUTHENTICATE, asked_for);
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
