//! Traffic as the agent runs it, and what of it is done without a running agent.

use std::sync::Arc;

use super::run::RunError;
use crate::base::clock::Clock;
use crate::config::{ApplyMode, Config};
use crate::panel::PanelClient;
use crate::sync::engine::emails;
use crate::traffic::engine::{Context, Engine};

/// Traffic as configured; `None` where it is not counted. The caller holds the state folder's lock.
pub(super) fn build(
    config: &Config,
    clock: Clock,
    on_stop: bool,
) -> Result<Option<Engine>, RunError> {
    if !config.traffic.enabled || config.mode != ApplyMode::XrayGrpc {
        return Ok(None);
    }
    let panel = config
        .panel
        .clone()
        .expect("invariant: a configuration to run has a panel");
    let panel = PanelClient::new(panel).map_err(RunError::Traffic)?;
    let inbounds = emails(config, clock)?;
    let context = Context {
        inbounds: &inbounds,
        sinks: vec![Arc::new(panel)],
        clock,
        on_stop,
    };
    let engine = Engine::build(config, &context).map_err(|e| RunError::Traffic(e.to_string()))?;
    Ok(Some(engine))
}
