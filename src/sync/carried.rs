//! What one run of the engine hands to the next when the configuration is read anew: whoever waits for a
//! node's answer gets it from its next loop, counts go on, connections and locks are kept.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use super::engine::BuildError;
use super::inbound::Parts;
use super::link::{ApplierLink, ApplierStatus, NodeLink};
use super::managed::{Core, keys, lock};
use super::polled::Polled;
use super::pushed::Pushed;
use super::status::{HookStatus, InboundStatus, NodeStatus};
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::lock::Lock;
use crate::config::Config;
use crate::model::desired::InboundKey;
use crate::model::ids::NodeId;
use crate::model::tally::Passes;
use crate::panel::PanelClient;

/// What outlives a run of the engine; of the first run, nothing.
#[derive(Clone, Default)]
pub(super) struct Carried {
    pub(super) panel: Option<PanelClient>,
    pub(super) polled: Option<Arc<Polled>>,
    pub(super) pushed: Option<Arc<Pushed>>,
    pub(super) cores: Vec<Core>,
    pub(super) nodes: BTreeMap<NodeId, NodeEnds>,
    pub(super) inbounds: BTreeMap<InboundKey, InboundEnds>,
    pub(super) hooks: BTreeMap<NodeId, ApplierLink>,
    /// By their files: an inbound may go over to another node.
    pub(super) locks: BTreeMap<PathBuf, Arc<Lock>>,
}

/// By which others hear of a node.
#[derive(Clone)]
pub(super) struct NodeEnds {
    pub(super) link: NodeLink,
    pub(super) reported: Arc<Notify>,
}

/// By which others hear of an inbound.
#[derive(Clone)]
pub(super) struct InboundEnds {
    pub(super) link: ApplierLink,
    pub(super) passes: Arc<Passes>,
}

impl Carried {
    /// The client of the configured panel: the same, if it is the same panel. `None` where none is
    /// polled.
    pub(super) fn panel(&self, config: &Config) -> Result<Option<PanelClient>, BuildError> {
        let Some(panel) = config.panel.clone() else {
            return Ok(None);
        };
        let before = self.panel.as_ref();
        match before.filter(|client| *client.config() == panel) {
            Some(same) => Ok(Some(same.clone())),
            None => PanelClient::new(panel).map(Some).map_err(BuildError::Panel),
        }
    }

    /// What the polls said; `None` where no panel is polled.
    pub(super) fn polled(&self, config: &Config) -> Result<Option<Arc<Polled>>, FileError> {
        if config.panel.is_none() {
            return Ok(None);
        }
        let ids = config.nodes.iter().map(|node| node.id);
        match &self.polled {
            Some(polled) => polled.add(ids).map(|()| Some(polled.clone())),
            None => Polled::open(&config.state_dir, ids).map(Arc::new).map(Some),
        }
    }

    /// The pushed sets.
    pub(super) fn pushed(&self, config: &Config, clock: Clock) -> Result<Arc<Pushed>, FileError> {
        let keys = keys(config);
        match &self.pushed {
            Some(pushed) => {
                pushed.add(keys.iter());
                Ok(pushed.clone())
            }
            None => Pushed::open(&config.state_dir, keys.iter(), clock).map(Arc::new),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> NodeEnds {
        let known = self.nodes.get(&id).cloned();
        known.unwrap_or_else(|| NodeEnds {
            link: NodeLink::new(NodeStatus::new(id)),
            reported: Arc::default(),
        })
    }

    pub(super) fn inbound(&self, key: &InboundKey, reported: &Arc<Notify>) -> InboundEnds {
        let known = self.inbounds.get(key).cloned();
        known.unwrap_or_else(|| {
            let status = InboundStatus::new(key);
            let status = ApplierStatus::Inbound(Box::new(status));
            InboundEnds {
                link: ApplierLink::new(status, reported.clone()),
                passes: Arc::default(),
            }
        })
    }

    pub(super) fn hook(&self, node: NodeId, reported: &Arc<Notify>) -> ApplierLink {
        let known = self.hooks.get(&node).cloned();
        let status = ApplierStatus::Hook(HookStatus::default());
        known.unwrap_or_else(|| ApplierLink::new(status, reported.clone()))
    }

    /// The lock of an inbound, which may well be ours already.
    pub(super) fn lock(&self, parts: &Parts) -> Result<Arc<Lock>, BuildError> {
        match self.locks.get(&parts.observer.folder.lock_file()) {
            Some(held) => Ok(held.clone()),
            None => lock(parts).map(Arc::new),
        }
    }

    /// The links of nodes that are not among those of `next`.
    pub(super) fn gone(&self, next: &Self) -> Vec<NodeLink> {
        let gone = self
            .nodes
            .iter()
            .filter(|(id, _)| !next.nodes.contains_key(id));
        gone.map(|(_, ends)| ends.link.clone()).collect()
    }
}
