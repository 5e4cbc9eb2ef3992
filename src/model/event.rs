//! Events: what happened, told to whoever listens. Names are those of the contracts, in the three
//! spellings that they have there; an event is serialised as the streams of the kernel API carry it.

use std::fmt;

use jiff::Timestamp;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

/// What an event takes in memory beside its payload, in bytes: itself, its place, its allocations.
const OVERHEAD_BYTES: usize = 160;

/// An event's number, a UUID v7: the SSE `id:`, `X-Event-Id`, `webhook-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// A new one, greater than all that this process has made, as long as the clock does not step.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads what a client gives back, for example as `Last-Event-ID`.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text.trim()).ok().map(Self)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Which filter of a stream lets an event through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A node's coming, going and health.
    Node,
    /// A user's quota and traffic.
    Service,
    /// The agent itself, its Xrays, panels, jobs, probes and alerts.
    Runtime,
}

impl Topic {
    /// As `events=` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Service => "service",
            Self::Runtime => "runtime",
        }
    }

    /// The topic that `events=` names.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Node, Self::Service, Self::Runtime]
            .into_iter()
            .find(|topic| topic.name() == text.trim().to_ascii_lowercase())
    }
}

/// Variants with their names and topics.
macro_rules! names {
    ($($variant:ident $name:literal $topic:ident $said:literal;)*) => {
        /// What kind of thing happened. Kinds only grow: clients ignore those that they do not know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventName {
            $(#[doc = $said] $variant,)*
        }

        impl EventName {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// With underscores: the RPC's `event_type`, and how a name is kept.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Its topic.
            pub const fn topic(self) -> Topic {
                match self { $(Self::$variant => Topic::$topic,)* }
            }
        }
    };
}

names! {
    NodeAdded "node_added" Node "A node is there.";
    NodeRemoved "node_removed" Node "A node is no longer there.";
    NodeHealthy "node_healthy" Node "A node is well again.";
    NodeDegraded "node_degraded" Node "A node fails, but not for long yet.";
    NodeUnhealthy "node_unhealthy" Node "A node fails.";
    UserQuotaChanged "user_quota_changed" Service "A user's quota in force changed.";
    UserTrafficReported "user_traffic_reported" Service "A user's bytes went to the kernel panel.";
    AgentStarted "agent_started" Runtime "The agent started.";
    AgentStopping "agent_stopping" Runtime "The agent was asked to end.";
    ConfigReloaded "config_reloaded" Runtime "Another configuration is in force.";
    UsersSynced "users_synced" Runtime "A sync changed users.";
    UserAdded "user_added" Runtime "A user was added to Xray.";
    UserRemoved "user_removed" Runtime "A user was removed from Xray.";
    RemovalHeld "removal_held" Runtime "The brake holds removals.";
    SyncFailed "sync_failed" Runtime "A sync failed.";
    XrayRestarted "xray_restarted" Runtime "An Xray was started anew.";
    XrayUnreachable "xray_unreachable" Runtime "An Xray does not answer.";
    XrayReachable "xray_reachable" Runtime "An Xray answers again.";
    PanelUnreachable "panel_unreachable" Runtime "The panel does not answer.";
    PanelReachable "panel_reachable" Runtime "The panel answers again.";
    TrafficReported "traffic_reported" Runtime "The panel took reports of traffic.";
    TrafficRejected "traffic_rejected" Runtime "The panel refused a report of traffic.";
    JobFinished "job_finished" Runtime "A run of a job is over.";
    ProbeResult "probe_result" Runtime "A probe is done.";
    MonitorStatusChanged "monitor_status_changed" Runtime "A monitor is up or down.";
    AlertFired "alert_fired" Runtime "An alert fires.";
    AlertResolved "alert_resolved" Runtime "An alert is over.";
    AlertAcknowledged "alert_acknowledged" Runtime "Somebody took an alert.";
}

impl EventName {
    /// The kind that a text means: in any case, with `.` and `-` read as `_`.
    pub fn parse(text: &str) -> Option<Self> {
        let read = text.trim().to_ascii_lowercase().replace(['.', '-'], "_");
        Self::ALL.iter().copied().find(|name| name.name() == read)
    }

    /// As `core.yaml` spells it in registrations and deliveries: `node_healthy`,
    /// `user.quota.changed`.
    pub fn core_name(self) -> String {
        match self.topic() {
            Topic::Service => self.name().replace('_', "."),
            Topic::Node | Topic::Runtime => self.name().to_owned(),
        }
    }

    /// As the kernel API's streams name it: `node.degraded`, `user.quota.changed`,
    /// `runtime.users_synced`.
    pub fn stream_name(self) -> String {
        match self.topic() {
            Topic::Node => self.name().replacen('_', ".", 1),
            Topic::Service => self.name().replace('_', "."),
            Topic::Runtime => format!("runtime.{}", self.name()),
        }
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that happened. What it says is serialised once, however many hear of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub id: EventId,
    /// Its kind.
    pub name: EventName,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// What there is to say of it, JSON.
    pub payload: Box<RawValue>,
}

impl Event {
    /// A new one. Fails where `payload` cannot be JSON: a map whose keys are not texts.
    pub fn new(
        name: EventName,
        occurred_at: Timestamp,
        payload: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id: EventId::generate(),
            name,
            occurred_at,
            payload: to_raw_value(payload)?,
        })
    }

    /// About what it takes in memory, in bytes.
    pub fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.payload.get().len()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Event", 4)?;
        fields.serialize_field("event", &self.name.stream_name())?;
        fields.serialize_field("event_id", &self.id)?;
        fields.serialize_field("occurred_at_ms", &self.occurred_at.as_millisecond())?;
        fields.serialize_field("payload", &self.payload)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_read_in_every_spelling_and_told_apart() {
        for name in EventName::ALL {
            let dashed = name.core_name().replace('.', "-").to_uppercase();
            for text in [name.name(), &name.core_name(), &dashed] {
                assert_eq!(EventName::parse(text), Some(*name), "{text}");
            }
        }
        assert_eq!(EventName::parse("node_"), None);
    }

    #[test]
    fn names_are_spelled_as_the_contract_has_them() {
        let names = [
            (EventName::NodeDegraded, "node_degraded", "node.degraded"),
            (
                EventName::UserQuotaChanged,
                "user.quota.changed",
                "user.quota.changed",
            ),
            (
                EventName::UserTrafficReported,
                "user.traffic.reported",
                "user.traffic.reported",
            ),
        ];
        for (name, core, stream) in names {
            assert_eq!((&*name.core_name(), &*name.stream_name()), (core, stream));
        }
    }

    #[test]
    fn an_event_is_serialised_as_the_streams_carry_it() {
        let at = Timestamp::from_millisecond(1_733_965_196_123).unwrap();
        let payload = json!({"event": "node_degraded", "node_id": "edge-1"});
        let event = Event::new(EventName::NodeDegraded, at, &payload).unwrap();
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            json!({
                "event": "node.degraded",
                "event_id": event.id.to_string(),
                "occurred_at_ms": 1_733_965_196_123_i64,
                "payload": payload,
            })
        );
        assert_eq!(EventId::parse(&event.id.to_string()), Some(event.id));
    }

    #[test]
    fn numbers_grow() {
        let ids: Vec<_> = (0..1_000).map(|_| EventId::generate()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }
}
