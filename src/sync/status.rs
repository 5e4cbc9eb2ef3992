//! What is shown of the main job: plain data, made by the loops, read by status and by whoever asked
//! for a pass.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::desired::InboundKey;
use crate::model::ids::NodeId;

/// While Xray is away it is asked four times a second. A restart of it takes some seconds at most, and is
/// not to look like a failure for good.
const FAILURES_APART: SignedDuration = SignedDuration::from_secs(1);

/// One managed inbound after its last pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundStatus {
    /// The Xray's name.
    pub xray: String,
    /// Xray's tag.
    pub tag: String,
    /// Its protocol, once it is known.
    pub protocol: Option<String>,
    /// The kind of core, once it is known: `xray`, or `v2ray` for a V2Ray 4.
    #[serde(default)]
    pub core: Option<String>,
    /// Users who should be there.
    pub desired: usize,
    /// How many of them were pushed, some of whom the polled panel may want, too.
    #[serde(default)]
    pub pushed: usize,
    /// Users of ours who are there.
    pub live: usize,
    /// Users who are not ours.
    pub foreign: usize,
    /// Users of ours whose removal waits for further polls.
    pub held: usize,
    /// Polls that must agree before those go, and in how many they were absent.
    pub held_polls: Option<(u32, u32)>,
    /// Users not added because Xray would take them for another one, or a foreign one has their
    /// secret.
    pub conflicts: usize,
    /// Users for whom a call failed.
    pub failed: usize,
    /// Users added by the last pass, in all its rounds.
    pub added: usize,
    /// Users removed by the last pass.
    pub removed: usize,
    /// Whether this core lets us read its users back; otherwise what we applied is taken for live.
    pub read_back: bool,
    /// The open sessions of those who were removed.
    #[serde(default)]
    pub kick: KickStatus,
    /// When a pass last left nothing to do.
    pub last_success: Option<Timestamp>,
    /// Why the last pass did not.
    pub error: Option<String>,
    /// Whether Xray did not answer it.
    #[serde(default)]
    pub away: bool,
    /// When the last pass was over, however it went; `None`: none was since the agent started.
    #[serde(default)]
    pub passed_at: Option<Timestamp>,
    /// Passes that failed, one after the other; 0 after one that did not. Those of one second count as
    /// one.
    #[serde(default)]
    pub failures: u32,
    /// When the last of them failed.
    #[serde(default)]
    pub failed_at: Option<Timestamp>,
    /// How often Xray was seen to have been started anew, since the agent started.
    #[serde(default)]
    pub xray_restarts: u64,
    /// Sources that cannot be read, and why; while there is one, nobody is removed.
    pub unknown_sources: Vec<String>,
}

/// The cutting of an inbound's open sessions. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KickStatus {
    /// Whether sessions are to be cut at all.
    pub enabled: bool,
    /// Why they cannot be cut, or may be out of reach, where that is known beforehand.
    pub obstacle: Option<String>,
    /// Users whose sessions were cut.
    pub users: u64,
    /// Sockets destroyed.
    pub sockets: u64,
    /// Users who were removed and may be connected still.
    pub not_cut: u64,
    /// Users of this Xray whose new streams are blocked now.
    pub blocked: usize,
    /// The last time.
    pub last: Option<LastKick>,
}

/// Sessions that were cut at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKick {
    /// When it was done.
    pub at: Timestamp,
    /// Users who were cut off.
    pub users: usize,
    /// Sockets destroyed.
    pub sockets: usize,
    /// Users who may be connected still.
    pub not_cut: usize,
    /// Milliseconds since the panel's answer had come by which they were removed.
    pub after_answer_ms: Option<u64>,
}

/// The hook of a node after its last run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Runs since the start.
    pub runs: u64,
    /// How many of them failed.
    #[serde(default)]
    pub failures: u64,
    /// When it last succeeded.
    pub last_success: Option<Timestamp>,
    /// Why the last run did not.
    pub error: Option<String>,
}

/// One node after its last pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The panel's id.
    pub node: NodeId,
    /// Whether a panel is polled; else users are only pushed.
    #[serde(default = "is_polled")]
    pub polled: bool,
    /// Users that the panel allows, by its last good answer.
    pub allowed: Option<usize>,
    /// Entries of that answer that are no UUID.
    pub malformed: usize,
    /// Users whose removal from the files waits for further polls.
    pub held: usize,
    /// When the last good answer came.
    pub answered_at: Option<Timestamp>,
    /// Why the last poll got none.
    pub panel_error: Option<String>,
    /// Why the files could not be written.
    pub files_error: Option<String>,
    /// Its inbounds, in `xray-grpc` mode.
    pub inbounds: Vec<InboundStatus>,
    /// Its hook, in `cmd` mode.
    pub hook: Option<HookStatus>,
}

/// Every agent that does not say polls.
fn is_polled() -> bool {
    true
}

impl NodeStatus {
    /// A node of which nothing is known yet.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            polled: true,
            allowed: None,
            malformed: 0,
            held: 0,
            answered_at: None,
            panel_error: None,
            files_error: None,
            inbounds: Vec::new(),
            hook: None,
        }
    }

    /// A node of a configuration that may name no panel to poll: what one said before is gone then.
    #[must_use]
    pub fn of_panel(self, polled: bool) -> Self {
        if polled {
            return Self { polled, ..self };
        }
        Self {
            polled,
            allowed: None,
            malformed: 0,
            answered_at: None,
            panel_error: None,
            ..self
        }
    }

    /// Everything that went wrong in the last pass, one line each.
    pub fn problems(&self) -> Vec<String> {
        let node = self.node;
        let own = [("panel", &self.panel_error), ("files", &self.files_error)];
        let mut all: Vec<String> = own
            .into_iter()
            .filter_map(|(what, why)| {
                why.as_ref()
                    .map(|why| format!("node {node}: {what}: {why}"))
            })
            .collect();
        for inbound in &self.inbounds {
            all.extend(
                inbound
                    .problem()
                    .map(|why| format!("node {node}: {}: {why}", inbound.tag)),
            );
        }
        if self.held > 0 && self.inbounds.is_empty() {
            all.push(format!(
                "node {node}: {} users stay in the files until further answers agree \
                 (`xray-agent sync --force` lets them go)",
                self.held
            ));
        }
        let hook = self.hook.as_ref().and_then(|hook| hook.error.as_ref());
        all.extend(hook.map(|why| format!("node {node}: hook: {why}")));
        all
    }
}

impl InboundStatus {
    /// One of which nothing is known yet.
    pub fn new(key: &InboundKey) -> Self {
        Self {
            xray: key.xray.clone(),
            tag: key.tag.0.clone(),
            read_back: true,
            ..Self::default()
        }
    }

    /// A pass is over, and what became of it is noted.
    pub(super) fn passed(&mut self, now: Timestamp) {
        self.passed_at = Some(now);
        if self.error.is_none() {
            self.failures = 0;
            return;
        }
        // Less than nothing: the clock was set back.
        let since = self.failed_at.map(|at| now.duration_since(at));
        let is_another = since.is_none_or(|it| it >= FAILURES_APART || it.is_negative());
        if self.failures == 0 || is_another {
            self.failures = self.failures.saturating_add(1);
            self.failed_at = Some(now);
        }
    }

    /// Why the inbound is not as it should be, if it is not.
    pub fn problem(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let (needed, seen) = self.held_polls?;
        Some(format!(
            "{} removals are held: absent from {seen} of the {needed} answers that must agree \
             (`xray-agent sync --force` lets them through)",
            self.held
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_once_a_second_until_a_pass_does_not_fail() {
        let mut status = InboundStatus {
            error: Some("away".to_owned()),
            ..InboundStatus::default()
        };
        let at = |ms: i64| Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap();
        let mut counts = Vec::new();
        for ms in [0, 250, 999, 1_000, 1_250, 2_500, 100] {
            status.passed(at(ms));
            counts.push(status.failures);
        }
        assert_eq!(counts, [1, 1, 1, 2, 2, 3, 4]);
        assert_eq!(status.failed_at, Some(at(100)));
        status.error = None;
        status.passed(at(200));
        assert_eq!((status.failures, status.passed_at), (0, Some(at(200))));
        status.error = Some("away".to_owned());
        status.passed(at(300));
        assert_eq!(status.failures, 1);
    }
}
