//! Where the bytes of pushed users go: to the panel of the configuration, and to whoever registered for
//! `user.traffic.reported`.
//!
//! Kept here: a sink that stays is the same one, so that what it has under way is not broken off; one
//! that cannot be read about is not taken for gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};
use url::Url;

use super::super::agent_store::AgentStore;
use super::super::run::HANGS_AFTER;
use super::super::running::{Engines, Running, WeakRunning};
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Supervisor};
use crate::config::{Config, KernelPanel};
use crate::egress::Courier;
use crate::events::outbox::{self, TargetStatus};
use crate::kernel::subscriptions;
use crate::model::batch::{Binding, Bindings};
use crate::model::delivery::TargetId;
use crate::model::desired::InboundKey;
use crate::model::event::EventName;
use crate::model::pushed::Owners;
use crate::panel::kernel::{self, KernelClient};
use crate::store::agent;
use crate::sync::pushed::Pushed;
use crate::traffic::kernel_sink::{KernelPanelSink, Numbers, Registration, RegistrationSink};
use crate::traffic::sink::Sink;

/// For a batch with its answer: as many records as one holds.
const BATCH_TAKES: Duration = Duration::from_secs(30);
/// At the latest after this it looks again, so that it can be seen to live.
const NAP: Duration = Duration::from_secs(20);

/// The sinks as they are. Cheap to clone; clones share them.
#[derive(Clone)]
pub(in crate::app) struct KernelSinks(Arc<Shared>);

struct Shared {
    made: Mutex<Made>,
    running: OnceLock<WeakRunning>,
    clock: Clock,
}

/// What was made, by what it was made of.
#[derive(Default)]
struct Made {
    panel: Option<(KernelPanel, Arc<dyn Sink>)>,
    registrations: HashMap<TargetId, Registered>,
}

/// Where one who registered is, by what he knows us, and his sink.
type Registered = (String, Option<Secret>, Arc<dyn Sink>);

impl KernelSinks {
    pub(in crate::app) fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared {
            made: Mutex::default(),
            running: OnceLock::new(),
            clock,
        }))
    }

    /// From now on this is what runs.
    pub(in crate::app) fn run_by(&self, running: &Running) {
        // A second time it is the same.
        let _ = self.0.running.set(running.downgrade());
    }

    /// Those that are there at the start, by the configuration and by the file of registrations, which
    /// nobody need have open.
    pub(in crate::app) fn at_start(
        &self,
        config: &Config,
        pushed: &Arc<Pushed>,
        courier: &Courier,
    ) -> Vec<Arc<dyn Sink>> {
        let spec = agent::spec(&config.state_dir, self.0.clock);
        let targets = outbox::kept(&spec).unwrap_or_else(|e| {
            warn!("who registered for traffic cannot be read, and hears nothing of it: {e}");
            Vec::new()
        });
        self.of(config, pushed, courier, &targets)
    }

    /// Those of a configuration and of these targets of the outbox.
    fn of(
        &self,
        config: &Config,
        pushed: &Arc<Pushed>,
        courier: &Courier,
        targets: &[TargetStatus],
    ) -> Vec<Arc<dyn Sink>> {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = Numbers {
            owners: pushed.clone() as Arc<dyn Owners>,
            bindings: Arc::new(Known(Arc::downgrade(&self.0))),
        };
        made.panel = config.kernel.panel.as_ref().and_then(|panel| {
            let same = made
                .panel
                .take()
                .filter(|(of, _)| of.url == panel.url && of.token == panel.token);
            same.or_else(|| to_panel(panel, numbers.clone()))
        });
        let own = config.kernel.panel.as_ref();
        let own = own.map(|panel| kernel::traffic_url(&panel.url));
        let wanted = targets.iter().filter(|it| is_for_traffic(it, own.as_ref()));
        let mut before = std::mem::take(&mut made.registrations);
        made.registrations = wanted
            .map(|status| {
                let (id, wanted) = (status.target.id, &status.target.wanted);
                let same = before.remove(&id);
                let same =
                    same.filter(|(url, secret, _)| *url == wanted.url && *secret == wanted.secret);
                let entry = same.unwrap_or_else(|| {
                    let registration = Registration {
                        id,
                        url: wanted.url.clone(),
                        secret: wanted.secret.clone(),
                    };
                    let post = Arc::new(courier.clone());
                    let sink =
                        RegistrationSink::new(registration, post, numbers.clone(), self.0.clock);
                    (
                        wanted.url.clone(),
                        wanted.secret.clone(),
                        Arc::new(sink) as _,
                    )
                });
                (id, entry)
            })
            .collect();
        let registered = made.registrations.values().map(|(_, _, sink)| sink.clone());
        let panel = made.panel.iter().map(|(_, sink)| sink.clone());
        panel.chain(registered).collect()
    }

    /// Keeps the sinks what they should be for as long as the agent runs.
    pub(in crate::app) fn add(
        &self,
        running: &Running,
        store: &AgentStore,
        supervisor: &mut Supervisor,
    ) {
        let (sinks, running, store) = (self.clone(), running.clone(), store.clone());
        let follow = move |shutdown, beat| {
            let (sinks, running) = (sinks.clone(), running.clone());
            follow(sinks, running, store.clone(), shutdown, beat)
        };
        supervisor
            .tasks()
            .watched_task("sinks of traffic", Kind::Leaf, HANGS_AFTER, follow);
    }
}

/// Follows registrations and configurations.
async fn follow(
    sinks: KernelSinks,
    running: Running,
    store: AgentStore,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut engines = running.changes();
    let mut list = store.events.outbox().list_changes();
    // Somebody may have left while the agent was not there: what is left for him is not looked at before.
    let mut is_set = false;
    loop {
        heartbeat.beat();
        engines.mark_unchanged();
        list.mark_unchanged();
        match store.events.outbox().targets().await {
            Ok(targets) => {
                let now = running.now();
                is_set = set(&sinks, &now, &store, (&targets, is_set)).await;
            }
            Err(e) => debug!("who registered for traffic cannot be read: {e}"),
        }
        // All arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => return,
            _ = engines.changed() => {}
            _ = list.changed() => {}
            () = sleep(NAP) => {}
        }
    }
}

/// Lets bytes go to those that they should, where that is not so already; whether it is so.
async fn set(
    sinks: &KernelSinks,
    now: &Engines,
    store: &AgentStore,
    (targets, is_set): (&[TargetStatus], bool),
) -> bool {
    let Some(traffic) = &now.traffic else {
        return is_set;
    };
    let wanted = sinks.of(&now.config, now.sync.pushed(), &store.courier, targets);
    let is_same = {
        let there = traffic.handle.kernel_sinks();
        there.len() == wanted.len()
            && wanted
                .iter()
                .all(|sink| there.iter().any(|it| Arc::ptr_eq(it, sink)))
    };
    if is_same && is_set {
        return true;
    }
    let set = traffic.handle.set_kernel_sinks(wanted).await;
    if let Err(e) = &set {
        debug!("where bytes of pushed users go cannot be changed now: {e}");
    }
    set.is_ok()
}

/// Whether it is one that traffic goes to; the configured panel's own path is that panel.
fn is_for_traffic(status: &TargetStatus, own: Option<&Url>) -> bool {
    let wanted = &status.target.wanted;
    let is_own = own.is_some_and(|own| Url::parse(&wanted.url).is_ok_and(|url| url == *own));
    wanted.owner == subscriptions::OWNER
        && wanted.events == [EventName::UserTrafficReported]
        && !is_own
}

fn to_panel(panel: &KernelPanel, numbers: Numbers) -> Option<(KernelPanel, Arc<dyn Sink>)> {
    match KernelClient::new(client_of(panel)) {
        Ok(client) => {
            let sink = KernelPanelSink::new(client, numbers);
            Some((panel.clone(), Arc::new(sink)))
        }
        Err(why) => {
            warn!("the kernel panel cannot be told of traffic: {why}");
            None
        }
    }
}

fn client_of(panel: &KernelPanel) -> kernel::KernelPanel {
    kernel::KernelPanel {
        url: panel.url.clone(),
        token: panel.token.clone(),
        timeout: BATCH_TAKES,
        proxy: None,
    }
}

/// Inbounds as the configuration that is in force binds them, and as Xray was last seen to have them.
struct Known(Weak<Shared>);

impl Known {
    fn now(&self) -> Option<Engines> {
        let running = self.0.upgrade()?.running.get()?.upgrade()?;
        Some(running.borrow().clone())
    }
}

impl Bindings for Known {
    fn binding(&self, inbound: &InboundKey) -> Option<Binding> {
        let config = self.now()?.config;
        let mut inbounds = config.nodes.iter().flat_map(|node| &node.inbounds);
        let found = inbounds.find(|it| it.xray == inbound.xray && it.tag == inbound.tag)?;
        let mut bindings = config.kernel.panel.as_ref()?.bindings.iter();
        let binding = bindings.find(|it| it.inbound == found.kernel_id)?;
        Some(Binding {
            node_id: binding.node_id,
            binding_id: binding.binding_id,
        })
    }

    fn protocol(&self, inbound: &InboundKey) -> Option<String> {
        let status = self.now()?.sync.status();
        let mut inbounds = status.iter().flat_map(|node| &node.inbounds);
        let found = inbounds.find(|it| it.xray == inbound.xray && it.tag == inbound.tag.0)?;
        found.protocol.clone()
    }
}
