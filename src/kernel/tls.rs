//! `/v1/tls/nodes`: the managed inbounds whose streams are under TLS or REALITY, as the running Xray
//! says. They are changed in Xray's own configuration only.

use axum::Json;
use axum::extract::{Path, State as From};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, not_found, not_supported, unavailable};
use super::live::{self, Live};
use super::wire::nodes::{NodeRole, TlsMode, TlsNodeDetail, TlsNodeSummary};
use super::wire::requests::TlsNodePatchRequest;
use crate::http::HttpError;
use crate::xray::inbound::Transport;

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(get, patch))
}

#[utoipa::path(
    get, path = "/v1/tls/nodes", tag = "kernel", operation_id = "tls_nodes",
    summary = "Inbounds under TLS or REALITY",
    responses((status = 200, description = "All of them", body = Vec<TlsNodeSummary>), ApiError)
)]
async fn list(From(state): From<State>) -> Result<Json<Vec<TlsNodeSummary>>, HttpError> {
    let inbounds = live::listed(&*state.ports().agent).await;
    if !inbounds.is_empty() && inbounds.iter().all(|it| it.info.is_none()) {
        return Err(unlisted());
    }
    let under_tls = inbounds.iter().filter_map(|it| Some((it, security(it)?)));
    let summaries = under_tls.map(|(live, security)| TlsNodeSummary {
        id: live.id().to_owned(),
        role: NodeRole::Listener,
        tags: Vec::new(),
        description: None,
        inner_protocol: live.protocol(),
        tls_mode: TlsMode::Server,
        has_reality: security == Security::Reality,
    });
    Ok(Json(summaries.collect()))
}

#[utoipa::path(
    get, path = "/v1/tls/nodes/{id}", tag = "kernel", operation_id = "tls_node",
    summary = "One of them",
    params(("id" = String, Path, description = "Its kernel id")),
    responses((status = 200, description = "It", body = TlsNodeDetail), ApiError)
)]
async fn get(
    From(state): From<State>,
    Path(id): Path<String>,
) -> Result<Json<TlsNodeDetail>, HttpError> {
    let inbounds = live::listed(&*state.ports().agent).await;
    let found = inbounds.iter().find(|it| it.id() == id);
    let Some(live) = found else {
        return Err(not_found(live::no_such(&id, &inbounds)));
    };
    if live.info.is_none() {
        return Err(unlisted());
    }
    let Some(security) = security(live) else {
        let message = format!("{id} is under neither TLS nor REALITY");
        return Err(not_found(message));
    };
    let network = live.info.as_ref().map(|it| it.transport.network.clone());
    let network = network.filter(|it| !it.is_empty());
    Ok(Json(TlsNodeDetail {
        id,
        role: NodeRole::Listener,
        tags: Vec::new(),
        description: None,
        listen: live.listen(),
        connect: None,
        profile: json!({
            "security": security.name(),
            "network": network.unwrap_or_else(|| "tcp".to_owned()),
            "inner": { "protocol": live.protocol() },
        }),
    }))
}

#[utoipa::path(
    patch, path = "/v1/tls/nodes/{id}", tag = "kernel", operation_id = "patch_tls_node",
    summary = "Never done: Xray's API changes no TLS",
    params(("id" = String, Path, description = "Its kernel id")),
    request_body = TlsNodePatchRequest,
    responses((status = 200, description = "Never", body = TlsNodeDetail), ApiError)
)]
async fn patch(Path(id): Path<String>) -> HttpError {
    not_supported(format!(
        "the TLS of {id} cannot be changed over Xray's API; change streamSettings of that inbound in \
         Xray's configuration and restart Xray"
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    Tls,
    Reality,
}

impl Security {
    fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Reality => "reality",
        }
    }
}

fn security(live: &Live) -> Option<Security> {
    live.info.as_ref().and_then(|info| of(&info.transport))
}

/// By the name that Xray's settings have.
fn of(transport: &Transport) -> Option<Security> {
    let name = &transport.security;
    if name.contains(".reality.") {
        Some(Security::Reality)
    } else {
        name.contains(".tls.").then_some(Security::Tls)
    }
}

fn unlisted() -> HttpError {
    unavailable("Xray does not list its inbounds now; it does when its API is reached again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_is_told_by_the_name_of_its_settings() {
        let cases = [
            ("", None),
            ("xray.transport.internet.tls.Config", Some(Security::Tls)),
            (
                "xray.transport.internet.reality.Config",
                Some(Security::Reality),
            ),
        ];
        for (name, expected) in cases {
            let transport = Transport {
                security: name.to_owned(),
                ..Transport::default()
            };
            assert_eq!(of(&transport), expected, "{name}");
        }
    }
}
