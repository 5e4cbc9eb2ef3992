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
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Tasks};
use crate::config::{Config, Hook, Output};
use crate::hook::{HookCall, HookRunner};
use crate::model::ids::NodeId;
use crate::model::user_list::Users;

/// Between two signs of life without an order.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// A hook that was silent for this much longer than its runs can take hangs.
const HANGS_AFTER: Duration = Duration::from_mins(2);

/// What a hook's loop depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeOf {
    hook: Hook,
    output: Output,
    /// Hooks of this agent: they run one at a time, and each may have to wait for all the others.
    turns: u32,
}

/// The loop of one node's hook, ready to run.
pub struct HookTask {
    node: NodeId,
    made_of: MadeOf,
    clock: Clock,
    link: ApplierLink,
}

impl HookTask {
    pub(super) fn new(config: &Config, node: NodeId, clock: Clock, link: ApplierLink) -> Self {
        Self {
            node,
            made_of: MadeOf {
                hook: config.hook.clone(),
                output: config.output.clone(),
                turns: u32::try_from(config.nodes.len()).unwrap_or(u32::MAX),
            },
            clock,
            link,
        }
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The loop of the same node that depends on the same may as well run on.
    pub fn made_of(&self) -> &MadeOf {
        &self.made_of
    }

    /// Hands it over to be run.
    pub fn start(self, tasks: &mut Tasks) {
        let MadeOf {
            hook,
            output,
            turns,
        } = self.made_of;
        let parts = HookParts {
            node: self.node,
            files: NodeFiles::new(&output, self.node),
            runner: HookRunner::new(hook.command.unwrap_or_default(), hook.timeout),
            clock: self.clock,
        };
        let hangs_after = HANGS_AFTER + parts.runner.longest_run().saturating_mul(turns);
        let (name, link) = (format!("hook of node {}", self.node), self.link);
        tasks.watched_task(name, Kind::Leaf, hangs_after, move |shutdown, beat| {
            run(parts.clone(), link.clone(), shutdown, beat)
        });
    }
}

/// What the hook of one node needs.
#[derive(Clone)]
struct HookParts {
    /// The node.
    node: NodeId,
    /// Its files, which are written before an order is given.
    files: NodeFiles,
    /// The command.
    runner: HookRunner,
    /// The clock.
    clock: Clock,
}

/// Runs until the end is asked for.
async fn run(parts: HookParts, link: ApplierLink, mut shutdown: Shutdown, beat: Heartbeat) {
    let mut orders = link.orders();
    orders.mark_changed();
    let mut hook = match parts.files.applied() {
        Ok(applied) => Runs {
            parts,
            applied,
            status: match link.last_report().status {
                ApplierStatus::Hook(status) => status,
                ApplierStatus::Inbound(_) => HookStatus::default(),
            },
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

struct Runs {
    parts: HookParts,
    /// The list with which it last succeeded.
    applied: Option<Users>,
    status: HookStatus,
    said: Said,
}

impl Runs {
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
