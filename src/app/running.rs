//! What runs now. A reload puts other engines in the place of those that run; whoever shows or asks
//! something looks here each time, and so never holds on to what was.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::agent_store::AgentStore;
use super::metrics::Looker;
use crate::config::{Config, Panel};
use crate::model::around_removal::AroundRemoval;
use crate::model::ids::UserId;
use crate::store::agent;
use crate::sync;
use crate::traffic;
use crate::traffic::sink::Sink;

/// The engines that run now. Cheap to clone.
#[derive(Clone)]
pub(super) struct Running(Arc<watch::Sender<Engines>>);

/// Engines that run together.
#[derive(Clone)]
pub(super) struct Engines {
    /// The configuration by which they run.
    pub(super) config: Arc<Config>,
    /// The users.
    pub(super) sync: sync::engine::Handle,
    /// Their traffic; `None` where it is not counted.
    pub(super) traffic: Option<Traffic>,
    /// Events and what is kept beside traffic; `None` in single passes.
    pub(super) agent_store: Option<AgentStore>,
}

/// Traffic that is counted.
#[derive(Clone)]
pub(super) struct Traffic {
    pub(super) handle: traffic::engine::Handle,
    /// By which the ledger is looked at for the metrics.
    pub(super) looker: Arc<Looker>,
    /// Where reports to the polled panel go, and which that is.
    pub(super) sink: Option<ToPanel>,
}

/// A polled panel, and where reports to it go.
pub(super) type ToPanel = (Panel, Arc<dyn Sink>);

/// The same for what is itself held by what runs, and must not keep it alive.
pub(super) type WeakRunning = Weak<watch::Sender<Engines>>;

impl Running {
    /// For what is held by what runs.
    pub(super) fn downgrade(&self) -> WeakRunning {
        Arc::downgrade(&self.0)
    }

    pub(super) fn new(engines: Engines) -> Self {
        Self(Arc::new(watch::Sender::new(engines)))
    }

    /// Those that run at this moment.
    pub(super) fn now(&self) -> Engines {
        self.0.borrow().clone()
    }

    /// Changes when others run.
    pub(super) fn changes(&self) -> watch::Receiver<Engines> {
        self.0.subscribe()
    }

    /// Completes, with the reason, when a sync of the disk failed: the process has to end.
    pub(super) async fn disk_failed(&self) -> String {
        let mut changes = self.0.subscribe();
        loop {
            let (traffic, agent_store) = {
                let now = changes.borrow_and_update();
                (now.traffic.clone(), now.agent_store.clone())
            };
            let ledger_failed = async {
                match &traffic {
                    Some(traffic) => traffic.handle.failed().await,
                    None => std::future::pending().await,
                }
            };
            let agent_failed = async {
                match &agent_store {
                    Some(store) => store.failed().await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe.
            tokio::select! {
                why = ledger_failed => return format!("the ledger's disk failed: {why}"),
                why = agent_failed => return format!("the disk of {} failed: {why}", agent::FILE),
                next = changes.changed() => {
                    next.expect("invariant: this handle holds the sender");
                }
            }
        }
    }

    /// Changes what runs.
    pub(super) fn change(&self, change: impl FnOnce(&mut Engines)) {
        self.0.send_modify(change);
    }
}

impl Engines {
    /// The mode's name in the configuration.
    pub(super) fn mode(&self) -> &'static str {
        self.config.mode.name()
    }

    /// How traffic stands, where it is counted.
    pub(super) fn traffic_status(&self) -> Option<traffic::status::TrafficStatus> {
        self.traffic.as_ref().map(|traffic| traffic.handle.status())
    }
}

/// Whoever counts traffic now, if it is counted: the users' engine need not know of changes.
#[derive(Clone, Default)]
pub(super) struct Counting(Arc<RwLock<Option<traffic::engine::Handle>>>);

impl Counting {
    pub(super) fn set(&self, handle: Option<traffic::engine::Handle>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    fn get(&self) -> Option<traffic::engine::Handle> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl AroundRemoval for Counting {
    fn before<'a>(&'a self, xray: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(handle) = self.get() {
                handle.before(xray).await;
            }
        })
    }

    fn after(&self, xray: &str, users: &[UserId]) {
        if let Some(handle) = self.get() {
            handle.after(xray, users);
        }
    }
}
