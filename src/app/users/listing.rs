//! Who is live in each inbound, against who is allowed there.

use serde::Serialize;

use super::{Asked, LookError, Looked};
use crate::base::redact;
use crate::config::{Config, Node};
use crate::model::desired::Desired;
use crate::model::ids::{NodeId, UserId};

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The panel's id.
    pub node: NodeId,
    /// Users whom the panel allows; `None`: nobody knows, or none is polled.
    pub allowed: Option<usize>,
    /// Why the panel's answer of now is not known. What is shown is its last good one then, if there is.
    pub panel_error: Option<String>,
    /// Its managed inbounds; none, where no Xray is changed.
    pub inbounds: Vec<ListedInbound>,
}

/// One inbound.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ListedInbound {
    /// The Xray's name.
    pub xray: String,
    /// Xray's tag.
    pub tag: String,
    /// Why Xray cannot tell; nothing below is known then.
    pub error: Option<String>,
    /// Its protocol.
    pub protocol: Option<&'static str>,
    /// Whether this core lists its users; else what was applied is taken for live.
    pub read_back: bool,
    /// Users who are allowed there, pushed ones among them; `None`: nobody knows.
    pub allowed: Option<usize>,
    /// How many of them were pushed.
    pub pushed: usize,
    /// Users of ours who are live.
    pub live: usize,
    /// Those who make a difference.
    #[serde(flatten)]
    pub classes: Classes,
}

/// Users by their first 8 characters, and foreign e-mails with users in them cut so.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Classes {
    /// Allowed and not live.
    pub missing: Vec<String>,
    /// Live and not allowed.
    pub extra: Vec<String>,
    /// Of those: whose removal waits for further polls.
    pub held: Vec<String>,
    /// Allowed and live, with another spelling, flow, level or secret than is written.
    pub altered: Vec<String>,
    /// Allowed, and left out, for another user has their secret.
    pub conflicts: Vec<String>,
    /// E-mails of users who are not ours.
    pub foreign: Vec<String>,
}

/// Looks at `node`, or at all.
pub async fn list(config: &Config, node: Option<NodeId>) -> Result<Vec<Listed>, LookError> {
    let asked = Asked::new(config, node)?;
    let nodes = asked.nodes.iter().map(|node| one(&asked, node));
    Ok(futures_util::future::join_all(nodes).await)
}

async fn one(asked: &Asked<'_>, node: &Node) -> Listed {
    let polled = asked.allowed(node.id).await;
    let is_polled = asked.panel.is_some();
    let (allowed, panel_error) = match &polled {
        Desired::Known(users) => (is_polled.then_some(users.len()), None),
        Desired::Unknown { last_good, why } => {
            let allowed = last_good.as_ref().map(|users| users.len());
            (allowed, Some(why.to_string()))
        }
    };
    let looked = asked.look(node, &polled).await.into_iter();
    Listed {
        node: node.id,
        allowed,
        panel_error,
        inbounds: looked
            .map(|(xray, tag, seen)| inbound(xray, tag, seen, allowed.is_some() || !is_polled))
            .collect(),
    }
}

/// Where nobody knows who is allowed, nobody is told to be missing or too many.
fn inbound(xray: String, tag: String, seen: Looked, is_judged: bool) -> ListedInbound {
    let named = ListedInbound {
        xray,
        tag,
        ..ListedInbound::default()
    };
    let seen = match seen {
        Ok(seen) => seen,
        Err(why) => {
            let error = Some(why);
            return ListedInbound { error, ..named };
        }
    };
    let known = &seen.known;
    let mut foreign: Vec<_> = known
        .live
        .foreign
        .iter()
        .map(|entry| redact::uuids(&entry.email))
        .collect();
    foreign.sort();
    let mut classes = Classes {
        foreign,
        ..Classes::default()
    };
    if is_judged {
        let drift = seen.drift();
        classes.missing = short(&drift.missing);
        classes.extra = short(&drift.extra);
        classes.held = short(&seen.held);
        classes.altered = short(&drift.altered);
        classes.conflicts = short(&drift.conflicts);
    }
    ListedInbound {
        protocol: Some(known.spec.kind.protocol().name()),
        read_back: known.read_back,
        allowed: is_judged.then_some(seen.wanted.users.len()),
        pushed: seen.pushed,
        live: known.live.managed(),
        classes,
        ..named
    }
}

fn short(users: &[UserId]) -> Vec<String> {
    users.iter().map(UserId::short).collect()
}
