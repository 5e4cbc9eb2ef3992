//! What happened between two looks at how everything stands: the agent's own events. Pure.
//!
//! Invariant: what goes on is told when it begins, and once; nothing that is told holds a whole UUID.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::redact;
use crate::model::desired::InboundKey;
use crate::model::event::EventName;
use crate::model::ids::{InboundTag, NodeId};
use crate::sync::status::{InboundStatus, NodeStatus};

/// Characters of a reason.
const WORDS_CHARS_MAX: usize = 300;

/// Users changed in an inbound since the agent started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct Changed {
    pub(in crate::app) key: InboundKey,
    pub(in crate::app) added: u64,
    pub(in crate::app) removed: u64,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::app) struct Happened {
    pub(in crate::app) name: EventName,
    pub(in crate::app) payload: Value,
}

/// How everything stood at a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::app) struct Seen {
    /// Why the panel answered no node, if it answered none.
    panel: Option<String>,
    xrays: BTreeMap<String, OfXray>,
    /// Why files or hook of a node failed.
    nodes: BTreeMap<NodeId, Option<String>>,
    inbounds: BTreeMap<InboundKey, OfInbound>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfXray {
    away: Option<String>,
    restarts: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfInbound {
    /// Why its last pass failed, where Xray did answer.
    error: Option<String>,
    held: usize,
    polls: Option<(u32, u32)>,
    live: usize,
    failed: usize,
    added: u64,
    removed: u64,
}

impl Seen {
    /// What there is to be seen now.
    pub(in crate::app) fn of(nodes: &[NodeStatus], changed: &[Changed]) -> Self {
        let mut seen = Self {
            panel: silent_panel(nodes),
            ..Self::default()
        };
        for node in nodes {
            let hook = node.hook.as_ref().and_then(|hook| hook.error.as_ref());
            let error = node.files_error.as_ref().or(hook);
            seen.nodes.insert(node.node, error.map(|why| words(why)));
            for inbound in &node.inbounds {
                seen.add(node.node, inbound, changed);
            }
        }
        seen
    }

    fn add(&mut self, node: NodeId, inbound: &InboundStatus, changed: &[Changed]) {
        let key = InboundKey {
            node,
            xray: inbound.xray.clone(),
            tag: InboundTag(inbound.tag.clone()),
        };
        let error = inbound.error.as_deref().map(words);
        let xray = self.xrays.entry(inbound.xray.clone()).or_default();
        xray.restarts = xray.restarts.max(inbound.xray_restarts);
        if inbound.away {
            xray.away.clone_from(&error);
        }
        let counts = changed.iter().find(|changed| changed.key == key);
        let of_inbound = OfInbound {
            error: error.filter(|_| !inbound.away),
            held: inbound.held,
            polls: inbound.held_polls,
            live: inbound.live,
            failed: inbound.failed,
            added: counts.map_or(0, |counts| counts.added),
            removed: counts.map_or(0, |counts| counts.removed),
        };
        self.inbounds.insert(key, of_inbound);
    }

    /// What happened since `before`.
    pub(in crate::app) fn since(&self, before: &Self) -> Vec<Happened> {
        let mut happened = Vec::new();
        happened.extend(turned(
            (before.panel.as_ref(), self.panel.as_ref()),
            (EventName::PanelUnreachable, EventName::PanelReachable),
            &json!({}),
        ));
        for (name, now) in &self.xrays {
            happened.extend(of_xray(name, before.xrays.get(name), now));
        }
        for (node, error) in &self.nodes {
            let before = before.nodes.get(node).is_some_and(Option::is_some);
            if let (false, Some(why)) = (before, error) {
                let payload = json!({ "node_id": node, "message": why });
                happened.push(Happened::new(EventName::SyncFailed, payload));
            }
        }
        let nothing = OfInbound::default();
        for (key, now) in &self.inbounds {
            let before = before.inbounds.get(key).unwrap_or(&nothing);
            happened.extend(of_inbound(key, before, now));
        }
        happened
    }
}

impl Happened {
    fn new(name: EventName, payload: Value) -> Self {
        Self { name, payload }
    }
}

/// One answer is enough to say that the panel is there.
fn silent_panel(nodes: &[NodeStatus]) -> Option<String> {
    let errors: Vec<_> = nodes.iter().map(|node| node.panel_error.as_ref()).collect();
    let are_all = errors.iter().all(Option::is_some);
    errors
        .into_iter()
        .flatten()
        .next()
        .filter(|_| are_all)
        .map(|why| words(why))
}

fn of_xray(name: &str, before: Option<&OfXray>, now: &OfXray) -> Vec<Happened> {
    let mut happened = Vec::new();
    let away = before.and_then(|before| before.away.as_ref());
    happened.extend(turned(
        (away, now.away.as_ref()),
        (EventName::XrayUnreachable, EventName::XrayReachable),
        &json!({ "xray": name }),
    ));
    if before.is_some_and(|before| before.restarts < now.restarts) {
        let payload = json!({ "xray": name });
        happened.push(Happened::new(EventName::XrayRestarted, payload));
    }
    happened
}

fn of_inbound(key: &InboundKey, before: &OfInbound, now: &OfInbound) -> Vec<Happened> {
    let about = json!({ "node_id": key.node, "xray": key.xray, "inbound": key.tag });
    let with = |more: Value| merged(about.clone(), more);
    let mut happened = Vec::new();
    let added = now.added.saturating_sub(before.added);
    let removed = now.removed.saturating_sub(before.removed);
    if added + removed > 0 {
        let counts = json!({
            "added": added, "removed": removed, "failed": now.failed, "live": now.live,
        });
        happened.push(Happened::new(EventName::UsersSynced, with(counts)));
    }
    if before.held == 0 && now.held > 0 {
        let (needed, seen) = now.polls.unwrap_or_default();
        let held = json!({ "held": now.held, "polls_needed": needed, "polls_seen": seen });
        happened.push(Happened::new(EventName::RemovalHeld, with(held)));
    }
    if let (None, Some(why)) = (&before.error, &now.error) {
        let failed = with(json!({ "message": why }));
        happened.push(Happened::new(EventName::SyncFailed, failed));
    }
    happened
}

/// What begins and ends is told at both.
fn turned(
    (before, now): (Option<&String>, Option<&String>),
    (begins, ends): (EventName, EventName),
    about: &Value,
) -> Option<Happened> {
    match (before, now) {
        (None, Some(why)) => {
            let payload = merged(about.clone(), json!({ "message": why }));
            Some(Happened::new(begins, payload))
        }
        (Some(_), None) => Some(Happened::new(ends, about.clone())),
        _ => None,
    }
}

fn merged(mut about: Value, more: Value) -> Value {
    if let (Value::Object(about), Value::Object(more)) = (&mut about, more) {
        about.extend(more);
    }
    about
}

fn words(text: &str) -> String {
    redact::line(text, WORDS_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound() -> InboundStatus {
        InboundStatus {
            xray: "xray".to_owned(),
            tag: "in".to_owned(),
            ..InboundStatus::default()
        }
    }

    fn seen(inbound: InboundStatus, added: u64) -> Seen {
        let node = NodeStatus {
            inbounds: vec![inbound],
            ..NodeStatus::new(NodeId(1))
        };
        let key = InboundKey {
            node: NodeId(1),
            xray: "xray".to_owned(),
            tag: InboundTag("in".to_owned()),
        };
        let changed = Changed {
            key,
            added,
            removed: 0,
        };
        Seen::of(&[node], &[changed])
    }

    fn names(now: &Seen, before: &Seen) -> Vec<EventName> {
        let happened = now.since(before).into_iter();
        happened.map(|happened| happened.name).collect()
    }

    #[test]
    fn what_goes_on_is_told_when_it_begins_and_when_it_ends() {
        let well = seen(inbound(), 0);
        let away = InboundStatus {
            away: true,
            error: Some("refused".to_owned()),
            ..inbound()
        };
        let away = seen(away, 0);
        assert_eq!(names(&away, &well), [EventName::XrayUnreachable]);
        assert_eq!(names(&away, &away), []);
        let back = InboundStatus {
            xray_restarts: 1,
            ..inbound()
        };
        let back = seen(back, 2);
        let told = [
            EventName::XrayReachable,
            EventName::XrayRestarted,
            EventName::UsersSynced,
        ];
        assert_eq!(names(&back, &away), told);
        assert_eq!(names(&back, &back), []);
    }

    #[test]
    fn a_failed_pass_and_held_removals_are_told_once() {
        let well = seen(inbound(), 0);
        let failing = InboundStatus {
            error: Some("2 users could not be changed".to_owned()),
            held: 30,
            held_polls: Some((2, 1)),
            ..inbound()
        };
        let failing = seen(failing, 0);
        let told = [EventName::RemovalHeld, EventName::SyncFailed];
        assert_eq!(names(&failing, &well), told);
        assert_eq!(names(&failing, &failing), []);
        assert_eq!(names(&well, &failing), []);
    }

    #[test]
    fn a_panel_that_answers_for_one_node_is_there() {
        let silent = |node| NodeStatus {
            panel_error: Some("no answer".to_owned()),
            ..NodeStatus::new(NodeId(node))
        };
        let none = Seen::of(&[silent(1), silent(2)], &[]);
        let one = Seen::of(&[silent(1), NodeStatus::new(NodeId(2))], &[]);
        assert_eq!(names(&none, &one), [EventName::PanelUnreachable]);
        assert_eq!(names(&one, &none), [EventName::PanelReachable]);
        assert_eq!(names(&one, &Seen::default()), []);
    }

    #[test]
    fn no_user_is_told_whole() {
        let user = "3d3c8a3e-6a3f-4a0c-9f51-0a3ed1f0a111";
        let failing = InboundStatus {
            error: Some(format!("the user {user} is in the way")),
            ..inbound()
        };
        let told = seen(failing, 0).since(&seen(inbound(), 0));
        let text = told[0].payload.to_string();
        assert!(text.contains(&user[..8]) && !text.contains(user), "{text}");
    }
}
