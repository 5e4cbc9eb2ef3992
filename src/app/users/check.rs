//! What is known of one user: whether the panel lets him in, whether he is live, and his bytes, by the
//! panel's books and by ours.

use futures_util::future::{join, join_all};
use serde::Serialize;

use super::{Asked, LookError, Looked};
use crate::app::ledger;
use crate::config::{ApplyMode, Config, Node};
use crate::model::desired::Desired;
use crate::model::ids::{NodeId, UserId};
use crate::panel::{Booked, PanelClient, Verdict};
use crate::sync::kept;
use crate::traffic::ledger::views::{self, NodeTotals};

/// What is known of a user.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// His first 8 characters.
    pub user: String,
    /// Every node that was asked about.
    pub nodes: Vec<CheckedNode>,
    /// What the panel has booked for him.
    pub booked: Option<Booked>,
    /// Why that is not known.
    pub booked_error: Option<String>,
    /// His bytes in our ledger, by node and sink; `None` without a ledger.
    pub ledger: Option<Vec<NodeTotals>>,
    /// Why those are not known.
    pub ledger_error: Option<String>,
}

/// He at one node.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedNode {
    /// The panel's id.
    pub node: NodeId,
    /// What the panel says when it is asked about him.
    pub auth: Option<Verdict>,
    /// Why it does not say.
    pub auth_error: Option<String>,
    /// Whether he is in its last good list, by which users are applied; `None` without one.
    pub listed: Option<bool>,
    /// Why that list cannot be read.
    pub listed_error: Option<String>,
    /// Whether he is served here: live in an inbound, or, where no Xray is changed, in the list.
    pub served: bool,
    /// The node's managed inbounds.
    pub inbounds: Vec<CheckedInbound>,
}

/// He in one inbound.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedInbound {
    /// The Xray's name.
    pub xray: String,
    /// Xray's tag.
    pub tag: String,
    /// Whether he is live there; `None`: Xray cannot tell.
    pub live: Option<bool>,
    /// Whether the brake holds his removal.
    pub held: bool,
    /// Why Xray cannot tell.
    pub error: Option<String>,
}

impl Checked {
    /// Whether he can use at least one node: the panel allows it, and he is served there.
    pub fn is_served(&self) -> bool {
        let allows = |node: &CheckedNode| node.auth.as_ref().is_some_and(|it| it.allow);
        self.nodes.iter().any(|node| allows(node) && node.served)
    }
}

/// Asks about `user` at `node`, or at all.
pub async fn check(
    config: &Config,
    user: UserId,
    node: Option<NodeId>,
) -> Result<Checked, LookError> {
    let asked = Asked::new(config, node)?;
    let panel = asked.panel.as_ref().ok_or(LookError::NoPanel)?;
    let nodes = asked
        .nodes
        .iter()
        .map(|node| one(&asked, panel, node, user));
    let (nodes, booked) = join(join_all(nodes), panel.booked(user)).await;
    let (booked, booked_error) = told(booked);
    let of_user = ledger::look(&config.state_dir, |ledger| views::of_user(ledger, user));
    let (ledger, ledger_error) = told(of_user);
    Ok(Checked {
        user: user.short(),
        nodes,
        booked,
        booked_error,
        ledger: ledger.flatten(),
        ledger_error,
    })
}

/// What there is, and else why not.
fn told<T, E: ToString>(outcome: Result<T, E>) -> (Option<T>, Option<String>) {
    match outcome {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

async fn one(asked: &Asked<'_>, panel: &PanelClient, node: &Node, user: UserId) -> CheckedNode {
    let (list, listed_error) = told(kept::last_answer(&asked.config.state_dir, node.id));
    let list = list.flatten();
    let listed = list.as_ref().map(|it| it.binary_search(&user).is_ok());
    let polled = Desired::Unknown {
        last_good: list,
        why: "as it was left".into(),
    };
    let (looked, auth) = join(asked.look(node, &polled), panel.auth(user, node.id)).await;
    let (auth, auth_error) = told(auth);
    let inbounds: Vec<_> = looked.into_iter().map(|it| inbound(it, user)).collect();
    let served = match asked.config.mode {
        ApplyMode::XrayGrpc => inbounds.iter().any(|inbound| inbound.live == Some(true)),
        ApplyMode::Cmd | ApplyMode::None => listed == Some(true),
    };
    CheckedNode {
        node: node.id,
        auth,
        auth_error,
        listed,
        listed_error,
        served,
        inbounds,
    }
}

fn inbound((xray, tag, looked): (String, String, Looked), user: UserId) -> CheckedInbound {
    let seen = looked.as_ref().ok();
    CheckedInbound {
        xray,
        tag,
        live: seen.map(|seen| seen.known.live.has(user)),
        held: seen.is_some_and(|seen| seen.held.binary_search(&user).is_ok()),
        error: looked.as_ref().err().cloned(),
    }
}
