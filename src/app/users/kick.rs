//! What is done to one user on somebody's word: his sessions are cut.

use std::sync::Arc;

use serde_json::Value;

use crate::config::Config;
use crate::control::{self, Call, ControlError};
use crate::model::ids::UserId;
use crate::model::progress::Silent;
use crate::sync::engine::{BuildError, cores, inbound_parts, kick_user};
use crate::sync::kick::by_hand::{ByHand, KickOutcome};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The running agent refused, or could not be asked.
    #[error(transparent)]
    Agent(#[from] ControlError),
    /// The state folder cannot be used.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Cuts a user off in every inbound of the configuration, whether he is still allowed or not: by the
/// running agent, which also reads and reports his last bytes at once, else from here.
pub async fn kick(config: &Config, user: UserId) -> Result<Vec<KickOutcome>, UserError> {
    match control::call(&config.state_dir, Call::Kick { user }).await {
        Err(ControlError::NobodyThere) => kick_from_here(config, user).await,
        answer => Ok(outcomes(answer?)?),
    }
}

fn outcomes(mut answer: Value) -> Result<Vec<KickOutcome>, ControlError> {
    serde_json::from_value(answer["inbounds"].take())
        .map_err(|e| ControlError::Answer(e.to_string()))
}

async fn kick_from_here(config: &Config, user: UserId) -> Result<Vec<KickOutcome>, UserError> {
    let (cores, context) = (
        cores(config, &[]),
        super::super::oneshot::context(config, Arc::new(Silent)),
    );
    let mut inbounds = Vec::new();
    for node in &config.nodes {
        let parts = inbound_parts(config, node, &cores, &[], &context);
        inbounds.extend(parts.map_err(BuildError::from)?.iter().map(ByHand::of));
    }
    Ok(kick_user(&inbounds, user).await)
}
