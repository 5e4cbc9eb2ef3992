//! What an inbound's cutting comes to: what is known beforehand of whether it works, what was cut and
//! what was not, each told once in the log and kept for the status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, info};

use super::prospect::{Lists, Prospect};
use super::{Kicked, Kicker, ports};
use crate::base::said::Said;
use crate::model::cut::Cutter;
use crate::model::desired::InboundKey;
use crate::model::ports::PortRange;
use crate::model::tally::Passes;
use crate::sync::status::{KickStatus, LastKick};
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;
use crate::xray::inbound::InboundInfo;

/// Between two looks at whether cutting would work, where something was in the way: its being mended
/// should be seen soon.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Where nothing was. Each look wakes the unit that cuts, which sleeps when nobody needs it.
const LOOK_EVERY: Duration = Duration::from_mins(15);
/// Of so many users it is asked whether they came in, until one is found by whom Xray's policy is seen.
const SAMPLE: usize = 16;

/// The cutting of one inbound.
pub(in crate::sync) struct Record {
    kicker: Kicker,
    key: InboundKey,
    /// Whose policy decides whether Xray tells who is connected.
    level: u32,
    prospect: Prospect,
    looked: Option<Instant>,
    /// Whether something was in the way then; a doubt is not.
    obstructed: bool,
    /// Where in the list of users the next sample begins.
    from: usize,
    status: KickStatus,
    passes: Arc<Passes>,
    said: Said,
}

impl Record {
    pub(in crate::sync) fn new(
        kicker: Kicker,
        key: InboundKey,
        level: u32,
        passes: Arc<Passes>,
    ) -> Self {
        let status = KickStatus {
            enabled: kicker.cutter.is_some(),
            ..KickStatus::default()
        };
        let prospect = Prospect {
            remote: kicker.client.may_be_remote(),
            ..Prospect::default()
        };
        Self {
            kicker,
            key,
            level,
            prospect,
            looked: None,
            obstructed: false,
            from: 0,
            status,
            passes,
            said: Said::default(),
        }
    }

    pub(in crate::sync) fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    /// Goes on counting from there.
    pub(in crate::sync) fn resume(&mut self, before: &KickStatus) {
        self.status = KickStatus {
            enabled: self.status.enabled,
            obstacle: self.status.obstacle.take(),
            ..before.clone()
        };
    }

    pub(in crate::sync) fn status(&self) -> KickStatus {
        self.status.clone()
    }

    /// Sees, from time to time, whether cutting would work, and tells what is in the way. `emails`:
    /// those of the users who are live, by their place.
    pub(in crate::sync) async fn look_ahead(
        &mut self,
        info: Option<&InboundInfo>,
        emails: impl Fn(usize) -> Option<String>,
    ) {
        self.status.blocked = self.kicker.blocks.len().await;
        let Some(cutter) = self.kicker.cutter.clone() else {
            return;
        };
        if !self.kicker.looks_ahead {
            return;
        }
        let now = Instant::now();
        let pause = if self.obstructed {
            LOOK_AGAIN
        } else {
            LOOK_EVERY
        };
        let is_due = self.looked.is_none_or(|looked| now - looked >= pause);
        if !is_due && self.prospect.info.as_ref() == info {
            return;
        }
        self.looked = Some(now);
        self.prospect.info = info.cloned();
        if let Some(lists) = lists(&self.kicker.client, &mut self.from, emails).await {
            self.prospect.lists = lists;
        }
        let ports = self.kicker.ports(info);
        let obstacle = obstacle(&self.prospect, self.level, &*cutter, &ports).await;
        let subject = format!("cutting open sessions in {}", self.key);
        self.said.state(&subject, obstacle.as_deref());
        self.obstructed = obstacle.is_some();
        // A doubt is for who asks: whoever then cannot be cut is told.
        self.status.obstacle = obstacle.or_else(|| self.prospect.doubt());
    }

    /// Notes what became of sessions; `answered`: when the panel's answer came by which they were cut.
    pub(in crate::sync) fn note(
        &mut self,
        kicked: &Kicked,
        answered: Option<Timestamp>,
        now: Timestamp,
    ) {
        if kicked.online.is_empty() {
            // What was known beforehand is said.
            if let (Some(why), None) = (&kicked.why, &self.status.obstacle) {
                self.said.failure(format!(
                    "cannot see whether removed users are connected: {why}"
                ));
            }
            return;
        }
        let (cut, not_cut) = (kicked.cut(), kicked.not_cut.len());
        self.status.users += cut as u64;
        self.status.sockets += kicked.sockets as u64;
        self.status.not_cut += not_cut as u64;
        let took = answered.and_then(|at| u64::try_from(now.duration_since(at).as_millis()).ok());
        if let Some(ms) = took {
            self.passes.cut_after.count(Duration::from_millis(ms));
        }
        self.status.last = Some(LastKick {
            at: now,
            users: cut,
            sockets: kicked.sockets,
            not_cut,
            after_answer_ms: took,
        });
        info!(node = %self.key.node, xray = self.key.xray, inbound = %self.key.tag, users = cut,
            sockets = kicked.sockets, not_cut, "open sessions cut");
        if let Some(why) = &kicked.why {
            self.said
                .failure(format!("{not_cut} users could not be cut off: {why}"));
        } else {
            debug!(after_answer_ms = took, "cut");
        }
    }
}

/// What can be known of cutting an inbound's sessions before anybody has to be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// Whether Xray's policy has it keep lists of who is connected; `None`: nobody has come in yet by
    /// whom it could be seen, or this core has no such lists.
    pub lists_kept: Option<bool>,
    /// Why sessions cannot be cut, if it is known that they cannot.
    pub obstacle: Option<String>,
    /// Why they may be out of reach, if there is nothing worse.
    pub doubt: Option<String>,
}

/// Looks at that once, cutting and changing nothing; `emails`: those of the inbound's users.
pub async fn foresee(
    client: &XrayClient,
    cutter: &dyn Cutter,
    level: u32,
    info: Option<&InboundInfo>,
    emails: &[String],
) -> Foreseen {
    let known = lists(client, &mut 0, |place| emails.get(place).cloned()).await;
    let prospect = Prospect {
        info: info.cloned(),
        lists: known.unwrap_or_default(),
        remote: client.may_be_remote(),
    };
    Foreseen {
        lists_kept: match prospect.lists {
            Lists::Unseen | Lists::Lacking => None,
            Lists::Kept => Some(true),
            Lists::NotKept => Some(false),
        },
        obstacle: obstacle(&prospect, level, cutter, &ports(client, info)).await,
        doubt: prospect.doubt(),
    }
}

async fn obstacle(
    prospect: &Prospect,
    level: u32,
    cutter: &dyn Cutter,
    ports: &[PortRange],
) -> Option<String> {
    match prospect.obstacle(level) {
        Some(obstacle) => Some(obstacle),
        None => cutter.obstacle(ports).await.map(|obstacle| obstacle.0),
    }
}

/// Whether Xray tells who is connected, if it can be seen now. The look begins with the user at the
/// place `from`, and leaves there where the next is to begin.
async fn lists(
    client: &XrayClient,
    from: &mut usize,
    emails: impl Fn(usize) -> Option<String>,
) -> Option<Lists> {
    if let Err(XrayError::Unimplemented(_)) = client.online_addresses("").await {
        return Some(Lists::Lacking);
    }
    for _ in 0..SAMPLE {
        let email = emails(*from).or_else(|| emails(0))?;
        *from = if emails(*from + 1).is_some() {
            *from + 1
        } else {
            0
        };
        // In this order: who comes in meanwhile has a list by the time that it is asked for.
        let has_moved_bytes = client.has_counter(&email).await.ok()?;
        if client.online_addresses(&email).await.ok()?.is_some() {
            return Some(Lists::Kept);
        }
        if has_moved_bytes {
            return Some(Lists::NotKept);
        }
    }
    None
}
