//! `/v1/status`: the snapshot, cut to what is asked for. What an Xray node does not have (a pipeline,
//! meters of proxies) is not in it.

use axum::Json;
use axum::extract::State as From;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::error::{ApiError, bad_request};
use super::input::Asked;
use super::live::{self, Live};
use super::people::{People, Shown};
use super::protocols::role;
use super::streams::{Cut, Snapshots};
use super::wire::nodes::{NodeHealthState, NodeRole, NodeStatus};
use super::wire::status::{
    HttpStatus, MemoryStatus, RuntimeStatusSnapshot, StatusResponse, SystemStatus,
    UserRateLimitSummary, UserRegistryStatus, UserStatus,
};
use crate::http::HttpError;
use crate::metrics;
use crate::model::health::Health;
use crate::registry::lives::Registered;

pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(status))
}

#[utoipa::path(
    get, path = "/v1/status", tag = "kernel", operation_id = "status",
    summary = "How the node is, as a snapshot",
    params(
        ("redact_users" = Option<bool>, Query, description = "Hide names and tags of users", nullable = false),
        ("rate_limit_summary" = Option<bool>, Query, description = "Add how many users have limits", nullable = false),
        ("include" = Option<String>, Query, description = "Parts, between commas, or all", nullable = false),
        ("fields" = Option<String>, Query, description = "The same as include", nullable = false),
    ),
    responses((status = 200, description = "The snapshot", body = StatusResponse), ApiError)
)]
async fn status(From(state): From<State>, asked: Asked) -> Result<Json<StatusResponse>, HttpError> {
    Ok(Json(response(&state, &cut(&asked)?).await))
}

/// What a query asks for. Names of parts that are not known are passed over: they may be another
/// version's.
fn cut(asked: &Asked) -> Result<Cut, HttpError> {
    let include = asked.text("include").or_else(|| asked.text("fields"));
    Ok(Cut {
        redact_users: asked.flag("redact_users")?,
        rate_limit_summary: asked.flag("rate_limit_summary")?,
        ..Cut::parse(include).map_err(bad_request)?
    })
}

impl Snapshots for State {
    /// The summary of limits stands within the snapshot here: streams carry nothing beside it.
    fn snapshot<'a>(&'a self, cut: &'a Cut) -> BoxFuture<'a, Value> {
        Box::pin(async move {
            let response = response(self, cut).await;
            let mut snapshot = serde_json::to_value(response.snapshot).unwrap_or_default();
            if let (Some(summary), Value::Object(parts)) =
                (response.rate_limit_summary, &mut snapshot)
            {
                let summary = serde_json::to_value(summary).unwrap_or_default();
                parts.insert("rate_limit_summary".to_owned(), summary);
            }
            snapshot
        })
    }
}

async fn response(state: &State, cut: &Cut) -> StatusResponse {
    let ports = state.ports();
    let inbounds = live::known(&*ports.agent);
    let registered = ports.nodes.as_ref().map(|nodes| nodes.list());
    let registered = registered.unwrap_or_default();
    let people = if cut.lists_users() {
        Some(People::of(ports).await)
    } else if cut.wants("users") || cut.rate_limit_summary {
        Some(People::to_count(ports).await)
    } else {
        None
    };
    let thresholds = ports.agent.config().kernel.thresholds();
    let nodes = || {
        let told = |live: &Live| ports.nodes.as_ref()?.health_of(live.id());
        let managed = inbounds.iter().map(|it| {
            let counted = || Health::after(it.failures(), thresholds);
            of_inbound(it, told(it).unwrap_or_else(counted))
        });
        let others = registered.iter().map(|it| of_registered(it));
        managed.chain(others).collect::<Vec<_>>()
    };
    let providers = if cut.wants("providers") {
        Some(ports.providers.list().await)
    } else {
        None
    };
    let users = |people: &People| UserRegistryStatus {
        total: Some(people.len() as u64),
        users: cut.lists_users().then(|| listed(people, cut.redact_users)),
    };
    let snapshot = RuntimeStatusSnapshot {
        generated_at: Some(Timestamp::now().to_string()),
        nodes: cut.wants("nodes").then(nodes),
        users: people.as_ref().filter(|_| cut.wants("users")).map(users),
        providers,
        system: cut.wants("system").then(system),
        http: cut.wants("http").then(|| HttpStatus {
            total_nodes: Some((inbounds.len() + registered.len()) as u64),
            ..HttpStatus::default()
        }),
        ..RuntimeStatusSnapshot::default()
    };
    let summary = people.filter(|_| cut.rate_limit_summary);
    StatusResponse {
        snapshot,
        rate_limit_summary: summary.map(|people| limits(&people)),
    }
}

fn of_inbound(live: &Live, told: Health) -> NodeStatus {
    NodeStatus {
        id: live.id().to_owned(),
        role: NodeRole::Listener,
        protocol: live.protocol(),
        tags: Vec::new(),
        description: live.status.as_ref().and_then(|it| it.error.clone()),
        health: health(told, live.failed_before_ms(Timestamp::now())),
        interfaces: None,
    }
}

fn of_registered(registered: &Registered) -> NodeStatus {
    let node = &registered.node;
    let silent = registered.expired.then(|| {
        let since = Timestamp::now().duration_since(registered.heard_at);
        u64::try_from(since.as_millis()).unwrap_or_default()
    });
    NodeStatus {
        id: node.id.clone(),
        role: role(&node.role),
        protocol: node.protocol.clone(),
        tags: node.tags.clone(),
        description: node.description.clone(),
        health: health(registered.health, silent),
        interfaces: None,
    }
}

fn health(health: Health, last_failure_elapsed_ms: Option<u64>) -> NodeHealthState {
    NodeHealthState {
        status: health.into(),
        consecutive_failures: health.failures(),
        last_failure_elapsed_ms,
    }
}

fn listed(people: &People, redact: bool) -> Vec<UserStatus> {
    let all = people.iter().map(|shown| {
        let view = shown.view(redact);
        UserStatus {
            id: view.id,
            username: view.username,
            tags: view.tags,
            metadata: view.metadata,
            traffic_allocated: view.traffic.allocated,
            traffic_used: view.traffic.used,
            traffic_remaining: view.traffic.allocated.saturating_sub(view.traffic.used),
            rate_up: view.rate.up,
            rate_down: view.rate.down,
        }
    });
    all.collect()
}

fn limits(people: &People) -> UserRateLimitSummary {
    let count = |up: bool, down: bool| {
        let is_so = |it: &&Shown| it.is_limited() == (up, down);
        people.iter().filter(is_so).count() as u64
    };
    let total = people.len() as u64;
    let unlimited = count(false, false);
    UserRateLimitSummary {
        total_users: total,
        unlimited_users: unlimited,
        limited_users: total - unlimited,
        limited_up_only: count(true, false),
        limited_down_only: count(false, true),
        limited_both: count(true, true),
    }
}

fn system() -> SystemStatus {
    let memory = metrics::process::memory();
    SystemStatus {
        memory: memory.map(|(resident_bytes, virtual_bytes)| MemoryStatus {
            resident_bytes,
            virtual_bytes,
        }),
        connections: None,
    }
}
