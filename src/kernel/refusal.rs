//! What the kernel's routes answer instead of what was asked for: `{"code", "message"}`. The client is
//! told what is wrong and the mend; what only the log may know stays there.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use tracing::error;
use utoipa::{IntoResponses, ToSchema};

use super::audit::Noted;

/// A request that is not answered as it was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// What is not answered as it was meant.
#[derive(Serialize, ToSchema)]
pub struct ErrorResponse {
    /// What kind of refusal it is.
    pub code: &'static str,
    /// Why, and the mend.
    pub message: String,
}

/// For the description of a route: its answers besides its own.
#[derive(IntoResponses)]
pub enum Otherwise {
    /// With the status that fits.
    #[response(status = "default", description = "Not answered as meant, in words")]
    Refused(ErrorResponse),
}

impl Refusal {
    /// The client may see all of it.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// 400: the request makes no sense as it is.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// 404: what is asked about is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 409: what is there stands against it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 503: not now; the log has the cause.
    pub fn unavailable(what: &str, cause: &dyn std::error::Error) -> Self {
        error!("{what}: {cause}");
        let message = format!("{what}; the log says why; try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let noted = Noted {
            detail: Some(self.to_string()),
            ..Noted::default()
        };
        let body = Json(ErrorResponse {
            code: self.code,
            message: self.message,
        });
        let mut response = (self.status, body).into_response();
        response.extensions_mut().insert(noted);
        response
    }
}
