//! Cuts one user off on somebody's word, also one who stays allowed: his client comes back at once, if
//! it may.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Kicker, Sessions};
use crate::base::files::FileError;
use crate::model::around_removal::AroundRemoval;
use crate::model::desired::InboundKey;
use crate::model::ids::{NodeId, UserId};
use crate::sync::inbound::Parts;
use crate::sync::state::StateFolder;
use crate::xray::error::XrayError;

/// One inbound in which users can be cut off by hand.
#[derive(Clone)]
pub struct ByHand {
    key: InboundKey,
    kicker: Kicker,
    folder: StateFolder,
    kernel_id: String,
    alone: bool,
    around_removal: Arc<dyn AroundRemoval>,
}

/// What became of a user's sessions in one inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KickOutcome {
    /// The node.
    pub node: Option<NodeId>,
    /// The Xray's name.
    pub xray: String,
    /// Xray's tag.
    pub tag: String,
    /// Whether he was connected.
    pub was_online: bool,
    /// Sockets destroyed.
    pub sockets: usize,
    /// Why he may be connected still.
    pub error: Option<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum KickError {
    #[error("sessions are not cut here: apply.kick is off")]
    Off,
    #[error(transparent)]
    State(#[from] FileError),
    #[error(transparent)]
    Xray(#[from] XrayError),
    #[error("Xray has no inbound of that tag")]
    Missing,
}

impl ByHand {
    /// For the inbound of `parts`.
    pub fn of(parts: &Parts) -> Self {
        Self {
            key: parts.key.clone(),
            kicker: parts.kicker.clone(),
            folder: parts.observer.folder.clone(),
            kernel_id: parts.observer.inbound.kernel_id.clone(),
            alone: parts.alone,
            around_removal: parts.around_removal.clone(),
        }
    }

    /// Cuts `user` off. He stays what he is: one who is allowed may come back.
    pub async fn kick(&self, user: UserId) -> KickOutcome {
        let mut outcome = KickOutcome {
            node: Some(self.key.node),
            xray: self.key.xray.clone(),
            tag: self.key.tag.0.clone(),
            ..KickOutcome::default()
        };
        if let Err(error) = self.cut(user, &mut outcome).await {
            outcome.error = Some(error.to_string());
        }
        outcome
    }

    async fn cut(&self, user: UserId, outcome: &mut KickOutcome) -> Result<(), KickError> {
        if self.kicker.cutter.is_none() {
            return Err(KickError::Off);
        }
        let emails = self.folder.state()?.emails_of(&self.kernel_id, self.alone);
        let all = self.kicker.client.list_inbounds().await?;
        let info = all.into_iter().find(|info| info.tag == self.key.tag.0);
        let info = info.ok_or(KickError::Missing)?;
        let ports = self.kicker.ports(Some(&info));
        let email = [emails.write(user)];
        let kicked = self.kicker.kick(&email, Sessions::default(), &ports).await;
        self.around_removal.after(&self.key.xray, &[user]);
        outcome.was_online = !kicked.online.is_empty();
        outcome.sockets = kicked.sockets;
        outcome.error = kicked.why;
        Ok(())
    }
}
