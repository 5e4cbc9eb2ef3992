//! The bodies of callbacks (`kernel.md`, Events out), as pure functions of an event.
//!
//! Kept here: a body is given only to a form that the event is for. `user.traffic.reported` is none of
//! these: what it carries must never be given up, so it is a sink of the ledger.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::delivery::Render;
use crate::model::event::{Event, EventName, Topic};

/// Bodies of node events.
pub const FORM_NODE: &str = "node";
/// Bodies of service events.
pub const FORM_SERVICE: &str = "service";

/// Writes bodies for whoever registered a callback, and for the panel of the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Callbacks;

impl Render for Callbacks {
    fn body(&self, _owner: &str, form: &str, event: &Event) -> Option<String> {
        match form {
            FORM_NODE => node_body(event),
            FORM_SERVICE => service_body(event),
            _ => None,
        }
    }
}

/// What the payload of a node event says.
#[derive(Deserialize)]
struct OfNode {
    node_id: String,
    #[serde(default)]
    protocol: Value,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    message: Value,
}

/// The body of a callback for node events; `None`: the event is none.
pub fn node_body(event: &Event) -> Option<String> {
    if event.name.topic() != Topic::Node {
        return None;
    }
    let said: OfNode = serde_json::from_str(event.payload.get()).ok()?;
    let body = json!({
        "event": event.name.core_name(),
        "id": said.node_id,
        "node_id": said.node_id,
        "protocol": said.protocol,
        "status": said.status,
        "message": said.message,
        "observed_at": event.occurred_at.as_second(),
    });
    Some(body.to_string())
}

/// The body of a callback for service events; `None`: the event is none, or is told by the ledger.
pub fn service_body(event: &Event) -> Option<String> {
    if event.name.topic() != Topic::Service || event.name == EventName::UserTrafficReported {
        return None;
    }
    let body = json!({
        "event": event.name.core_name(),
        "event_id": event.id,
        "occurred_at_ms": event.occurred_at.as_millisecond(),
        "payload": event.payload,
        "records": [],
    });
    Some(body.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn event(name: EventName, payload: &Value) -> Event {
        let at = Timestamp::from_millisecond(1_733_965_196_999).unwrap();
        Event::new(name, at, payload).unwrap()
    }

    fn body(form: &str, event: &Event) -> Option<Value> {
        let body = Callbacks.body("kernel", form, event)?;
        Some(serde_json::from_str(&body).unwrap())
    }

    #[test]
    fn a_node_event_is_told_as_the_contract_says() {
        let payload = json!({
            "event": "node_healthy", "node_id": "edge-1", "protocol": "vless",
            "status": "healthy", "message": null, "triggered_at": "2024-12-12T00:59:56Z",
        });
        let right = json!({
            "event": "node_healthy", "id": "edge-1", "node_id": "edge-1", "protocol": "vless",
            "status": "healthy", "message": null, "observed_at": 1_733_965_196,
        });
        let event = event(EventName::NodeHealthy, &payload);
        assert_eq!(body(FORM_NODE, &event), Some(right));
        assert_eq!(body(FORM_SERVICE, &event), None);
    }

    #[test]
    fn a_service_event_is_told_as_the_contract_says() {
        let payload = json!({"user_id": "7", "current": {"used": 1, "remaining": 2}});
        let event = event(EventName::UserQuotaChanged, &payload);
        let right = json!({
            "event": "user.quota.changed", "event_id": event.id.to_string(),
            "occurred_at_ms": 1_733_965_196_999_i64, "payload": payload, "records": [],
        });
        assert_eq!(body(FORM_SERVICE, &event), Some(right));
        assert_eq!(body(FORM_NODE, &event), None);
    }

    #[test]
    fn traffic_and_the_agents_own_events_are_no_callbacks() {
        for name in [EventName::UserTrafficReported, EventName::AgentStarted] {
            for form in [FORM_NODE, FORM_SERVICE, "another"] {
                let event = event(name, &json!({"node_id": "edge-1"}));
                assert_eq!(body(form, &event), None, "{name} {form}");
            }
        }
    }
}
