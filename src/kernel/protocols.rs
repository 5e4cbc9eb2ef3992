//! `/v1/protocols`: the inbounds that are managed, and the nodes that registered themselves.

use axum::Json;
use axum::extract::State as From;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::ApiError;
use super::live::{self, Live};
use super::ports::RegisteredNode;
use super::wire::nodes::{NodeRole, ProtocolSummary};

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(list))
}

#[utoipa::path(
    get, path = "/v1/protocols", tag = "kernel", operation_id = "protocols",
    summary = "Managed inbounds as Xray runs them, and registered nodes",
    responses((status = 200, description = "All of them", body = Vec<ProtocolSummary>), ApiError)
)]
async fn list(From(state): From<State>) -> Json<Vec<ProtocolSummary>> {
    let inbounds = live::listed(&*state.ports().agent).await;
    let registered = state.ports().nodes.as_ref().map(|nodes| nodes.list());
    let registered = registered.unwrap_or_default();
    let inbounds = inbounds.iter().map(of_inbound);
    Json(inbounds.chain(registered.iter().map(of_node)).collect())
}

pub(super) fn of_inbound(live: &Live) -> ProtocolSummary {
    ProtocolSummary {
        id: live.id().to_owned(),
        role: NodeRole::Listener,
        protocol: live.protocol(),
        tags: Vec::new(),
        description: None,
        listen: live.listen(),
        connect: None,
        user_count: live.users(),
    }
}

fn of_node(registered: &RegisteredNode) -> ProtocolSummary {
    let node = &registered.node;
    ProtocolSummary {
        id: node.id.clone(),
        role: role(&node.role),
        protocol: node.protocol.clone(),
        tags: node.tags.clone(),
        description: node.description.clone(),
        listen: node.listen.as_ref().map(text),
        connect: node.connect.as_ref().map(text),
        user_count: 0,
    }
}

/// The role that a node says that it has; one that is not a connector listens.
pub(super) fn role(said: &str) -> NodeRole {
    if said.eq_ignore_ascii_case("connector") {
        NodeRole::Connector
    } else {
        NodeRole::Listener
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
