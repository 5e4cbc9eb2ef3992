//! What the state folder holds of users, for whoever only looks at it, be it beside a running agent:
//! nothing is created or set aside, and what makes no sense counts as not there.

use std::path::Path;

use super::desired::union;
use super::managed::key;
use super::node::Kept;
use super::state::{StateFolder, look_at_json};
use super::status::{InboundStatus, NodeStatus};
use super::{polled, pushed};
use crate::base::files::FileError;
use crate::config::{ApplyMode, Config, Inbound, Node};
use crate::model::desired::Desired;
use crate::model::ids::NodeId;
use crate::model::user_list::Users;

/// The users of the panel's last good answer for `node`; `None` where none was kept.
pub fn last_answer(state_dir: &Path, node: NodeId) -> Result<Option<Users>, FileError> {
    polled::kept(state_dir, node)
}

/// Every node as it was left: allowed by the last good answer, live as last applied, and who was held.
pub fn nodes(config: &Config) -> Result<Vec<NodeStatus>, FileError> {
    config.nodes.iter().map(|of| node(config, of)).collect()
}

fn node(config: &Config, node: &Node) -> Result<NodeStatus, FileError> {
    // Of a panel that is polled no more nothing holds.
    let answer = match config.panel {
        Some(_) => last_answer(&config.state_dir, node.id)?,
        None => None,
    };
    let file = format!("nodes/node-{}.json", node.id);
    let kept: Kept = look_at_json(&config.state_dir.join(file))?.unwrap_or_default();
    let allowed = answer.as_deref().unwrap_or_default();
    let inbounds = node
        .inbounds
        .iter()
        .filter(|_| config.mode == ApplyMode::XrayGrpc)
        .map(|of| inbound(config, node, of, answer.as_ref()));
    Ok(NodeStatus {
        allowed: answer.as_ref().map(|users| users.len()),
        held: kept.absences.held(allowed).len(),
        inbounds: inbounds.collect::<Result<_, _>>()?,
        ..NodeStatus::new(node.id).of_panel(config.panel.is_some())
    })
}

fn inbound(
    config: &Config,
    node: &Node,
    inbound: &Inbound,
    answer: Option<&Users>,
) -> Result<InboundStatus, FileError> {
    let key = key(node, inbound);
    let state = StateFolder::to_look_at(&config.state_dir, &key).state()?;
    let polled = Desired::Unknown {
        last_good: answer.cloned(),
        why: "no agent runs".into(),
    };
    let pushed = pushed::kept(&config.state_dir, &key, state.form)?;
    let pushed_users = pushed.users().map_or(0, |users| users.len());
    let wanted = union(&[polled.into(), pushed]).users;
    Ok(InboundStatus {
        xray: key.xray,
        tag: key.tag.0,
        desired: wanted.len(),
        pushed: pushed_users,
        live: state.applied_count,
        held: state.absences.held(&wanted).len(),
        read_back: true,
        ..InboundStatus::default()
    })
}
