//! `/v1/protocols`: the inbounds that are managed, and the nodes that registered themselves.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as From};
use axum::middleware::from_fn;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, bad_request, not_found, unavailable};
use super::input::Asked;
use super::live::{self, Live};
use super::pushing::{self, refusal};
use super::registrations;
use super::wire::nodes::{NodeRole, ProtocolSummary};
use super::wire::requests::ProtocolUpsertRequest;
use super::wire::special::Object;
use crate::http::{HttpError, bulk};
use crate::registry::lives::Registered;

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list, upsert))
        .layer(from_fn(bulk))
        .routes(routes!(remove))
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
    Json(
        inbounds
            .chain(registered.iter().map(|it| of_node(it)))
            .collect(),
    )
}

#[utoipa::path(
    post, path = "/v1/protocols", tag = "kernel", operation_id = "upsert_protocol",
    summary = "Make these the users that are pushed to one inbound",
    request_body = ProtocolUpsertRequest,
    responses((status = 200, description = "The inbound", body = ProtocolSummary), ApiError)
)]
async fn upsert(From(state): From<State>, body: Body) -> Result<Json<ProtocolSummary>, HttpError> {
    let users = pushing::users(&state)?;
    let Object(asked): Object<ProtocolUpsertRequest> = pushing::large(body).await?;
    let (agent, id) = (&*state.ports().agent, asked.profile.id);
    let known = live::known(agent);
    if !known.iter().any(|it| it.id() == id) {
        let message = live::no_such(&id, &known);
        return Err(not_found(format!(
            "{message}; a new inbound is made in Xray's configuration and named under [[node]]"
        )));
    }
    let pushed = asked.users.into_iter().map(pushing::pushed);
    let pushed = pushed.collect::<Result<Vec<_>, _>>().map_err(bad_request)?;
    let replaced = users.replace(&id, pushed).await;
    replaced.map_err(|e| refusal(&e))?;
    agent.reconcile().await;
    let all = live::listed(agent).await;
    let own = all.iter().find(|it| it.id() == id).map(of_inbound);
    own.map(Json)
        .ok_or_else(|| not_found(live::no_such(&id, &all)))
}

#[utoipa::path(
    delete, path = "/v1/protocols/{id}", tag = "kernel", operation_id = "remove_protocol",
    summary = "Drop the users that were pushed to an inbound, or unregister a node",
    params(
        ("id" = String, Path, description = "The kernel id"),
        ("remove_inbound" = Option<bool>, Query, description = "Also remove the inbound itself from the running Xray", nullable = false),
    ),
    responses((status = 204, description = "They are dropped, it is unregistered"), ApiError)
)]
async fn remove(
    From(state): From<State>,
    Path(id): Path<String>,
    asked: Asked,
) -> Result<StatusCode, HttpError> {
    let ports = state.ports();
    let (known, for_good) = (live::known(&*ports.agent), asked.flag("remove_inbound")?);
    if let Some(own) = known.iter().find(|it| it.id() == id) {
        return drop_users(&state, own, for_good).await;
    }
    let registered = ports.nodes.as_ref();
    let node = registered.filter(|nodes| nodes.list().iter().any(|it| it.node.id == id));
    let Some(nodes) = node else {
        return Err(not_found(live::no_such(&id, &known)));
    };
    let removed = nodes.remove(&id).await;
    removed.map_err(|e| registrations::refusal(&e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Of an inbound that stays, or that goes until the next start of Xray.
async fn drop_users(state: &State, own: &Live, for_good: bool) -> Result<StatusCode, HttpError> {
    let (users, agent) = (pushing::users(state)?, &*state.ports().agent);
    let dropped = users.replace(own.id(), Vec::new()).await;
    dropped.map_err(|e| refusal(&e))?;
    if for_good {
        let (xray, tag) = (&own.inbound.xray, &own.inbound.tag);
        let removed = agent.remove_inbound(xray, tag).await;
        removed.map_err(|why| unavailable(format!("Xray keeps the inbound: {why}")))?;
    } else {
        agent.reconcile().await;
    }
    Ok(StatusCode::NO_CONTENT)
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

fn of_node(registered: &Registered) -> ProtocolSummary {
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

pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
