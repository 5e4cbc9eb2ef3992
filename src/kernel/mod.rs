//! The surface of a panel that pushes: `/v1/*` (`kernel.md`, `core.yaml`). Routes, what goes over the
//! wire, and who gets in; what is decided is decided by the engines, met through `ports`.
//!
//! Kept here: nothing is answered without a credential unless the configuration says so.

pub mod audit;
mod auth;
pub mod callbacks;
pub mod error;
pub mod export;
pub mod input;
pub mod interfaces;
mod live;
pub mod panel;
mod people;
pub mod ports;
mod protocols;
pub mod providers;
mod pushing;
pub mod rate_limits;
mod registrations;
#[cfg(test)]
mod route_tests;
mod status;
pub mod streams;
pub mod subscriptions;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod users;
pub mod wire;

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use serde::Serialize;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

use crate::events::outbox::Outbox;
use crate::host::geo::Providers;
use people::People;
use ports::{Agent, Callbacks, PushedUsers, Registrations, Totals};

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct State(Arc<Ports>);

/// The parts of the agent that the routes ask.
pub struct Ports {
    /// What runs now.
    pub agent: Arc<dyn Agent>,
    /// What was counted; `None`: nothing is.
    pub totals: Option<Arc<dyn Totals>>,
    /// The pushed users; `None`: this agent changes no Xray, so that nobody can be pushed to it.
    pub users: Option<Arc<dyn PushedUsers>>,
    /// Nodes that register themselves.
    pub nodes: Option<Arc<dyn Registrations>>,
    /// Where callbacks are kept.
    pub outbox: Option<Outbox>,
    /// Judges their addresses.
    pub callbacks: Option<Arc<dyn Callbacks>>,
    /// Providers of rules.
    pub providers: Providers,
}

impl State {
    /// Over these.
    pub fn new(ports: Ports) -> Self {
        Self(Arc::new(ports))
    }

    /// The inbounds and the users as the routes show them, for an export.
    pub async fn shown(&self) -> (Vec<Value>, Vec<Value>) {
        let inbounds = live::listed(&*self.ports().agent).await;
        let protocols = inbounds.iter().map(protocols::of_inbound);
        let people = People::of(self.ports()).await;
        let users = people.iter().map(|it| it.view(false));
        (
            protocols.map(written).collect(),
            users.map(written).collect(),
        )
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.0
    }
}

fn written(shown: impl Serialize) -> Value {
    serde_json::to_value(shown).unwrap_or_default()
}

/// Every route of the surface, behind its credentials. `further` are routes that have their state;
/// `within` lays around all of them what only those who were let in pass.
pub fn routes(
    state: &State,
    further: OpenApiRouter,
    within: impl FnOnce(OpenApiRouter) -> OpenApiRouter,
) -> OpenApiRouter {
    let own = OpenApiRouter::default()
        .merge(protocols::routes())
        .merge(subscriptions::routes())
        .merge(registrations::routes())
        .merge(status::routes())
        .merge(tls::routes())
        .merge(traffic::routes())
        .merge(users::routes());
    within(own.with_state(state.clone()).merge(further))
        .layer(from_fn_with_state(state.clone(), auth::admit))
}
