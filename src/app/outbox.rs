//! What the command line asks about the outbox. The running agent answers: it alone writes `agent.db`.
//! Nothing of a target that is secret is in an answer; of its address, the host.

use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::control::{self, Call, ControlError};
use crate::events::outbox::{GivenUp, Outbox, TargetStatus};
use crate::model::delivery::{Origin, TargetId, host_of};
use crate::model::event::{EventId, EventName};
use crate::store::StoreError;

/// The running agent has answered by then, or something is wrong with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Given up events that are shown of one target.
const GIVEN_UP_SHOWN: u32 = 1_000;

/// Who is sent events, and how that goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownTarget {
    /// Its number.
    pub id: TargetId,
    /// Which part of the agent it belongs to.
    pub owner: String,
    /// How its bodies are written.
    pub form: String,
    /// The host of its address.
    pub host: String,
    /// Who named that address.
    pub origin: Origin,
    /// What it is sent, as it is told there; nothing is everything.
    pub events: Vec<String>,
    /// Since when.
    pub created: Timestamp,
    /// Why nothing more is sent to it.
    pub disabled: Option<String>,
    /// Why the last try failed; `None` after one that did not.
    pub trouble: Option<String>,
    /// When it last took an event.
    pub delivered_at: Option<Timestamp>,
    /// Events that wait.
    pub waiting: u64,
    /// Their bodies, in bytes.
    pub waiting_bytes: u64,
    /// Events that it took.
    pub delivered: u64,
    /// Tries that failed.
    pub failed: u64,
    /// Events that were given up, and were not taken since.
    pub given_up: u64,
    /// Of those, the ones that can be sent again.
    pub kept: u64,
}

/// An event that was given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownEvent {
    /// For whom.
    pub target: TargetId,
    /// Its number.
    pub event: EventId,
    /// Its kind.
    pub name: String,
    /// When it was put into the queue.
    pub queued_at: Timestamp,
    /// When it was given up.
    pub given_up_at: Timestamp,
    /// How often it was sent.
    pub tries: u32,
    /// Why it was given up.
    pub why: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The running agent refused, or could not be asked.
    #[error(transparent)]
    Agent(#[from] ControlError),
    /// The running agent is silent.
    #[error("the running agent has not answered within {ANSWER_WITHIN:?}; it may still do it")]
    Silent,
}

/// All targets, oldest first.
pub async fn targets(config: &Config) -> Result<Vec<ShownTarget>, OutboxError> {
    ask(config, Call::Outbox {}, "targets").await
}

/// What was given up for a target, or for any; of each target newest first.
pub async fn given_up(
    config: &Config,
    target: Option<TargetId>,
) -> Result<Vec<ShownEvent>, OutboxError> {
    ask(config, Call::OutboxGivenUp { target }, "given_up").await
}

/// Has an event that was given up sent again, or all that are kept; how many.
pub async fn replay(
    config: &Config,
    target: TargetId,
    event: Option<EventId>,
) -> Result<u64, OutboxError> {
    ask(config, Call::OutboxReplay { target, event }, "replayed").await
}

/// Has a disabled target sent to again; whether it was disabled.
pub async fn enable(config: &Config, target: TargetId) -> Result<bool, OutboxError> {
    ask(config, Call::OutboxEnable { target }, "enabled").await
}

async fn ask<T: DeserializeOwned>(
    config: &Config,
    call: Call,
    member: &str,
) -> Result<T, OutboxError> {
    let answer = control::call(&config.state_dir, call);
    let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
    let mut answer = answer.map_err(|_| OutboxError::Silent)??;
    serde_json::from_value(answer[member].take())
        .map_err(|e| ControlError::Answer(e.to_string()).into())
}

/// The running agent's answer to one of those calls.
pub(super) async fn answer(outbox: &Outbox, call: Call) -> Value {
    let answered = match call {
        Call::Outbox {} => all(outbox).await,
        Call::OutboxGivenUp { target } => of_given_up(outbox, target).await,
        Call::OutboxReplay { target, event } => {
            let replayed = existing(outbox, target, outbox.replay(target, event)).await;
            replayed.map(|count| count.map(|count| json!({ "replayed": count })))
        }
        Call::OutboxEnable { target } => {
            let enabled = existing(outbox, target, outbox.enable(target)).await;
            enabled.map(|enabled| enabled.map(|enabled| json!({ "enabled": enabled })))
        }
        _ => return json!({ "error": "no call of the outbox" }),
    };
    match answered {
        Ok(Some(answer)) => answer,
        Ok(None) => json!({ "error": "there is no such target; `xray-agent outbox` lists them" }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn all(outbox: &Outbox) -> Result<Option<Value>, StoreError> {
    let targets: Vec<_> = outbox.targets().await?.into_iter().map(shown).collect();
    Ok(Some(json!({ "targets": targets })))
}

async fn of_given_up(
    outbox: &Outbox,
    target: Option<TargetId>,
) -> Result<Option<Value>, StoreError> {
    let targets = outbox.targets().await?.into_iter();
    let ids = targets.map(|status| status.target.id);
    let asked: Vec<_> = ids.filter(|id| target.is_none_or(|it| it == *id)).collect();
    if target.is_some() && asked.is_empty() {
        return Ok(None);
    }
    let mut events = Vec::new();
    for id in asked {
        let given_up = outbox.given_up(id, GIVEN_UP_SHOWN).await?;
        events.extend(given_up.into_iter().map(|event| shown_event(id, event)));
    }
    Ok(Some(json!({ "given_up": events })))
}

/// What `act` comes to; `None`: there is no such target.
async fn existing<T>(
    outbox: &Outbox,
    target: TargetId,
    act: impl Future<Output = Result<T, StoreError>>,
) -> Result<Option<T>, StoreError> {
    let targets = outbox.targets().await?;
    if targets.iter().all(|status| status.target.id != target) {
        return Ok(None);
    }
    act.await.map(Some)
}

fn shown(status: TargetStatus) -> ShownTarget {
    let wanted = status.target.wanted;
    let events = wanted.events.into_iter();
    ShownTarget {
        id: status.target.id,
        host: host_of(&wanted.url),
        owner: wanted.owner,
        form: wanted.form,
        origin: wanted.origin,
        events: events.map(EventName::core_name).collect(),
        created: status.target.created,
        disabled: status.disabled,
        trouble: status.trouble,
        delivered_at: status.delivered_at,
        waiting: status.queued,
        waiting_bytes: status.queued_bytes,
        delivered: status.delivered,
        failed: status.failed,
        given_up: status.given_up,
        kept: status.kept,
    }
}

fn shown_event(target: TargetId, event: GivenUp) -> ShownEvent {
    ShownEvent {
        target,
        event: event.event,
        name: event.name,
        queued_at: event.queued_at,
        given_up_at: event.given_up_at,
        tries: event.tries,
        why: event.why,
    }
}
