//! What is written down of a change: who, by which way, what, and whether it was done.
//!
//! Kept here: texts are short and harmless, and none shows a whole UUID, for those are credentials.
//! Pure but for the dice.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::base::redact;

/// Longest name of a channel, action, actor or target, and of a key of the metadata, in characters.
pub(super) const NAME_CHARS_MAX: usize = 200;
/// Longest detail and value of the metadata, in characters.
const DETAIL_CHARS_MAX: usize = 500;
/// Most entries of the metadata.
const METADATA_MAX: usize = 16;

/// A change, as whoever makes it tells of it. Its texts may come from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The way by which it was asked for: `http`, `control`, `cli`.
    pub channel: &'static str,
    /// What was asked: a route's template, or the name of a call.
    pub endpoint: String,
    /// What it does, from the whole to the part: `api.users.import`.
    pub action: String,
    /// Who asked: `api-key:panel`, `ip:127.0.0.1`, `uid:0`.
    pub actor: Option<String>,
    /// What it was done to.
    pub target: Option<String>,
    /// Whether it was done.
    pub success: bool,
    /// Why not, or what there is to say besides.
    pub detail: Option<String>,
    /// Further facts, such as `request_id`.
    pub metadata: BTreeMap<String, String>,
}

/// A change as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditRecord)]
pub struct Entry {
    /// Its number, a UUID v7.
    #[schema(value_type = String)]
    pub id: Uuid,
    /// When it was done, in Unix milliseconds.
    pub timestamp_ms: i64,
    /// The way by which it was asked for: `http`, `control`, `cli`.
    pub channel: String,
    /// What was asked: a route's template, or the name of a call.
    pub endpoint: String,
    /// What it does: `api.users.import`.
    pub action: String,
    /// Who asked, where that is known.
    pub actor: Option<String>,
    /// What it was done to.
    pub target: Option<String>,
    /// Whether it was done.
    pub success: bool,
    /// Why not, or what there is to say besides.
    pub detail: Option<String>,
    /// Further facts.
    pub metadata: BTreeMap<String, String>,
}

impl Entry {
    /// What is kept of a change at this moment.
    pub(super) fn new(record: Record, timestamp_ms: i64) -> Self {
        let metadata = record.metadata.into_iter().take(METADATA_MAX);
        Self {
            id: Uuid::now_v7(),
            timestamp_ms,
            channel: record.channel.to_owned(),
            endpoint: name(&record.endpoint),
            action: name(&record.action),
            actor: record.actor.as_deref().map(name),
            target: record.target.as_deref().map(name),
            success: record.success,
            detail: record.detail.as_deref().map(detail),
            metadata: metadata
                .map(|(key, value)| (name(&key), detail(&value)))
                .collect(),
        }
    }
}

/// A name as it is kept; by this form it is also looked for.
pub(super) fn name(text: &str) -> String {
    redact::line(text, NAME_CHARS_MAX)
}

fn detail(text: &str) -> String {
    redact::line(text, DETAIL_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "aaaaaaaa-0000-4000-8000-00000000000f";

    proptest! {
        #[test]
        fn nothing_that_is_kept_shows_a_whole_uuid_or_is_long(
            before in ".{0,300}",
            after in ".{0,700}",
        ) {
            let text = format!("{before}{ID}{after}");
            let record = Record {
                channel: "http",
                endpoint: text.clone(),
                action: text.clone(),
                actor: Some(text.clone()),
                target: Some(text.clone()),
                detail: Some(text.clone()),
                metadata: (0..40).map(|n| (format!("{n}{text}"), text.clone())).collect(),
                ..Record::default()
            };
            let entry = Entry::new(record, 1);
            let metadata = entry.metadata.iter().flat_map(|(key, value)| [key, value]);
            let single = [&entry.endpoint, &entry.action].into_iter();
            let texts = single.chain(&entry.actor).chain(&entry.target).chain(&entry.detail);
            for kept in texts.chain(metadata) {
                prop_assert!(!kept.contains(ID), "{kept}");
                prop_assert!(!kept.chars().any(char::is_control));
                // An invisible character is written out, in ten at most.
                prop_assert!(kept.chars().count() <= DETAIL_CHARS_MAX * 10);
            }
            prop_assert!(entry.metadata.len() <= METADATA_MAX);
        }
    }
}
