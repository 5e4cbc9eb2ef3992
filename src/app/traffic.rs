//! What the command line does to traffic: reading the counters now, and deciding what became of a
//! report. The running agent does it where there is one; else it is done here, under the lock of the
//! state folder, so that never two write one ledger.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::state_lock::{Beside, call_when_it_listens, take_in_turn};
use super::wiring::Wiring;
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::lock::Lock;
use crate::base::supervise::Supervisor;
use crate::config::{ApplyMode, Config};
use crate::control::{self, Call, ControlError};
use crate::model::progress::Silent;
use crate::model::report::{Decision, ReportId};
use crate::store::StoreError;
use crate::sync;
use crate::traffic::ledger::{self, Ledger, Undecided};
use crate::traffic::receivers::REPORT_TRAFFIC;
use crate::traffic::status::TrafficStatus;

/// The running agent has answered by then, or something is wrong with it: Xray's unit may wait for
/// the answer before it stops Xray.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A read that was asked for is over; its loop ends at once.
const READS_END_WITHIN: Duration = Duration::from_secs(2);

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] FileError),
    /// The running agent refused, or could not be asked.
    #[error(transparent)]
    Agent(#[from] ControlError),
    /// The running agent is silent: it may still do it.
    #[error("the running agent has not answered within {ANSWER_WITHIN:?}; it may still do it")]
    Silent,
    /// A single pass does not end.
    #[error("another pass is being made ({0}): try again")]
    Occupied(String),
    /// The panel's client cannot be made.
    #[error("cannot prepare calls to the panel: {0}")]
    Panel(String),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// The report is not one of which this can be decided.
    #[error(transparent)]
    Undecided(#[from] Undecided),
}

/// Why the traffic of this configuration is not counted, if it is not.
pub fn uncounted(config: &Config) -> Option<&'static str> {
    match (config.mode, config.traffic.enabled) {
        (ApplyMode::XrayGrpc, true) => None,
        (ApplyMode::XrayGrpc, false) => Some("traffic is not counted: traffic.enabled is false"),
        _ => Some("traffic is not counted: that is done in mode xray-grpc only"),
    }
}

/// Reads the counters of every Xray into the ledger; how traffic stands then.
pub async fn collect(config: &Config) -> Result<TrafficStatus, TrafficError> {
    match agent_or_lock(config, Call::Collect {}).await? {
        Whose::Agents(mut answer) => serde_json::from_value(answer["traffic"].take())
            .map_err(|e| ControlError::Answer(e.to_string()).into()),
        Whose::Ours(_lock) => collect_here(config).await,
    }
}

/// One read of every Xray, and nothing of the panel.
async fn collect_here(config: &Config) -> Result<TrafficStatus, TrafficError> {
    let mut supervisor = Supervisor::new();
    let wiring = Wiring::new(supervisor.groups(), Arc::new(Silent), None);
    let pushed = sync::engine::pushed(config, Clock::system())?;
    let Some(engine) = wiring.build_traffic(config, &pushed, None)? else {
        return Ok(TrafficStatus::default());
    };
    let engine = engine.into_engine();
    let handle = engine.handle();
    engine.start_reading(supervisor.tasks());
    let mut status = TrafficStatus::default();
    let read = async { status = handle.collect().await };
    supervisor.run(read, READS_END_WITHIN).await;
    handle.let_go().await;
    Ok(status)
}

/// Carries out what a person decided of a report; the number that it has then.
pub async fn decide(
    config: &Config,
    id: ReportId,
    decision: Decision,
) -> Result<ReportId, TrafficError> {
    match agent_or_lock(config, Call::Decide { id, decision }).await? {
        Whose::Agents(mut answer) => serde_json::from_value(answer["id"].take())
            .map_err(|e| ControlError::Answer(e.to_string()).into()),
        Whose::Ours(_lock) => {
            // A mistyped number begins no ledger.
            if !ledger::file(&config.state_dir).exists() {
                return Err(Undecided::NoSuch(id).into());
            }
            let sinks = [REPORT_TRAFFIC];
            let ledger = Ledger::start(&config.state_dir, sinks, Clock::system())?;
            let decided = ledger.decide(id, decision).await;
            ledger.let_go().await;
            Ok(decided??)
        }
    }
}

/// Who does it.
enum Whose {
    /// The running agent did; its answer.
    Agents(Value),
    /// We have to, while this is held.
    Ours(Lock),
}

async fn agent_or_lock(config: &Config, call: Call) -> Result<Whose, TrafficError> {
    let state_dir = &config.state_dir;
    match in_time(control::call(state_dir, call)).await {
        Err(TrafficError::Agent(ControlError::NobodyThere)) => {}
        other => return other.map(Whose::Agents),
    }
    match take_in_turn(state_dir).await? {
        Beside::Nobody(lock) => Ok(Whose::Ours(lock)),
        Beside::SinglePass(who) => Err(TrafficError::Occupied(who)),
        // It has started meanwhile.
        Beside::Agent(_) => in_time(call_when_it_listens(state_dir, call))
            .await
            .map(Whose::Agents),
    }
}

async fn in_time(
    answer: impl Future<Output = Result<Value, ControlError>>,
) -> Result<Value, TrafficError> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
    Ok(answer.map_err(|_| TrafficError::Silent)??)
}

/// How traffic stands, as the running agent says it. `None`: no agent runs, or it counts none.
pub async fn live(config: &Config) -> Result<Option<TrafficStatus>, TrafficError> {
    let mut answer = match in_time(control::call(&config.state_dir, Call::Status {})).await {
        Err(TrafficError::Agent(ControlError::NobodyThere)) => return Ok(None),
        other => other?,
    };
    match answer.get_mut("traffic").map(Value::take) {
        None | Some(Value::Null) => Ok(None),
        Some(traffic) => {
            serde_json::from_value(traffic).map_err(|e| ControlError::Answer(e.to_string()).into())
        }
    }
}
