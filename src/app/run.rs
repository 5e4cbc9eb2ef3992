//! Builds the agent and runs it, for good or for one pass.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::info;

use super::http::Surfaces;
use super::metrics::Meter;
use super::service_manager;
use super::signals::{Asked, Signals};
use super::state_lock::{Beside, take};
use super::traffic::TrafficError;
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::supervise::{Ended, Kind, Supervisor, TaskBoard};
use crate::config::{ApplyMode, Config};
use crate::control::{Call, Handler, Server};
use crate::metrics::Format;
use crate::model::around_removal::{AroundRemoval, Nobody};
use crate::model::progress::Progress;
use crate::sync::engine::{BuildError, Context, Engine, Handle};
use crate::sync::status::NodeStatus;
use crate::traffic::{self, status::TrafficStatus};

/// Tasks have this long to end after a signal.
const GRACE: Duration = Duration::from_secs(15);

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
    #[error("the ledger's disk failed: {0}")]
    Disk(String),
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

/// Runs the agent. `progress` is told of long passes.
pub async fn run(
    config: &Config,
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
    let running = start(config, style, progress, &mut supervisor)?;
    if daemon {
        let meter = meter(config, &running, supervisor.board());
        super::http::add(
            config,
            Surfaces::default(),
            &running,
            meter.clone(),
            &mut supervisor,
        );
        add_control(config, &running, meter, &mut supervisor)?;
        service_manager::add(&running.sync, &mut supervisor);
        info!(
            version = env!("CARGO_PKG_VERSION"),
            mode = mode_name(config.mode),
            nodes = config.nodes.len(),
            "started"
        );
    }

    let mut outcome = Ok(Outcome::Stopped);
    let until = async { outcome = wait(style, &running, &mut signals).await };
    let ended = supervisor.run(until, GRACE).await;
    let Running { sync, traffic } = running;
    drop(sync);
    if let Some(traffic) = traffic {
        traffic.let_go().await;
    }
    match ended {
        Ended::EssentialFailed { name, why } => return Err(RunError::Task { name, why }),
        Ended::TimedOut(_) | Ended::Stopped => {}
    }
    if daemon {
        info!("stopped");
    }
    outcome
}

/// What runs.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) sync: Handle,
    /// `None` where traffic is not counted.
    pub(super) traffic: Option<traffic::engine::Handle>,
}

/// Builds users' part and traffic's, which meet in the removal of users, and hands them to the
/// supervisor.
fn start(
    config: &Config,
    style: Style,
    progress: Arc<dyn Progress>,
    supervisor: &mut Supervisor,
) -> Result<Running, RunError> {
    let clock = Clock::system();
    let daemon = matches!(style, Style::Daemon { .. });
    let traffic = match style {
        // One pass over the users, and nothing else.
        Style::Now { .. } => None,
        Style::Daemon { .. } | Style::Once => super::traffic::build(config, clock, daemon)?,
    };
    let of_traffic = traffic.as_ref().map(traffic::engine::Engine::handle);
    let around_removal: Arc<dyn AroundRemoval> = match &of_traffic {
        Some(handle) => Arc::new(handle.clone()),
        None => Arc::new(Nobody),
    };
    let context = Context {
        clock,
        progress,
        further_sources: Vec::new(),
        polls: daemon,
        around_removal,
        cutter: super::cutting::cutter(config),
    };
    let sync = Engine::build(config, &context)?.start(supervisor);
    if let Some(traffic) = traffic {
        traffic.start(supervisor);
    }
    Ok(Running {
        sync,
        traffic: of_traffic,
    })
}

fn mode_name(mode: ApplyMode) -> &'static str {
    match mode {
        ApplyMode::XrayGrpc => "xray-grpc",
        ApplyMode::Cmd => "cmd",
        ApplyMode::None => "none",
    }
}

/// Until the agent has to end, and what it came to.
async fn wait(style: Style, running: &Running, signals: &mut Signals) -> Result<Outcome, RunError> {
    let outcome = async {
        match style {
            Style::Daemon { fail_fast } => serve(fail_fast, &running.sync, signals).await,
            Style::Once => one_pass(running, signals, true, false).await,
            Style::Now { force } => one_pass(running, signals, false, force).await,
        }
    };
    let disk_failed = async {
        match &running.traffic {
            Some(traffic) => traffic.failed().await,
            None => std::future::pending().await,
        }
    };
    // Both are cancel-safe: whichever is left behind is not needed any more.
    tokio::select! {
        outcome = outcome => Ok(outcome),
        why = disk_failed => Err(RunError::Disk(why)),
    }
}

/// A pass over the users, then one over their traffic.
async fn one_pass(running: &Running, signals: &mut Signals, is_poll: bool, force: bool) -> Outcome {
    let mut pass = Box::pin(async {
        let nodes = running.sync.sync(is_poll, force).await;
        let traffic = match &running.traffic {
            Some(traffic) => Some(traffic.pass().await),
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

async fn serve(fail_fast: bool, handle: &Handle, signals: &mut Signals) -> Outcome {
    let mut ready = Box::pin(handle.attempted().fuse());
    let mut announced = false;
    loop {
        tokio::select! {
            () = &mut ready, if !announced => {
                announced = true;
                service_manager::ready();
            }
            problems = handle.failed(), if fail_fast => return Outcome::Failed(problems),
            asked = signals.next() => match asked {
                Asked::Stop => {
                    service_manager::stopping();
                    return Outcome::Stopped;
                }
                // Not awaited: the outcome is in the log and the status.
                Asked::Sync => {
                    info!("asked by signal to sync now");
                    handle.ask();
                }
            },
        }
    }
}

fn add_control(
    config: &Config,
    running: &Running,
    meter: Meter,
    supervisor: &mut Supervisor,
) -> Result<(), FileError> {
    let handler: Arc<dyn Handler> = Arc::new(Control {
        running: running.clone(),
        mode: mode_name(config.mode),
        started: Timestamp::now(),
        board: supervisor.board(),
        meter,
    });
    let server = Arc::new(Server::bind(&config.state_dir, handler)?);
    supervisor.task("control socket", Kind::Essential, move |mut shutdown, _| {
        let server = server.clone();
        async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = server.serve() => {}
            }
        }
    });
    Ok(())
}

/// What shows the metrics.
fn meter(config: &Config, running: &Running, board: TaskBoard) -> Meter {
    let (sync, traffic) = (running.sync.clone(), running.traffic.clone());
    Meter::new(config, mode_name(config.mode), sync, traffic, board)
}

struct Control {
    running: Running,
    mode: &'static str,
    started: Timestamp,
    board: TaskBoard,
    meter: Meter,
}

impl Handler for Control {
    fn answer(&self, call: Call) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            match call {
                Call::Sync { force } => {
                    json!({ "nodes": self.running.sync.sync(false, force).await })
                }
                Call::Status {} => self.status(),
                Call::Metrics { openmetrics } => {
                    let format = if openmetrics {
                        Format::OpenMetrics
                    } else {
                        Format::Text
                    };
                    let exposition = self.meter.exposition(format).await;
                    json!({ "content_type": exposition.content_type, "body": exposition.body })
                }
                Call::Kick { user } => {
                    json!({ "inbounds": self.running.sync.kick_user(user).await })
                }
                Call::Collect {} | Call::Decide { .. } => self.of_traffic(call).await,
            }
        })
    }
}

impl Control {
    async fn of_traffic(&self, call: Call) -> Value {
        let Some(traffic) = &self.running.traffic else {
            return json!({ "error": "traffic is not counted here" });
        };
        let Call::Decide { id, decision } = call else {
            return json!({ "traffic": traffic.collect().await });
        };
        match traffic.decide(id, decision).await {
            Ok(Ok(id)) => json!({ "id": id }),
            Ok(Err(undecided)) => json!({ "error": undecided.to_string() }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }

    fn status(&self) -> Value {
        let tasks: Vec<_> = self
            .board
            .status()
            .into_iter()
            .map(|task| {
                json!({
                    "name": task.name,
                    "alive": task.alive,
                    "restarts": task.restarts,
                    "last_error": task.last_error,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "process": std::process::id(),
            "mode": self.mode,
            "started": self.started,
            "nodes": self.running.sync.status(),
            "traffic": self.running.traffic.as_ref().map(traffic::engine::Handle::status),
            "tasks": tasks,
        })
    }
}
