//! Builds the agent and runs it, for good or for one pass.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing::info;

use super::agent_store::AgentStore;
use super::http::Surfaces;
use super::kernel;
use super::metrics::Meter;
use super::reload::{self, Origin, Reloader, Reloads};
use super::running::{Engines, Running};
use super::service_manager;
use super::serving::Serving;
use super::signals::{Asked, Signals};
use super::state_lock::{Beside, take};
use super::traffic::TrafficError;
use super::watching;
use super::wiring::Wiring;
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::supervise::{Ended, Kind, Supervisor};
use crate::config::Config;
use crate::model::event::EventName;
use crate::model::progress::Progress;
use crate::store::StoreError;
use crate::sync::engine::BuildError;
use crate::sync::status::NodeStatus;
use crate::traffic::status::TrafficStatus;

/// Tasks have this long to end after a signal.
const GRACE: Duration = Duration::from_secs(15);
/// The control socket, the HTTP server, the watch over the configuration and what tells the service
/// manager hang when they gave no sign of life for this long; they give one every 10 s.
pub(super) const HANGS_AFTER: Duration = Duration::from_mins(2);

/// How the agent is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Until a signal.
    Daemon {
        /// End with a failure as soon as a pass fails.
        fail_fast: bool,
    },
    /// One pass that counts as a poll (`--once`).
    Once,
    /// One pass on somebody's word (`sync`).
    Now {
        /// Held removals go through.
        force: bool,
    },
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// By a signal, in order.
    Stopped,
    /// One pass was made; with how traffic stands, where it is counted.
    Passed(Vec<NodeStatus>, Option<TrafficStatus>),
    /// `fail_fast`: what was wrong.
    Failed(Vec<String>),
    /// Somebody else is on the state folder.
    Occupied(Beside),
}

/// Why it could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state folder cannot be used.
    #[error("{0}; STATE_DIR (state.dir) must be a folder that the agent may write to")]
    State(#[from] FileError),
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The panel's client or the ledger cannot be prepared.
    #[error("cannot count traffic: {0}")]
    Traffic(#[from] TrafficError),
    /// What is on the disk is not known any more.
    #[error("{0}")]
    Disk(String),
    /// The store of events cannot be used.
    #[error("cannot keep events: {0}")]
    Store(#[from] StoreError),
    /// Signals cannot be heeded.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// A task without which it is of no use failed again and again.
    #[error("task {name} was given up: {why}")]
    Task {
        /// The task.
        name: String,
        /// Its last failure.
        why: String,
    },
}

/// Runs the agent by `config`, which was read from `origin`. `progress` is told of long passes.
pub async fn run(
    config: &Config,
    origin: Origin,
    style: Style,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, RunError> {
    let daemon = matches!(style, Style::Daemon { .. });
    let _lock = match take(&config.state_dir, daemon).await? {
        Beside::Nobody(lock) => lock,
        occupied => return Ok(Outcome::Occupied(occupied)),
    };
    // Before anything takes time: a signal that comes now is not lost.
    let mut signals = Signals::listen().map_err(RunError::Signals)?;
    let mut supervisor = Supervisor::new();
    let agent_store = match style {
        Style::Daemon { .. } => Some(AgentStore::open(config, Clock::system()).await?),
        Style::Once | Style::Now { .. } => None,
    };
    let mut wiring = Wiring::new(supervisor.groups(), progress, agent_store.clone());
    // One pass on somebody's word is over the users, and nothing else.
    let running = wiring.start(config, !matches!(style, Style::Now { .. }))?;
    let mut outcome = Ok(Outcome::Stopped);
    let ended = if let (Style::Daemon { fail_fast }, Some(agent_store)) = (style, agent_store) {
        agent_store.add(&mut supervisor);
        wiring.add(&running, &agent_store, &mut supervisor);
        watching::add(&running, &agent_store, &mut supervisor);
        let (reloads, asked) = Reloads::new(origin.stamp);
        let shown = (&running, &agent_store, &reloads);
        add_surfaces(config, &origin, shown, &mut supervisor)?;
        let reloader = Reloader::new(origin, wiring, running.clone(), reloads);
        let mut serving = Serving {
            running: running.clone(),
            signals,
            reloader,
            asked,
            fail_fast,
            again: false,
        };
        let until = async {
            agent_store.tell_of_the_start(config).await;
            outcome = unless_disk_fails(&running, serving.serve()).await;
            agent_store.tell(EventName::AgentStopping, &json!({})).await;
        };
        supervisor.run(until, GRACE).await
    } else {
        let until = async {
            let pass = one_pass(&running, &mut signals, style);
            outcome = unless_disk_fails(&running, pass).await;
        };
        let ended = supervisor.run(until, GRACE).await;
        // It knows who counts traffic, and the ledger is closed only when nobody does.
        drop(wiring);
        ended
    };
    close(running).await;
    if let Ended::EssentialFailed { name, why } = ended {
        return Err(RunError::Task { name, why });
    }
    if daemon {
        info!("stopped");
    }
    outcome
}

/// What is asked and shown of an agent that keeps running.
fn add_surfaces(
    config: &Config,
    origin: &Origin,
    (running, store, reloads): (&Running, &AgentStore, &Reloads),
    supervisor: &mut Supervisor,
) -> Result<(), RunError> {
    let meter = Meter::new(running.clone(), reloads.clone(), supervisor.board());
    let surfaces = Surfaces {
        all: kernel::surface(config, running, store, supervisor),
        scheduler: None,
    };
    super::http::add(config, surfaces, running, meter.clone(), supervisor);
    let audit = Some(store.audit.clone());
    super::control::add(config, running, meter, reloads.clone(), audit, supervisor)?;
    service_manager::add(running, supervisor);
    let file = origin.sources.file_in_use();
    let reloads = reloads.clone();
    let watch = move |shutdown, beat| reload::watch(file.clone(), reloads.clone(), shutdown, beat);
    supervisor
        .tasks()
        .watched_task("configuration file", Kind::Leaf, HANGS_AFTER, watch);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = running.now().mode(),
        nodes = config.nodes.len(),
        "started"
    );
    Ok(())
}

/// Lets go of what ran, in order: a store's file is closed when nobody needs it any more.
async fn close(running: Running) {
    let Engines {
        sync,
        traffic,
        agent_store,
        ..
    } = running.now();
    drop((running, sync));
    if let Some(traffic) = traffic {
        traffic.handle.let_go().await;
    }
    if let Some(agent_store) = agent_store {
        agent_store.let_go().await;
    }
}

/// What `work` comes to, unless what is on the disk is not known any more.
async fn unless_disk_fails(
    running: &Running,
    work: impl Future<Output = Outcome>,
) -> Result<Outcome, RunError> {
    // Both are cancel-safe: whichever is left behind is not needed any more.
    tokio::select! {
        outcome = work => Ok(outcome),
        why = running.disk_failed() => Err(RunError::Disk(why)),
    }
}

/// A pass over the users, then one over their traffic.
async fn one_pass(running: &Running, signals: &mut Signals, style: Style) -> Outcome {
    let (is_poll, force) = match style {
        Style::Now { force } => (false, force),
        Style::Daemon { .. } | Style::Once => (true, false),
    };
    let engines = running.now();
    let mut pass = Box::pin(async {
        let nodes = engines.sync.sync(is_poll, force).await;
        let traffic = match &engines.traffic {
            Some(traffic) => Some(traffic.handle.pass().await),
            None => None,
        };
        Outcome::Passed(nodes, traffic)
    });
    loop {
        tokio::select! {
            passed = &mut pass => return passed,
            asked = signals.next() => if matches!(asked, Asked::Stop) {
                return Outcome::Stopped;
            }
        }
    }
}
