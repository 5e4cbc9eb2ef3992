//! The errors of this surface: `{"code", "message"}` as `core.yaml` has them, each saying what is
//! wrong and the mend.

use http::StatusCode;

pub use crate::http::ApiError;
use crate::http::HttpError;

/// 400: what was sent makes no sense.
pub fn bad_request(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, message)
}

/// 404: there is no such thing.
pub fn not_found(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::NOT_FOUND, message)
}

/// 409: it cannot be beside what is there.
pub fn conflict(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::CONFLICT, message)
}

/// 409: another panel decides that.
pub fn managed_by_panel(message: impl Into<String>) -> HttpError {
    conflict(message).coded("MANAGED_BY_PANEL")
}

/// 501: an Xray node cannot do that; the message says what to do instead.
pub fn not_supported(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::NOT_IMPLEMENTED, message)
}

/// 503: not now.
pub fn unavailable(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// 503: not now, as this failed; the log has the cause.
pub fn failing(what: &str, cause: &dyn std::error::Error) -> HttpError {
    unavailable(format!("{what}; the log says why; try again later")).because(&cause.to_string())
}
