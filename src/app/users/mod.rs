//! Users by hand: who is live, what is known of one, and cutting one off. Looking changes nothing, and
//! nothing that is shown names a user whole.

mod check;
mod kick;
mod listing;

use crate::base::redact;
use crate::config::{ApplyMode, Config, Node};
use crate::model::desired::Desired;
use crate::model::ids::NodeId;
use crate::panel::{Allowed, PanelClient};
use crate::sync::kept;
use crate::sync::look::{Seen, look};
use crate::xray::client::XrayClient;

pub use check::{Checked, CheckedInbound, CheckedNode, check};
pub use kick::{UserError, kick};
pub use listing::{Classes, Listed, ListedInbound, list};

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The panel's client cannot be made.
    #[error("cannot prepare calls to the panel: {0}")]
    Panel(String),
    /// Only a polled panel can be asked about single users.
    #[error("no panel is polled here: users are only pushed")]
    NoPanel,
    /// No such node is configured.
    #[error("node {0} is not configured here; these are: {1}")]
    NoSuchNode(NodeId, String),
}

/// The panel and the Xrays of a configuration, to be asked.
struct Asked<'a> {
    config: &'a Config,
    /// `None`: no panel is polled.
    panel: Option<PanelClient>,
    xrays: Vec<XrayClient>,
    nodes: Vec<&'a Node>,
}

impl<'a> Asked<'a> {
    /// For `node`, or for all.
    fn new(config: &'a Config, node: Option<NodeId>) -> Result<Self, LookError> {
        let nodes = config.nodes.iter();
        let nodes: Vec<_> = nodes
            .filter(|it| node.is_none_or(|id| it.id == id))
            .collect();
        if let (true, Some(id)) = (nodes.is_empty(), node) {
            let all: Vec<_> = config.nodes.iter().map(|it| it.id.to_string()).collect();
            return Err(LookError::NoSuchNode(id, all.join(", ")));
        }
        let panel = config.panel.clone().map(PanelClient::new).transpose();
        Ok(Self {
            config,
            panel: panel.map_err(LookError::Panel)?,
            xrays: config.xrays.iter().cloned().map(XrayClient::new).collect(),
            nodes,
        })
    }

    /// Who is allowed: by the panel now, else by its last good answer, with why it is that one.
    async fn allowed(&self, node: NodeId) -> Desired {
        let Some(panel) = &self.panel else {
            return Desired::Known([].into());
        };
        let why = match panel.allowed(node, None).await {
            Ok(Allowed::List { list, .. }) => return Desired::Known(list.users),
            Ok(Allowed::Unchanged) => "the panel says «unchanged» to a first question".to_owned(),
            Err(error) => error.to_string(),
        };
        let (last_good, why) = match kept::last_answer(&self.config.state_dir, node) {
            Ok(last_good) => (last_good, why),
            Err(error) => (None, format!("{why}; {error}")),
        };
        Desired::Unknown {
            last_good,
            why: why.into(),
        }
    }

    /// Every inbound of `node` that is managed, looked at all at once.
    async fn look(&self, node: &Node, polled: &Desired) -> Vec<(String, String, Looked)> {
        let inbounds = node.inbounds.iter();
        let managed = inbounds.filter(|_| self.config.mode == ApplyMode::XrayGrpc);
        let looks = managed.map(async |inbound| {
            let client = self
                .xrays
                .iter()
                .find(|client| client.name() == inbound.xray)
                .expect("invariant: a configuration names only Xrays that it has");
            let seen = look(self.config, node, inbound, client, polled.clone()).await;
            let seen = seen.map_err(|e| redact::uuids(&e.to_string()));
            (inbound.xray.clone(), inbound.tag.0.clone(), seen)
        });
        futures_util::future::join_all(looks).await
    }
}

/// An inbound as it is, or why that cannot be told.
type Looked = Result<Seen, String>;
