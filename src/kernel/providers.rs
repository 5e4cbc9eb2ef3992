//! Providers of rules over HTTP: on a node with Xray its geo data files.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, bad_request, not_found};
use crate::host::geo::{ProviderStatus, Providers};
use crate::http::HttpError;

/// `/v1/rules/providers` and `/v1/rules/providers/{name}/refresh`.
pub fn routes<S>(providers: Providers) -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(refresh))
        .with_state(providers)
}

#[utoipa::path(
    get, path = "/v1/rules/providers", tag = "kernel", operation_id = "kernel_providers",
    summary = "Xray's geo data files",
    responses(
        (
            status = 200, description = "All; none where no folder is configured",
            body = Vec<ProviderStatus>
        ),
        ApiError
    )
)]
async fn list(State(providers): State<Providers>) -> Json<Vec<ProviderStatus>> {
    Json(providers.list().await)
}

#[utoipa::path(
    post, path = "/v1/rules/providers/{name}/refresh", tag = "kernel",
    operation_id = "kernel_provider_refresh",
    summary = "Read a geo data file now",
    params(("name" = String, Path, description = "The file's name")),
    responses((status = 200, description = "How it is", body = ProviderStatus), ApiError)
)]
async fn refresh(
    State(providers): State<Providers>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ProviderStatus>, HttpError> {
    let Path(name) = name.map_err(|e| bad_request(e.body_text()))?;
    let status = providers.refresh(&name).await;
    let absent = "there is no provider of this name; GET /v1/rules/providers lists all";
    status.map(Json).ok_or_else(|| not_found(absent))
}
