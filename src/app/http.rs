//! The HTTP server's wiring: what is served where, and how the agent is, for those who ask.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode, header};

use super::metrics::Meter;
use super::running::Running;
use crate::base::supervise::{Kind, Supervisor, TaskBoard};
use crate::config::Config;
use crate::http::{
    Admission, Client, Dependency, Health, HealthReport, HttpError, Listener, open_routes,
};
use crate::metrics::Format;

/// What the listeners serve beside the open routes.
#[derive(Debug, Default)]
pub(super) struct Surfaces {
    /// Everything, on `http.listen`.
    pub(super) all: Router,
    /// The scheduler's part, on `http.scheduler_listen`; `None`: that is not opened.
    pub(super) scheduler: Option<Router>,
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
        let router = surface.merge(open.clone());
        let listener = listener(config, name, address, router, admission.clone());
        supervisor.task(name, Kind::Leaf, move |shutdown, _| {
            listener.clone().run(shutdown)
        });
    }
}

/// `GET /metrics`, open to whoever asks from this host.
fn metrics(meter: Meter) -> Router {
    Router::new().route("/metrics", get(page)).with_state(meter)
}

async fn page(
    State(meter): State<Meter>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    if !client.is_local() {
        return Err(HttpError::new(
            StatusCode::UNAUTHORIZED,
            "metrics are open to this host only, and no surface that has credentials is configured",
        ));
    }
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
        dependencies.push(useful("panel", panel));
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
