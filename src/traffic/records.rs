//! Reports as panels that push users are told of them (`kernel.md`): records with the panel's own numbers.
//! Pure.
//!
//! A user whom the panel knows by no number cannot be told of, nor, to the configured panel, an inbound
//! that has none. A registration is told of an inbound without numbers by its name in Xray only.

use jiff::Timestamp;
use serde::Serialize;

use crate::model::batch::Bindings;
use crate::model::event::EventId;
use crate::model::pushed::Owners;
use crate::model::report::Report;

/// One user's bytes in one inbound.
#[derive(Debug, Serialize)]
pub struct Record {
    user_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    /// Xray's tag: for whoever has no numbers for inbounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    inbound: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding_id: Option<u64>,
    bytes_up: u64,
    bytes_down: u64,
    /// Unix seconds: until when they were counted.
    observed_at: i64,
}

/// What of a record an address needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All numbers.
    Binding,
    /// Only the user's.
    Owner,
}

/// The records of `reports`; `None` where one of them has not all that it needs.
pub fn records(
    reports: &[Report],
    needs: Needs,
    owners: &dyn Owners,
    bindings: &dyn Bindings,
) -> Option<Vec<Record>> {
    let mut records = Vec::with_capacity(reports.len());
    for report in reports {
        let (inbound, owner) = (report.inbound.as_ref()?, owners.owner(report.user)?);
        let binding = bindings.binding(inbound);
        if needs == Needs::Binding && binding.is_none() {
            return None;
        }
        let is_named = needs == Needs::Owner;
        records.push(Record {
            user_id: owner.user_id,
            subscription_id: owner.subscription_id,
            protocol: bindings.protocol(inbound),
            inbound: is_named.then(|| inbound.tag.as_str().to_owned()),
            node_id: binding.map(|it| it.node_id),
            binding_id: binding.map(|it| it.binding_id),
            bytes_up: report.up,
            bytes_down: report.down,
            observed_at: report.until.as_second(),
        });
    }
    Some(records)
}

#[derive(Serialize)]
struct ToPanel<'a> {
    records: &'a [Record],
}

#[derive(Serialize)]
struct ToRegistration<'a> {
    event: &'static str,
    event_id: String,
    occurred_at_ms: i64,
    payload: Empty,
    records: &'a [Record],
}

#[derive(Serialize)]
struct Empty {}

/// What the configured panel is sent.
pub fn to_panel(records: &[Record]) -> Vec<u8> {
    json(&ToPanel { records })
}

/// What a registration is sent.
pub fn to_registration(records: &[Record], event: EventId, now: Timestamp) -> Vec<u8> {
    json(&ToRegistration {
        event: "user.traffic.reported",
        event_id: event.to_string(),
        occurred_at_ms: now.as_millisecond(),
        payload: Empty {},
        records,
    })
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("invariant: texts and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::model::batch::Binding;
    use crate::model::desired::InboundKey;
    use crate::model::ids::{NodeId, UserId};
    use crate::model::pushed::{Owner, Wants};
    use crate::model::report::ReportId;

    struct Panel;

    impl Owners for Panel {
        fn wants(&self, _inbound: &InboundKey, _user: UserId) -> Wants {
            Wants::POLLED
        }

        fn owner(&self, user: UserId) -> Option<Owner> {
            let number = u64::from(user.bytes()[0]);
            (number > 0).then_some(Owner {
                user_id: number,
                subscription_id: number.checked_sub(1).filter(|it| *it > 0),
            })
        }
    }

    impl Bindings for Panel {
        fn binding(&self, inbound: &InboundKey) -> Option<Binding> {
            (inbound.tag.as_str() == "bound").then_some(Binding {
                node_id: 3,
                binding_id: 4,
            })
        }

        fn protocol(&self, inbound: &InboundKey) -> Option<String> {
            (inbound.tag.as_str() == "bound").then(|| "vless".to_owned())
        }
    }

    fn report(user: u8, tag: &str) -> Report {
        Report {
            id: ReportId(Uuid::nil()),
            node: NodeId(9),
            user: UserId::from_bytes([user; 16]),
            up: 5,
            down: u64::MAX,
            inbound: Some(InboundKey::of(NodeId(9), "main", tag)),
            until: Timestamp::from_millisecond(1_700_000_000_900).unwrap(),
        }
    }

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn the_panel_is_told_in_its_own_numbers() {
        let reports = [report(1, "bound"), report(7, "bound")];
        let made = records(&reports, Needs::Binding, &Panel, &Panel).unwrap();
        let rest = json!({"protocol": "vless", "node_id": 3, "binding_id": 4, "bytes_up": 5,
            "bytes_down": u64::MAX, "observed_at": 1_700_000_000});
        let with = |more: Value| {
            let mut record = rest.clone();
            for (name, value) in more.as_object().unwrap() {
                record[name] = value.clone();
            }
            record
        };
        let first = with(json!({"user_id": 1}));
        let second = with(json!({"user_id": 7, "subscription_id": 6}));
        assert_eq!(read(&to_panel(&made)), json!({"records": [first, second]}));
    }

    #[test]
    fn a_registration_needs_no_binding_and_is_told_which_event_it_is() {
        let made = records(&[report(1, "free")], Needs::Owner, &Panel, &Panel).unwrap();
        let event = EventId(Uuid::nil());
        let body = to_registration(&made, event, Timestamp::from_millisecond(1_500).unwrap());
        let record = json!({"user_id": 1, "inbound": "free", "bytes_up": 5, "bytes_down": u64::MAX,
            "observed_at": 1_700_000_000});
        let expected = json!({"event": "user.traffic.reported", "payload": {},
            "event_id": "00000000-0000-0000-0000-000000000000", "occurred_at_ms": 1_500,
            "records": [record]});
        assert_eq!(read(&body), expected);
    }

    #[test]
    fn what_has_not_all_numbers_makes_no_record() {
        let unbound = [report(1, "bound"), report(1, "free")];
        assert!(records(&unbound, Needs::Binding, &Panel, &Panel).is_none());
        assert!(records(&[report(0, "bound")], Needs::Owner, &Panel, &Panel).is_none());
        let by_node = Report {
            inbound: None,
            ..report(1, "bound")
        };
        assert!(records(&[by_node], Needs::Owner, &Panel, &Panel).is_none());
    }
}
