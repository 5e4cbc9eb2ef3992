//! Runs the hook of one node after each change of its list, and at every later order until it
//! succeeds.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tracing::{error, info};

use super::link::{ApplierLink, ApplierReport, ApplierStatus, Order};
use super::outputs::NodeFiles;
use super::status::HookStatus;
use crate::base::clock::Clock;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::hook::{HookCall, HookRunner};
use crate::model::ids::NodeId;
use crate::model::user_list::Users;

/// Between two signs of life without an order.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// What the hook of one node needs.
#[derive(Clone)]
pub(super) struct HookParts {
    /// The node.
    pub(super) node: NodeId,
    /// Its files, which are written before an order is given.
    pub(super) files: NodeFiles,
    /// The command.
    pub(super) runner: HookRunner,
    /// The clock.
    pub(super) clock: Clock,
}

/// Runs until the end is asked for.
pub(super) async fn run(
    parts: HookParts,
    link: ApplierLink,
    mut shutdown: Shutdown,
    beat: Heartbeat,
) {
    let mut orders = link.orders();
    orders.mark_changed();
    let mut hook = match parts.files.applied() {
        Ok(applied) => Hook {
            parts,
            applied,
            status: HookStatus::default(),
            said: Said::default(),
        },
        Err(failure) => {
            error!("{failure}");
            return;
        }
    };
    loop {
        beat.beat();
        tokio::select! {
            () = shutdown.requested() => return,
            () = sleep(ALIVE_EVERY) => continue,
            changed = orders.changed() => changed.expect("invariant: the link holds the sender"),
        }
        let order = link.take_order(&mut orders);
        if order.number == 0 {
            continue;
        }
        let done = hook.serve(&order, shutdown.clone()).await;
        let status = ApplierStatus::Hook(hook.status.clone());
        link.report(ApplierReport {
            number: order.number,
            done,
            status,
        });
    }
}

struct Hook {
    parts: HookParts,
    /// The list with which it last succeeded.
    applied: Option<Users>,
    status: HookStatus,
    said: Said,
}

impl Hook {
    /// Whether the order's list is applied now.
    async fn serve(&mut self, order: &Order, mut shutdown: Shutdown) -> bool {
        let Some(users) = &order.users else {
            return true;
        };
        if self.applied.as_ref() == Some(users) {
            return true;
        }
        let call = HookCall {
            node: self.parts.node,
            uuids_file: self.parts.files.text_file(),
            uuids_json: self.parts.files.json_file(),
        };
        self.status.runs += 1;
        let result = self.parts.runner.run(&call, shutdown.requested()).await;
        match &result {
            Ok(done) => {
                info!(node = %self.parts.node, users = users.len(), took = ?done.took, "hook done");
                self.applied = Some(users.clone());
                self.status.last_success = Some(self.now());
                self.status.error = None;
            }
            Err(failure) => {
                self.status.failures += 1;
                self.status.error = Some(failure.to_string());
            }
        }
        let subject = format!("hook of node {}", self.parts.node);
        self.said.state(&subject, self.status.error.as_deref());
        result.is_ok()
    }

    fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }
}
