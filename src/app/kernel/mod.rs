//! The kernel surface's wiring: what it asks is answered by what runs now, and what becomes of pushed
//! users is told.

mod agent;
mod exported;
mod pushing;
mod registering;
mod sinks;
mod telling;

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;

use super::agent_store::AgentStore;
use super::run::HANGS_AFTER;
use super::running::Running;
use crate::base::clock::Clock;
use crate::base::supervise::{Kind, Supervisor};
use crate::config::Config;
use crate::host::geo::Providers;
use crate::kernel::streams::{self, Streams};
use crate::kernel::{Ports, State, audit, export, interfaces, providers, rate_limits, routes};
use agent::Now;
use exported::Running as Exported;
use pushing::Pushing;
use registering::{Judge, Nodes};

pub(super) use sinks::KernelSinks;
pub(super) use telling::{Quotas, TakenTeller};

/// By which way calls come, in the audit.
const CHANNEL: &str = "http";

/// Everything that the surface serves, and the tasks behind it.
pub(super) fn surface(
    config: &Config,
    running: &Running,
    store: &AgentStore,
    supervisor: &mut Supervisor,
) -> OpenApiRouter {
    let now = Arc::new(Now(running.clone()));
    let geo = Providers::new(config.kernel.geo_dir.clone(), Clock::system());
    let state = State::new(Ports {
        agent: now.clone(),
        totals: Some(now),
        users: Some(Arc::new(Pushing(running.clone()))),
        nodes: Some(Arc::new(Nodes(store.registry.clone()))),
        outbox: Some(store.events.outbox().clone()),
        callbacks: Some(Arc::new(Judge(store.courier.clone()))),
        providers: geo.clone(),
    });
    let bus = store.events.bus().clone();
    let streams = Streams::new(bus, Arc::new(state.clone()), &config.http.hosts);
    let serve = streams.clone();
    supervisor
        .tasks()
        .watched_task("streams", Kind::Leaf, HANGS_AFTER, move |shutdown, beat| {
            serve.clone().run(shutdown, beat)
        });
    let exported = Arc::new(Exported::new(running.clone(), state.clone()));
    let export = export::Export::new(exported, config.kernel.export_dir.clone());
    let recording = audit::Recording::new(store.audit.clone(), CHANNEL, audit::action);
    let limits = store.rate_limits.clone();
    let further = OpenApiRouter::default()
        .merge(streams::routes(streams))
        .merge(audit::routes(store.audit.clone()))
        .merge(rate_limits::routes(limits.clone()))
        .merge(interfaces::routes())
        .merge(providers::routes(geo))
        .merge(export::routes(export));
    routes(&state, further, |all| {
        all.layer(from_fn_with_state(recording, audit::recorded))
            .layer(from_fn_with_state(limits, rate_limits::limited))
    })
}
