//! Nodes that register themselves (`kernel.md`): under `/v1/protocols/registrations`, and in
//! `/v1/protocols` beside the inbounds that are managed.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as From};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, bad_request, conflict, not_found, unavailable};
use super::input::{Sent, unreadable};
use super::ports::{RegistrationError, Registrations};
use super::protocols::{role, text};
use super::wire::registrations::{NodeRegistrationRecord, NodeRegistrationResponse};
use super::wire::requests::{HeartbeatRequest, NodeRegistrationRequest};
use crate::http::HttpError;
use crate::registry::lives::{Lease, Node, Refused, Registered, TTL_DEFAULT, TTL_MAX, TTL_MIN};

/// Longest id of a node, in bytes.
const ID_BYTES_MAX: usize = 128;

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list, register))
        .routes(routes!(heartbeat))
        .routes(routes!(remove))
}

#[utoipa::path(
    get, path = "/v1/protocols/registrations", tag = "kernel", operation_id = "registrations",
    summary = "Nodes that registered themselves",
    responses((status = 200, description = "All of them", body = Vec<NodeRegistrationRecord>), ApiError)
)]
async fn list(From(state): From<State>) -> Result<Json<Vec<NodeRegistrationRecord>>, HttpError> {
    let nodes = registry(&state)?.list();
    Ok(Json(nodes.iter().map(|it| record(it)).collect()))
}

#[utoipa::path(
    post, path = "/v1/protocols/registrations", tag = "kernel", operation_id = "register_node",
    summary = "Register a node, or renew what it says of itself",
    request_body = NodeRegistrationRequest,
    responses((status = 200, description = "Until when it lives", body = NodeRegistrationResponse), ApiError)
)]
async fn register(
    From(state): From<State>,
    Sent(asked): Sent<NodeRegistrationRequest>,
) -> Result<Json<NodeRegistrationResponse>, HttpError> {
    let node = node(asked)?;
    let id = node.id.clone();
    let lease = registry(&state)?.register(node).await;
    Ok(response(id, lease.map_err(|e| refusal(&e))?))
}

#[utoipa::path(
    post, path = "/v1/protocols/registrations/{id}/heartbeat", tag = "kernel",
    operation_id = "heartbeat",
    summary = "A sign of life of a node",
    params(("id" = String, Path, description = "The node's id")),
    request_body(content = Option<HeartbeatRequest>, description = "How it is; nothing is healthy"),
    responses((status = 200, description = "Until when it lives", body = NodeRegistrationResponse), ApiError)
)]
async fn heartbeat(
    From(state): From<State>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NodeRegistrationResponse>, HttpError> {
    let sign = if body.is_empty() {
        HeartbeatRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|e| unreadable(&e))?
    };
    let said = sign.status.unwrap_or_default();
    let lease = registry(&state)?.heartbeat(&id, said, sign.message).await;
    Ok(response(id, lease.map_err(|e| refusal(&e))?))
}

#[utoipa::path(
    delete, path = "/v1/protocols/registrations/{id}", tag = "kernel", operation_id = "unregister_node",
    summary = "Unregister a node",
    params(("id" = String, Path, description = "The node's id")),
    responses((status = 204, description = "It is gone"), ApiError)
)]
async fn remove(From(state): From<State>, Path(id): Path<String>) -> Result<StatusCode, HttpError> {
    let removed = registry(&state)?.remove(&id).await;
    removed.map_err(|e| refusal(&e))?;
    Ok(StatusCode::NO_CONTENT)
}

fn registry(state: &State) -> Result<&dyn Registrations, HttpError> {
    let nodes = state.ports().nodes.as_deref();
    nodes.ok_or_else(|| {
        unavailable("nodes cannot be kept: the store is not open; see the log, then try again")
    })
}

/// What is answered where a registration is not taken.
pub(super) fn refusal(error: &RegistrationError) -> HttpError {
    match error {
        RegistrationError::Managed(_) => conflict(error.to_string()),
        RegistrationError::Refused(Refused::Unknown) => not_found(error.to_string()),
        RegistrationError::Refused(Refused::TooMany) => unavailable(error.to_string()),
        RegistrationError::Store(cause) => HttpError::internal(cause),
    }
}

fn node(asked: NodeRegistrationRequest) -> Result<Node, HttpError> {
    if asked.id.is_empty() || asked.id.len() > ID_BYTES_MAX || asked.id.contains('/') {
        let message = format!("the id is empty, longer than {ID_BYTES_MAX} bytes, or holds a /");
        return Err(bad_request(format!("{message}; give another")));
    }
    let ttl = asked.ttl_seconds.map_or(TTL_DEFAULT, Duration::from_secs);
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        let (least, most) = (TTL_MIN.as_secs(), TTL_MAX.as_secs());
        let message = format!("ttl_seconds is not within {least} and {most}");
        return Err(bad_request(format!("{message}; leave it out for 90")));
    }
    Ok(Node {
        id: asked.id,
        role: asked.role,
        protocol: asked.protocol,
        tags: asked.tags,
        description: asked.description,
        listen: asked.listen.map(Value::from),
        connect: asked.connect.map(Value::from),
        ttl,
    })
}

fn response(id: String, lease: Lease) -> Json<NodeRegistrationResponse> {
    Json(NodeRegistrationResponse {
        id,
        expires_at_ms: lease.expires_at.as_millisecond(),
        heartbeat_interval_seconds: lease.heartbeat_interval.as_secs().max(1),
    })
}

fn record(registered: &Registered) -> NodeRegistrationRecord {
    let (node, lease) = (&registered.node, registered.lease());
    NodeRegistrationRecord {
        id: node.id.clone(),
        role: role(&node.role),
        protocol: node.protocol.clone(),
        tags: node.tags.clone(),
        description: node.description.clone(),
        listen: node.listen.as_ref().map(text),
        connect: node.connect.as_ref().map(text),
        status: registered.health.into(),
        message: registered.message.clone(),
        expires_at_ms: lease.expires_at.as_millisecond(),
        heartbeat_interval_seconds: lease.heartbeat_interval.as_secs().max(1),
    }
}
