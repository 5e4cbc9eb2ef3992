//! Reads the configuration anew while the agent runs: on SIGHUP, on somebody's word over the control
//! socket, and when the file changes.
//!
//! Invariant: a configuration that is wrong, or cannot be built, changes nothing.

mod changes;
mod watch;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch as seen};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::logging::LogFilter;
use super::run::RunError;
use super::running::Running;
use super::traffic::TrafficError;
use super::wiring::{Next, NextTraffic, Wiring};
use crate::config::{self, Config, Need, Problems, Sources};
use crate::model::event::EventName;
use changes::changes;
pub use watch::Stamp;
pub(super) use watch::watch;

/// Requests that wait; whoever asks beyond that waits to ask.
const WAITING_MAX: usize = 8;

/// Where the configuration came from.
#[derive(Clone)]
pub struct Origin {
    /// Environment and file.
    pub sources: Sources,
    /// The file when it was read, or before.
    pub stamp: Stamp,
    /// The log, whose filter can change.
    pub log: LogFilter,
}

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The sections that changed, as the file names them.
    pub changed: Vec<String>,
    /// What takes effect at the next start only.
    pub after_restart: Vec<String>,
}

/// How the agent stands with its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// When it was last taken in whole.
    pub loaded_at: Option<Timestamp>,
    /// How often it was read anew and taken in.
    pub reloads: u64,
    /// How often it was refused.
    pub refused: u64,
    /// Why it was refused when it was last read.
    pub error: Option<String>,
    /// What of it takes effect at the next start only.
    pub after_restart: Vec<String>,
}

/// Why the configuration stays as it is.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Wrong(#[from] Problems),
    #[error("{0}: the file is gone; put it back, or restart the agent to run without it")]
    Gone(String),
    #[error("{0}")]
    Log(String),
    #[error(transparent)]
    Engine(#[from] RunError),
    #[error("cannot count traffic: {0}")]
    Traffic(#[from] TrafficError),
    #[error("reading the configuration failed: {0}")]
    Internal(#[from] tokio::task::JoinError),
}

type Answer = oneshot::Sender<Result<Reloaded, String>>;

/// Asks for reloads. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reloads {
    requests: mpsc::Sender<Answer>,
    status: Arc<seen::Sender<ConfigurationStatus>>,
    /// The file when it was last read, be it taken in or refused.
    stamp: Arc<seen::Sender<Stamp>>,
}

impl Reloads {
    /// Where the file has been read.
    pub(super) fn new(stamp: Stamp) -> (Self, mpsc::Receiver<Answer>) {
        let (requests, asked) = mpsc::channel(WAITING_MAX);
        let status = ConfigurationStatus {
            loaded_at: Some(Timestamp::now()),
            ..ConfigurationStatus::default()
        };
        let reloads = Self {
            requests,
            status: Arc::new(seen::Sender::new(status)),
            stamp: Arc::new(seen::Sender::new(stamp)),
        };
        (reloads, asked)
    }

    /// Has the configuration read anew; what it came to, or why it was refused.
    pub(super) async fn reload(&self) -> Result<Reloaded, String> {
        let (answer, answered) = oneshot::channel();
        let ends = || "the agent is ending".to_owned();
        self.requests.send(answer).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())?
    }

    /// The file when it was last read.
    fn stamp(&self) -> Stamp {
        *self.stamp.borrow()
    }

    /// How the agent stands with its configuration.
    pub(super) fn status(&self) -> ConfigurationStatus {
        self.status.borrow().clone()
    }
}

/// Takes new configurations in.
pub(super) struct Reloader {
    origin: Origin,
    wiring: Wiring,
    running: Running,
    reloads: Reloads,
}

impl Reloader {
    pub(super) fn new(origin: Origin, wiring: Wiring, running: Running, reloads: Reloads) -> Self {
        Self {
            origin,
            wiring,
            running,
            reloads,
        }
    }

    /// Reads the configuration, and runs by it from now on if it is right. Not cancel-safe: what is
    /// dropped in the midst of it may have ended engines that nothing replaces.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, String> {
        let outcome = self.try_to_reload().await;
        let outcome = outcome.map_err(|refused| refused.to_string());
        // Before anybody else can know of it: whoever reads the log takes the reload for over.
        if let (Ok(reloaded), Some(store)) = (&outcome, self.running.now().agent_store) {
            let changed = json!({ "changed": reloaded.changed });
            store.tell(EventName::ConfigReloaded, &changed).await;
        }
        match &outcome {
            Ok(reloaded) => tell(reloaded),
            Err(why) => warn!("the new configuration is refused, the old one stays: {why}"),
        }
        self.reloads.status.send_modify(|status| match &outcome {
            Ok(reloaded) => {
                status.loaded_at = Some(Timestamp::now());
                status.reloads += 1;
                status.error = None;
                status.after_restart.clone_from(&reloaded.after_restart);
            }
            Err(why) => {
                status.refused += 1;
                status.error = Some(why.clone());
            }
        });
        outcome
    }

    async fn try_to_reload(&mut self) -> Result<Reloaded, Refused> {
        let before = self.running.now();
        let (config, changes) = changes(&before.config, self.read().await?);
        let mut next = Next::default();
        if changes.sync {
            next.sync = Some(self.wiring.build_sync(&config, &before)?);
        }
        if changes.traffic {
            let traffic = before.traffic.as_ref();
            next.traffic =
                match self
                    .wiring
                    .build_traffic(&config, before.sync.pushed(), traffic)?
                {
                    Some(new) => NextTraffic::New(Box::new(new)),
                    None => NextTraffic::None,
                };
        }
        // The last that can fail.
        self.origin.log.set(&config.log).map_err(Refused::Log)?;
        let shown = before.config.metrics != config.metrics;
        let config = Arc::new(config);
        self.running.change(|engines| {
            engines.config = config.clone();
            if let (true, Some(traffic)) = (shown, &mut engines.traffic) {
                traffic.looker = self.wiring.looker(&config);
            }
        });
        if let Some(store) = &before.agent_store {
            store.reconfigure(&config).await;
        }
        drop(before);
        self.wiring.replace(&config, next, &self.running).await;
        Ok(Reloaded {
            changed: changes.sections.into_iter().map(str::to_owned).collect(),
            after_restart: changes
                .after_restart
                .into_iter()
                .map(str::to_owned)
                .collect(),
        })
    }

    async fn read(&mut self) -> Result<Config, Refused> {
        let sources = self.origin.sources.clone();
        let read = move || {
            let stamp = Stamp::of(&sources);
            (stamp, config::read(&sources, Need::Run))
        };
        let (stamp, config) = spawn_blocking(read).await?;
        self.reloads.stamp.send_replace(stamp);
        // Without its file a configuration may well be right, and another.
        if self.origin.stamp.is_there() && !stamp.is_there() {
            let file = self.origin.sources.file_in_use();
            return Err(Refused::Gone(file.display().to_string()));
        }
        self.origin.stamp = stamp;
        Ok(config?)
    }
}

fn tell(reloaded: &Reloaded) {
    if reloaded.changed.is_empty() {
        info!("configuration read: nothing has changed");
    } else {
        let changed = reloaded.changed.join(", ");
        info!(changed, "configuration read and taken in");
    }
    if !reloaded.after_restart.is_empty() {
        let what = reloaded.after_restart.join(", ");
        warn!("{what}: changed in the configuration, but only a restart takes that in");
    }
}
