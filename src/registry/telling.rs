//! Node events of nodes and inbounds. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::inbounds::Inbound;
use super::lives::{Change, What};
use crate::model::event::{Event, EventName};
use crate::model::health::Health;

/// What is said where nobody knows what a node speaks.
const UNKNOWN: &str = "unknown";

/// A node event's payload.
#[derive(Serialize)]
struct Payload<'a> {
    event: &'static str,
    node_id: &'a str,
    protocol: &'a str,
    status: &'static str,
    message: Option<&'a str>,
    triggered_at: Timestamp,
}

/// The event of a registered node's change.
pub(super) fn of_node(change: &Change, now: Timestamp) -> Event {
    let node = &change.node;
    let payload = |event| Payload {
        event,
        node_id: &node.node.id,
        protocol: &node.node.protocol,
        status: node.health.word(),
        message: node.message.as_deref(),
        triggered_at: now,
    };
    event(name_of(change.what), now, payload)
}

/// The event of a managed inbound's change.
pub(super) fn of_inbound(inbound: &Inbound, what: What, now: Timestamp) -> Event {
    let payload = |event| Payload {
        event,
        node_id: &inbound.id,
        protocol: inbound.protocol.as_deref().unwrap_or(UNKNOWN),
        status: inbound.health.word(),
        message: inbound.message.as_deref(),
        triggered_at: now,
    };
    event(name_of(what), now, payload)
}

fn name_of(what: What) -> EventName {
    match what {
        What::Added => EventName::NodeAdded,
        What::Removed => EventName::NodeRemoved,
        What::Is(Health::Healthy) => EventName::NodeHealthy,
        What::Is(Health::Degraded { .. }) => EventName::NodeDegraded,
        What::Is(Health::Unhealthy { .. }) => EventName::NodeUnhealthy,
    }
}

fn event<'a>(
    name: EventName,
    now: Timestamp,
    payload: impl Fn(&'static str) -> Payload<'a>,
) -> Event {
    Event::new(name, now, &payload(name.name())).expect("invariant: texts in a struct are JSON")
}
