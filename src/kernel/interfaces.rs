//! The host's network interfaces over HTTP.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use crate::host::interfaces::{Interface, interfaces};

/// All interfaces.
#[derive(Serialize, ToSchema)]
struct InterfaceListResponse {
    interfaces: Vec<Interface>,
}

/// `/v1/interfaces`.
pub fn routes<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    OpenApiRouter::default().routes(routes!(list))
}

#[utoipa::path(
    get, path = "/v1/interfaces", tag = "kernel", operation_id = "kernel_interfaces",
    summary = "The host's network interfaces",
    responses(
        (
            status = 200, description = "All; none where the host does not tell, and then the log says why",
            body = InterfaceListResponse
        ),
        ApiError
    )
)]
async fn list() -> Json<InterfaceListResponse> {
    let interfaces = interfaces().await;
    Json(InterfaceListResponse { interfaces })
}
