//! The HTTP server's wiring: what is served where, and how the agent is, for those who ask.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures_util::FutureExt;
use http::{HeaderMap, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::metrics::Meter;
use super::run::HANGS_AFTER;
use super::running::Running;
use crate::base::supervise::{Kind, Supervisor, TaskBoard};
use crate::config::Config;
use crate::http::{
    Admission, ApiError, Client, Dependency, ErrorResponse, Health, HealthReport, HttpError,
    Listener, Reader, documented, open_routes,
};
use crate::metrics::Format;

/// What the listeners serve beside the open routes, each route with its description.
#[derive(Default)]
pub(super) struct Surfaces {
    /// Everything, on `http.listen`.
    pub(super) all: OpenApiRouter,
    /// The scheduler's part, on `http.scheduler_listen`; `None`: that is not opened.
    pub(super) scheduler: Option<OpenApiRouter>,
}

/// Hands the configured listeners to the supervisor, a task each.
pub(super) fn add(
    config: &Config,
    surfaces: Surfaces,
    running: &Running,
    meter: Meter,
    supervisor: &mut Supervisor,
) {
    let health: Arc<dyn Health> = Arc::new(Known {
        running: running.clone(),
        board: supervisor.board(),
    });
    let open = open_routes(health).merge(metrics(meter));
    let admission = Admission::default();
    let reader = Reader::new(config.http.read_token.clone());
    let all = Some(surfaces.all);
    let listeners = [
        ("http", config.http.listen, all),
        (
            "http scheduler",
            config.http.scheduler_listen,
            surfaces.scheduler,
        ),
    ];
    for (name, address, surface) in listeners {
        let (Some(address), Some(surface)) = (address, surface) else {
            continue;
        };
        let router = documented(surface.merge(open.clone()), reader.clone());
        let listener = listener(config, name, address, router, admission.clone());
        supervisor.tasks().watched_task(
            name,
            Kind::Leaf,
            HANGS_AFTER,
            move |shutdown, heartbeat| listener.clone().run(shutdown, move || heartbeat.beat()),
        );
    }
}

/// `GET /metrics`, open to whoever asks from this host.
fn metrics(meter: Meter) -> OpenApiRouter {
    OpenApiRouter::default()
        .routes(routes!(page))
        .with_state(meter)
}

#[utoipa::path(
    get, path = "/metrics", tag = "open", operation_id = "metrics",
    summary = "Metrics for Prometheus",
    responses(
        (
            status = 200, description = "In the format that `Accept` prefers",
            content(
                (String = "text/plain; version=0.0.4; charset=utf-8"),
                (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            )
        ),
        (status = 401, description = "Beyond loopback, without the read token", body = ErrorResponse),
        ApiError
    )
)]
async fn page(
    State(meter): State<Meter>,
    Extension(client): Extension<Client>,
    Extension(reader): Extension<Reader>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    reader.admit(&client, &headers, "metrics are")?;
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok());
    let page = meter.exposition(Format::of_accept(accept)).await;
    Ok(([(header::CONTENT_TYPE, page.content_type)], page.body).into_response())
}

fn listener(
    config: &Config,
    name: &'static str,
    address: SocketAddr,
    router: Router,
    admission: Admission,
) -> Listener {
    Listener {
        name,
        address,
        tls: config.http.tls.clone(),
        hosts: config.http.hosts.clone(),
        router,
        admission,
    }
}

/// How the agent is, as its own parts tell.
struct Known {
    running: Running,
    board: TaskBoard,
}

impl Health for Known {
    fn report(&self) -> HealthReport {
        let now = self.running.now();
        let (nodes, traffic) = (now.sync.status(), now.traffic_status());
        let attempted = now.sync.attempted().now_or_never().is_some();
        let panel = nodes.iter().all(|node| node.panel_error.is_none());
        let mut inbounds = nodes.iter().flat_map(|node| &node.inbounds);
        let mut dependencies = vec![needed("first sync", attempted)];
        if let Some(traffic) = traffic {
            dependencies.push(needed("store", traffic.ledger_error.is_none()));
        }
        if let Some(store) = now.agent_store {
            dependencies.push(needed("agent store", store.trouble().is_none()));
        }
        if nodes.iter().any(|node| node.polled) {
            dependencies.push(useful("panel", panel));
        }
        dependencies.push(useful(
            "xray",
            inbounds.all(|inbound| inbound.error.is_none()),
        ));
        HealthReport {
            tasks: self.board.status(),
            dependencies,
        }
    }
}

/// Without it the agent is not ready.
fn needed(name: &str, ok: bool) -> Dependency {
    Dependency {
        name: name.to_owned(),
        ok,
        needed: true,
    }
}

/// Without it the agent does what it can.
fn useful(name: &str, ok: bool) -> Dependency {
    Dependency {
        needed: false,
        ..needed(name, ok)
    }
}
