//! The last resort against sessions that could not be cut: a routing rule that sends the users' new
//! streams into a blackhole outbound. One rule for each Xray, for all inbounds that are managed there.
//!
//! Keeps: whoever may be served again is out of the rule before he is added.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::sessions::Sessions;
use crate::base::said::Said;
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;

/// The rule's name.
const RULE: &str = "xray-agent-cut";
/// Whoever was not seen for this long has no session any more by which he could come back: the longest
/// that Xray lets one idle is five minutes, unless its policy says otherwise.
const QUIET_FOR: Duration = Duration::from_mins(10);
/// Between two looks at those who are blocked.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Who is blocked in one Xray.
#[derive(Debug)]
pub(in crate::sync) struct Blocks {
    client: XrayClient,
    /// Where blocked users go; `None`: nobody is blocked.
    outbound: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether what an earlier process left was taken away.
    is_clean: bool,
    /// By e-mail, when each was last seen connected.
    blocked: BTreeMap<String, Instant>,
    looked: Option<Instant>,
    /// Whether the rule is not what it should be.
    is_behind: bool,
    said: Said,
}

impl Blocks {
    pub(in crate::sync) fn new(client: XrayClient, outbound: Option<String>) -> Self {
        Self {
            client,
            outbound,
            state: Mutex::default(),
        }
    }

    /// Where blocked users go.
    pub(in crate::sync) fn outbound(&self) -> Option<&String> {
        self.outbound.as_ref()
    }

    /// How many are blocked.
    pub(in crate::sync) async fn len(&self) -> usize {
        self.state.lock().await.blocked.len()
    }

    /// Takes away what an earlier process left: it would block users who are allowed again.
    pub(in crate::sync) async fn begin(&self) {
        let mut state = self.state.lock().await;
        if state.is_clean {
            return;
        }
        match self.client.remove_rule(RULE).await {
            Err(error) if error.is_down() || matches!(error, XrayError::Timeout(_)) => {}
            // Where rules cannot be changed there is none of ours.
            _ => state.is_clean = true,
        }
    }

    /// Sends new streams of those users into the blackhole.
    pub(in crate::sync) async fn block(&self, emails: &BTreeSet<String>) {
        if self.outbound.is_none() {
            return;
        }
        let mut state = self.state.lock().await;
        let before = state.blocked.len();
        let now = Instant::now();
        state
            .blocked
            .extend(emails.iter().map(|email| (email.clone(), now)));
        if state.blocked.len() > before && self.write(&mut state).await {
            info!(
                xray = self.client.name(),
                users = state.blocked.len(),
                "new streams of removed users whose sessions cannot be cut are blocked"
            );
        }
    }

    /// Lets those users through again.
    pub(in crate::sync) async fn release(&self, emails: &[String]) {
        let mut state = self.state.lock().await;
        let before = state.blocked.len();
        for email in emails {
            state.blocked.remove(email);
        }
        if state.blocked.len() < before {
            self.write(&mut state).await;
        }
    }

    /// From time to time: whoever is gone for good is let out of the rule.
    pub(in crate::sync) async fn tend(&self) {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let is_due = state.looked.is_none_or(|looked| now - looked >= LOOK_EVERY);
        if !is_due {
            return;
        }
        state.looked = Some(now);
        if state.is_behind {
            self.write(&mut state).await;
        }
        if state.blocked.is_empty() {
            return;
        }
        let emails: Vec<String> = state.blocked.keys().cloned().collect();
        let mut seen = Sessions::default();
        if let Err(error) = seen.look(&self.client, &emails).await {
            debug!(%error, "cannot see whether blocked users are still connected");
            return;
        }
        for email in seen.emails() {
            state.blocked.insert(email.to_owned(), now);
        }
        let before = state.blocked.len();
        state.blocked.retain(|_, last| now - *last < QUIET_FOR);
        if state.blocked.len() < before {
            self.write(&mut state).await;
        }
    }

    /// Brings the rule to what is to be blocked; whether it worked.
    async fn write(&self, state: &mut State) -> bool {
        let written = if state.blocked.is_empty() {
            self.client.remove_rule(RULE).await
        } else {
            let emails = state.blocked.keys().cloned().collect();
            let outbound = self.outbound.as_deref().unwrap_or_default();
            self.client.replace_rule(RULE, outbound, emails).await
        };
        state.is_behind = written.is_err();
        let Err(error) = written else {
            return true;
        };
        let xray = self.client.name();
        state.said.once("rule", || {
            warn!(xray, %error, "cannot block users by a routing rule (apply.block_outbound): \
                Xray needs \"RoutingService\" among its api services and a \"routing\" section");
        });
        false
    }
}
