//! What stands on `agent.db` in an agent that keeps running: events, the sending of what waits for
//! their targets, and nodes. Single passes leave it alone.
//!
//! Kept here: the file is closed only when nobody needs it any more, so that its log is taken in; what
//! a delivery may reach is what the configuration in force says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::run::HANGS_AFTER;
use crate::audit::{Audit, Retention};
use crate::base::clock::Clock;
use crate::base::supervise::{Kind, Supervisor};
use crate::config::{Config, XrayAddress};
use crate::deliver;
use crate::egress::{Courier, Own, Target};
use crate::events::Events;
use crate::events::bus::Bounds;
use crate::events::outbox::{Limits, Outbox};
use crate::http::limits_by_rule::RateLimits;
use crate::kernel::callbacks::Callbacks;
use crate::kernel::panel::{self, KernelPanel};
use crate::model::event::{Event, EventName};
use crate::registry;
use crate::store::{Reader, State, Store, StoreError, agent};

/// A store that hangs does not hold up the start or the end for the sake of an event.
const EVENT_TAKES: Duration = Duration::from_secs(2);

/// A task that hangs at the end, and holds the store with it, does not hold the process.
const CLOSING_TAKES: Duration = Duration::from_secs(2);

/// A handle; clones share all of it.
#[derive(Clone)]
pub(super) struct AgentStore {
    pub(super) events: Events,
    pub(super) registry: registry::engine::Handle,
    pub(super) courier: Courier,
    pub(super) audit: Audit,
    pub(super) rate_limits: RateLimits,
    store: Store,
    file: PathBuf,
    clock: Clock,
}

impl AgentStore {
    /// That of the state folder of `config`, whose lock the caller holds.
    pub(super) async fn open(config: &Config, clock: Clock) -> Result<Self, StoreError> {
        let store = agent::start(&config.state_dir, clock)?;
        let outbox = Outbox::new(store.clone(), Limits::default(), clock);
        let events = Events::start(outbox, Arc::new(Callbacks), Bounds::default()).await;
        let thresholds = config.kernel.thresholds();
        let reader = Reader::new(agent::spec(&config.state_dir, clock));
        let registry = registry::engine::Handle::open(events.clone(), thresholds, clock).await;
        let opened = Self {
            registry,
            events,
            audit: Audit::new(store.clone(), reader, retention(config), clock),
            rate_limits: RateLimits::start(store.clone()).await,
            courier: courier(config),
            store,
            file: agent::file(&config.state_dir),
            clock,
        };
        opened.tell_panel(config).await;
        Ok(opened)
    }

    /// Has what waits sent from now on.
    pub(super) fn add(&self, supervisor: &mut Supervisor) {
        let outbox = self.events.outbox().clone();
        let post = Arc::new(self.courier.clone());
        let engine = deliver::Engine::new(outbox, post, self.clock);
        let send = move |shutdown, beat| engine.clone().run(shutdown, beat);
        supervisor
            .tasks()
            .watched_task("deliveries", Kind::Leaf, HANGS_AFTER, send);
        let audit = self.audit.clone();
        let write = move |shutdown, beat| audit.clone().run(shutdown, beat);
        supervisor
            .tasks()
            .watched_task("audit", Kind::Leaf, HANGS_AFTER, write);
        let registry = self.registry.clone();
        let listen = move |shutdown, beat| registry.clone().run(shutdown, beat);
        supervisor
            .tasks()
            .watched_task("registered nodes", Kind::Leaf, HANGS_AFTER, listen);
    }

    /// Another configuration is in force.
    pub(super) async fn reconfigure(&self, config: &Config) {
        let allowed = config.kernel.callbacks_allow.clone();
        self.courier.exchange(own(config), allowed);
        self.tell_panel(config).await;
    }

    /// Has the panel that the configuration names told of nodes, and no other.
    pub(super) async fn tell_panel(&self, config: &Config) {
        let wanted = panel_of(config).iter().map(KernelPanel::wanted).collect();
        let configured = self.events.outbox().configure(panel::OWNER, wanted);
        if let Err(e) = configured.await {
            warn!("which panel is told of nodes stays as it was: {e}");
        }
    }

    /// Tells of something that is written down nowhere else; whether it is on the disk. One that can
    /// never be counts as told.
    pub(super) async fn tell(&self, name: EventName, payload: &Value) -> bool {
        let event = match Event::new(name, self.clock.now(), payload) {
            Ok(event) => event,
            Err(e) => {
                debug!("the event {name} cannot be told: {e}");
                return true;
            }
        };
        match timeout(EVENT_TAKES, self.events.publish(event)).await {
            Ok(Ok(())) => return true,
            Ok(Err(e)) => debug!("the event {name} is told to streams only: {e}"),
            Err(_) => debug!("the event {name} waits for the store"),
        }
        false
    }

    /// The agent is there.
    pub(super) async fn tell_of_the_start(&self, config: &Config) {
        let started = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "mode": config.mode.name(),
            "nodes": config.nodes.len(),
        });
        self.tell(EventName::AgentStarted, &started).await;
    }

    /// Why it cannot be used, if it cannot.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.store.health().state {
            State::Ok => None,
            State::Degraded(why) | State::Refused(why) | State::Failed(why) => Some(why),
        }
    }

    /// The store, for whoever shows how it is.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where it is.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Completes, with the reason, when a sync of the disk failed: the process has to end.
    pub(super) async fn failed(&self) -> String {
        self.store.failed().await
    }

    /// Completes when the file is closed in order: when nobody else has a handle any more, or after a
    /// while.
    pub(super) async fn let_go(self) {
        let Self {
            store,
            events,
            registry,
            audit,
            rate_limits,
            ..
        } = self;
        if timeout(EVENT_TAKES, audit.flush()).await.is_err() {
            debug!("the last records of the audit are not written down");
        }
        drop((events, registry, audit, rate_limits));
        if timeout(CLOSING_TAKES, store.close()).await.is_err() {
            debug!(
                "{} is still at work; it is looked through at the next start",
                agent::FILE
            );
        }
    }
}

/// The panel that is told of nodes unasked: the configuration has no place for one.
fn panel_of(config: &Config) -> Option<KernelPanel> {
    let panel = config.kernel.panel.as_ref()?;
    Some(KernelPanel {
        url: panel.url.to_string(),
        token: panel.token.clone(),
    })
}

fn retention(config: &Config) -> Retention {
    Retention {
        records: config.kernel.audit_keep as u64,
        ..Retention::default()
    }
}

/// One that sends by this configuration.
pub(super) fn courier(config: &Config) -> Courier {
    Courier::new(own(config), config.kernel.callbacks_allow.clone())
}

/// What of ours nobody reaches on the API's word: the listeners, and every Xray's API.
fn own(config: &Config) -> Own {
    let listeners = [config.http.listen, config.http.scheduler_listen];
    let own = listeners
        .into_iter()
        .flatten()
        .fold(Own::default(), Own::listener);
    let apis = config.xrays.iter().filter_map(|xray| match &xray.address {
        XrayAddress::Tcp(address) => Target::parse(address).ok(),
        XrayAddress::Unix(_) | XrayAddress::Abstract(_) => None,
    });
    apis.fold(own, |own, at| own.api(&at))
}
