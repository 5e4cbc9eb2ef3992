//! Watches how the users' part stands, and has what becomes of it told: to the registry of nodes how
//! each managed inbound is, to everybody else what begins and what is over.
//!
//! Kept here: nothing waits for this; what is not told because the store is away is told by a later
//! look, as long as it still is so.

mod happenings;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::agent_store::AgentStore;
use super::run::HANGS_AFTER;
use super::running::Running;
use crate::base::redact;
use crate::base::supervise::{Heartbeat, Kind, Shutdown, Supervisor};
use crate::config::{ApplyMode, Config, Inbound, Node};
use crate::registry::inbounds::{Look, Managed};
use crate::sync::engine::Handle;
use crate::sync::status::{InboundStatus, NodeStatus};
use happenings::{Changed, Seen};

/// At the latest after this it looks again, so that it can be seen to live.
const NAP: Duration = Duration::from_secs(20);
/// Characters of a reason.
const WORDS_CHARS_MAX: usize = 300;

/// Has it watched from the start to the end.
pub(super) fn add(running: &Running, store: &AgentStore, supervisor: &mut Supervisor) {
    let (running, store) = (running.clone(), store.clone());
    let watch = move |shutdown, beat| watch(running.clone(), store.clone(), shutdown, beat);
    supervisor
        .tasks()
        .watched_task("watch", Kind::Leaf, HANGS_AFTER, watch);
}

async fn watch(running: Running, store: AgentStore, mut shutdown: Shutdown, heartbeat: Heartbeat) {
    let mut engines = running.changes();
    let mut seen = Seen::default();
    loop {
        // Held no longer than until the next reload: with it the locks of its inbounds are.
        let (sync, config) = {
            let now = engines.borrow_and_update();
            (now.sync.clone(), now.config.clone())
        };
        let mut reports = sync.changes();
        loop {
            heartbeat.beat();
            let nodes = sync.status();
            look_at_inbounds(&store, &config, &nodes).await;
            seen = tell_what_happened(&store, &sync, &nodes, seen).await;
            // All arms are cancel-safe.
            tokio::select! {
                () = shutdown.requested() => return,
                _ = engines.changed() => break,
                () = reports.changed() => {}
                () = sleep(NAP) => {}
            }
        }
    }
}

/// Tells the registry which inbounds are managed, where it does not know, and how each is.
async fn look_at_inbounds(store: &AgentStore, config: &Arc<Config>, nodes: &[NodeStatus]) {
    let managed = managed(config);
    let known = store.registry.inbounds();
    let is_known =
        |(_, inbound): &(&Node, &Inbound)| known.iter().any(|known| known.id == inbound.kernel_id);
    if known.len() != managed.len() || !managed.iter().all(is_known) {
        let all = managed.iter().map(|(_, inbound)| Managed {
            id: inbound.kernel_id.clone(),
            protocol: inbound.protocol.map(|it| it.name().to_owned()),
        });
        if let Err(e) = store.registry.manage(all.collect()).await {
            return debug!("which inbounds there are cannot be written down: {e}");
        }
        // A file that was begun anew knows nothing of the panel, either.
        store.tell_panel(config).await;
    }
    for (node, inbound) in managed {
        let Some(status) = status_of(nodes, node, inbound) else {
            continue;
        };
        let message = status.error.as_ref();
        let look = Look {
            id: inbound.kernel_id.clone(),
            protocol: status.protocol.clone(),
            failures: status.failures,
            message: message.map(|why| redact::line(why, WORDS_CHARS_MAX)),
        };
        if let Err(e) = store.registry.looked(look).await {
            debug!(inbound = inbound.kernel_id, "cannot be written down: {e}");
        }
    }
}

/// In the other modes no inbound is ours.
fn managed(config: &Config) -> Vec<(&Node, &Inbound)> {
    if config.mode != ApplyMode::XrayGrpc {
        return Vec::new();
    }
    let nodes = config.nodes.iter();
    nodes
        .flat_map(|node| node.inbounds.iter().map(move |inbound| (node, inbound)))
        .collect()
}

/// How an inbound is, once a pass was tried.
fn status_of<'a>(
    nodes: &'a [NodeStatus],
    node: &Node,
    inbound: &Inbound,
) -> Option<&'a InboundStatus> {
    let of_node = nodes.iter().find(|status| status.node == node.id)?;
    let mut inbounds = of_node.inbounds.iter();
    let status = inbounds.find(|it| it.xray == inbound.xray && it.tag == inbound.tag.as_str())?;
    status.passed_at.is_some().then_some(status)
}

/// Tells what happened since `before`; how it is now.
async fn tell_what_happened(
    store: &AgentStore,
    sync: &Handle,
    nodes: &[NodeStatus],
    before: Seen,
) -> Seen {
    let passes = sync.tallies().passes.iter();
    let changed: Vec<_> = passes
        .map(|(key, passes)| Changed {
            key: key.clone(),
            added: passes.added.load(Ordering::Relaxed),
            removed: passes.removed.load(Ordering::Relaxed),
        })
        .collect();
    let now = Seen::of(nodes, &changed);
    for happened in now.since(&before) {
        store.tell(happened.name, &happened.payload).await;
    }
    now
}
