//! Makes a node known to the panel, on somebody's word.

use crate::config::Config;
use crate::model::ids::NodeId;
use crate::panel::{PanelClient, PanelError, Registration};

/// Why the panel does not know it now.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The panel's client cannot be made.
    #[error("cannot prepare calls to the panel: {0}")]
    Client(String),
    /// The panel refused, or could not be asked.
    #[error(transparent)]
    Panel(#[from] PanelError),
}

/// The id by which the panel knows `node`: a new one, or the one that it had.
pub async fn register(config: &Config, node: &Registration) -> Result<NodeId, RegisterError> {
    let panel = config
        .panel
        .clone()
        .expect("invariant: a configuration to speak to the panel has one");
    let panel = PanelClient::new(panel).map_err(RegisterError::Client)?;
    Ok(panel.register(node).await?)
}
