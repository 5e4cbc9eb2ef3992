//! Providers of rules over HTTP: on a node with Xray its geo data files.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::refusal::{Otherwise, Refusal};
use crate::host::geo::{ProviderStatus, Providers};

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
        Otherwise
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
    responses((status = 200, description = "How it is", body = ProviderStatus), Otherwise)
)]
async fn refresh(
    State(providers): State<Providers>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ProviderStatus>, Refusal> {
    let Path(name) = name.map_err(|e| Refusal::bad_request(e.body_text()))?;
    let status = providers.refresh(&name).await;
    let absent = "there is no provider of this name; GET /v1/rules/providers lists all";
    status.map(Json).ok_or_else(|| Refusal::not_found(absent))
}
