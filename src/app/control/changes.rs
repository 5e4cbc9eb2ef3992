//! Which calls of the control socket change something, and what the audit keeps of them. Pure.

use serde_json::Value;

use crate::audit::Record;
use crate::control::{Call, Caller};
use crate::model::report::Decision;

/// By which way these come.
const CHANNEL: &str = "control";

/// What is kept of a call that was answered so; `None`: it changes nothing.
pub(super) fn record(call: Call, caller: Caller, answer: &Value) -> Option<Record> {
    let (endpoint, action, target) = match call {
        Call::Sync { force: true } => ("sync", "control.sync.force", None),
        Call::Kick { user } => ("kick", "control.users.kick", Some(user.to_string())),
        Call::Reload {} => ("reload", "control.reload", None),
        Call::Decide { id, decision } => {
            let action = match decision {
                Decision::Delivered => "control.traffic.delivered",
                Decision::NotDelivered => "control.traffic.not-delivered",
                Decision::Retry => "control.traffic.retry",
            };
            ("decide", action, Some(id.to_string()))
        }
        Call::OutboxReplay { target, .. } => {
            ("outbox", "control.outbox.replay", Some(target.to_string()))
        }
        Call::OutboxEnable { target } => {
            ("outbox", "control.outbox.enable", Some(target.to_string()))
        }
        Call::Sync { force: false }
        | Call::Status {}
        | Call::Metrics { .. }
        | Call::Collect {}
        | Call::Outbox {}
        | Call::OutboxGivenUp { .. } => return None,
    };
    let error = answer.get("error").and_then(Value::as_str);
    Some(Record {
        channel: CHANNEL,
        endpoint: endpoint.to_owned(),
        action: action.to_owned(),
        actor: Some(caller.to_string()),
        target,
        success: answer.get("error").is_none(),
        detail: error.map(str::to_owned),
        ..Record::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROOT: Caller = Caller { uid: Some(0) };

    #[test]
    fn only_what_changes_something_is_kept() {
        let done = json!({ "nodes": [] });
        for call in [
            Call::Status {},
            Call::Collect {},
            Call::Sync { force: false },
        ] {
            assert_eq!(record(call, ROOT, &done), None);
        }
        let forced = record(Call::Sync { force: true }, ROOT, &done).unwrap();
        assert_eq!(forced.action, "control.sync.force");
        assert_eq!(forced.actor.as_deref(), Some("uid:0"));
        assert!(forced.success);
    }

    #[test]
    fn a_call_that_failed_is_kept_with_its_reason() {
        let failed = json!({ "error": "the file makes no sense" });
        let reload = record(Call::Reload {}, Caller { uid: None }, &failed).unwrap();
        assert!(!reload.success);
        assert_eq!(reload.detail.as_deref(), Some("the file makes no sense"));
        assert_eq!(reload.actor.as_deref(), Some("local"));
    }
}
