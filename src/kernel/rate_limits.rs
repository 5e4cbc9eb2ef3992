//! How often the API may be asked: where that is set, and the layer that holds requests to it.
//!
//! Kept here: the route by which limits are set is never held back itself, so that nobody locks
//! himself out.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, bad_request, conflict, failing, not_found};
use super::input::Sent;
use crate::http::limits_by_rule::{RateLimits, Scope, SetError};
use crate::http::{Client, HttpError, Identity};

/// Where limits are set.
const PATH: &str = "/v1/security/rate-limits";

/// Answers 429 to who asks more often than is set. A layer within authentication:
/// `router.layer(from_fn_with_state(limits, limited))`. Whoever asks is known by his [`Identity`] and by
/// his address.
pub async fn limited(State(limits): State<RateLimits>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let path = extensions.get::<MatchedPath>();
    let path = path.map_or_else(|| request.uri().path(), MatchedPath::as_str);
    if path == PATH {
        return next.run(request).await;
    }
    let identity = extensions.get::<Identity>().map(|it| it.0.clone());
    let address = extensions.get::<Client>().map(|client| {
        let address = client.peer().ip().to_canonical();
        Arc::from(format!("ip:{address}"))
    });
    let names: Vec<_> = identity.into_iter().chain(address).collect();
    match limits.check(path, &names) {
        Ok(()) => next.run(request).await,
        Err(wait) => too_often(wait),
    }
}

fn too_often(wait: Duration) -> Response {
    let seconds = whole_seconds(wait);
    let message = format!("asked more often than is allowed; ask again in {seconds} s");
    let error = HttpError::new(StatusCode::TOO_MANY_REQUESTS, message);
    error.after(seconds).into_response()
}

/// Rounded up, and never none.
fn whole_seconds(wait: Duration) -> u64 {
    let begun = u64::from(wait.subsec_nanos() > 0);
    (wait.as_secs() + begun).max(1)
}

/// `/v1/security/rate-limits`.
pub fn routes<S>(limits: RateLimits) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::default()
        .routes(routes!(list, set, remove))
        .with_state(limits)
}

/// Requests a minute by key.
#[derive(Serialize, ToSchema)]
#[schema(as = RateLimitOverridesSnapshot)]
struct Overrides {
    /// By route: each who asks may ask it so often.
    endpoints: BTreeMap<String, u32>,
    /// By who asks: he may ask so often, whatever it is.
    identities: BTreeMap<String, u32>,
}

/// A limit, as it is asked for.
#[derive(Deserialize, ToSchema)]
#[schema(as = RateLimitOverrideRequest)]
struct Wanted {
    scope: Scope,
    /// A route's template, or who asks.
    key: String,
    /// 1 or more.
    #[schema(minimum = 1, maximum = 4_294_967_295i64)]
    max_requests_per_minute: i64,
}

/// A limit that is set.
#[derive(Serialize, ToSchema)]
#[schema(as = RateLimitOverrideResponse)]
struct Set {
    scope: Scope,
    /// A route's template, or who asks.
    key: String,
    max_requests_per_minute: u32,
}

/// Which limit.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    scope: Scope,
    /// A route's template, or who asks.
    key: String,
}

#[utoipa::path(
    get, path = "/v1/security/rate-limits", tag = "kernel", operation_id = "kernel_rate_limits",
    summary = "How often the API may be asked, where that is set",
    responses((status = 200, description = "All limits", body = Overrides), ApiError)
)]
async fn list(State(limits): State<RateLimits>) -> Json<Overrides> {
    let all = limits.snapshot();
    Json(Overrides {
        endpoints: all.endpoints,
        identities: all.identities,
    })
}

#[utoipa::path(
    post, path = "/v1/security/rate-limits", tag = "kernel", operation_id = "kernel_rate_limit_set",
    summary = "Set how often the API may be asked",
    request_body = Wanted,
    responses((status = 200, description = "It holds", body = Set), ApiError)
)]
async fn set(
    State(limits): State<RateLimits>,
    Sent(wanted): Sent<Wanted>,
) -> Result<Json<Set>, HttpError> {
    let per_minute = u32::try_from(wanted.max_requests_per_minute).ok();
    let Some(per_minute) = per_minute.and_then(NonZeroU32::new) else {
        let message = "max_requests_per_minute must be 1 to 4294967295; to lift a limit, delete it";
        return Err(bad_request(message));
    };
    let Wanted { scope, key, .. } = wanted;
    limits
        .set(scope, &key, per_minute)
        .await
        .map_err(|e| match e {
            SetError::Key => bad_request(e.to_string()),
            SetError::TooMany => conflict(e.to_string()),
            SetError::Store(e) => failing("the limit cannot be written down", &e),
        })?;
    Ok(Json(Set {
        scope,
        key,
        max_requests_per_minute: per_minute.get(),
    }))
}

#[utoipa::path(
    delete, path = "/v1/security/rate-limits", tag = "kernel",
    operation_id = "kernel_rate_limit_remove",
    summary = "Lift a limit",
    params(Which),
    responses((status = 204, description = "It does not hold any more"), ApiError)
)]
async fn remove(
    State(limits): State<RateLimits>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<StatusCode, HttpError> {
    let Query(Which { scope, key }) = which.map_err(|e| bad_request(e.body_text()))?;
    let removed = limits.remove(scope, &key).await;
    if removed.map_err(|e| failing("the limit cannot be removed", &e))? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let message = format!("no limit is set for this {}; GET lists all", scope.word());
    Err(not_found(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        for (millis, told) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), told);
        }
    }
}
