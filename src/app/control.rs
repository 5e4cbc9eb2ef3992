//! What the control socket answers: what the command line asks of the running agent.

mod changes;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::metrics::Meter;
use super::outbox;
use super::reload::Reloads;
use super::run::HANGS_AFTER;
use super::running::Running;
use crate::audit::Audit;
use crate::base::files::FileError;
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Supervisor, TaskBoard};
use crate::config::Config;
use crate::control::{Call, Caller, Handler, Server};
use crate::metrics::Format;

/// Opens the socket of the state folder, and has it served. What changes something is told to `audit`.
pub(super) fn add(
    config: &Config,
    running: &Running,
    meter: Meter,
    reloads: Reloads,
    audit: Option<Audit>,
    supervisor: &mut Supervisor,
) -> Result<(), FileError> {
    let handler: Arc<dyn Handler> = Arc::new(Control {
        running: running.clone(),
        started: Timestamp::now(),
        board: supervisor.board(),
        meter,
        reloads,
        audit,
    });
    let server = Arc::new(Server::bind(&config.state_dir, handler)?);
    let make = move |mut shutdown: Shutdown, heartbeat: Heartbeat| {
        let server = server.clone();
        async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = server.serve(|| heartbeat.beat()) => {}
            }
        }
    };
    supervisor
        .tasks()
        .watched_task("control socket", Kind::Essential, HANGS_AFTER, make);
    Ok(())
}

struct Control {
    running: Running,
    started: Timestamp,
    board: TaskBoard,
    meter: Meter,
    reloads: Reloads,
    audit: Option<Audit>,
}

impl Handler for Control {
    fn answer(&self, call: Call, caller: Caller) -> BoxFuture<'_, Value> {
        Box::pin(async move {
            let answer = self.carry_out(call).await;
            if let Some(audit) = &self.audit
                && let Some(change) = changes::record(call, caller, &answer)
            {
                audit.record(change);
            }
            answer
        })
    }
}

impl Control {
    async fn carry_out(&self, call: Call) -> Value {
        match call {
            Call::Sync { force } => {
                let sync = self.running.now().sync;
                json!({ "nodes": sync.sync(false, force).await })
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
                let sync = self.running.now().sync;
                json!({ "inbounds": sync.kick_user(user).await })
            }
            Call::Reload {} => match self.reloads.reload().await {
                Ok(reloaded) => json!({ "reloaded": reloaded }),
                Err(why) => json!({ "error": why }),
            },
            Call::Outbox {}
            | Call::OutboxGivenUp { .. }
            | Call::OutboxReplay { .. }
            | Call::OutboxEnable { .. } => match self.running.now().agent_store {
                Some(store) => outbox::answer(store.events.outbox(), call).await,
                None => json!({ "error": "no events are kept here" }),
            },
            Call::Collect {} | Call::Decide { .. } => self.of_traffic(call).await,
        }
    }

    async fn of_traffic(&self, call: Call) -> Value {
        let Some(traffic) = self.running.now().traffic else {
            return json!({ "error": "traffic is not counted here" });
        };
        let Call::Decide { id, decision } = call else {
            return json!({ "traffic": traffic.handle.collect().await });
        };
        match traffic.handle.decide(id, decision).await {
            Ok(Ok(id)) => json!({ "id": id }),
            Ok(Err(undecided)) => json!({ "error": undecided.to_string() }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }

    fn status(&self) -> Value {
        let now = self.running.now();
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
            "mode": now.mode(),
            "started": self.started,
            "configuration": self.reloads.status(),
            "nodes": now.sync.status(),
            "traffic": now.traffic_status(),
            "tasks": tasks,
        })
    }
}
