//! The managed inbounds as they are now: what the configuration, the last pass and the running Xray
//! say of each.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::ports::Agent;
use crate::base::redact;
use crate::config::Inbound;
use crate::model::ids::NodeId;
use crate::model::ports::PortRange;
use crate::sync::status::InboundStatus;
use crate::xray::inbound::InboundInfo;

/// Longest id that a message repeats, in characters.
const ID_CHARS_MAX: usize = 80;
/// What it speaks, as long as nobody knows.
pub(super) const UNKNOWN: &str = "unknown";

/// A managed inbound.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// The node that it serves.
    pub(super) node: NodeId,
    /// As it is configured.
    pub(super) inbound: Inbound,
    /// After its last pass.
    pub(super) status: Option<InboundStatus>,
    /// As Xray lists it.
    pub(super) info: Option<InboundInfo>,
}

impl Live {
    /// Its name towards panels.
    pub(super) fn id(&self) -> &str {
        &self.inbound.kernel_id
    }

    /// What it speaks.
    pub(super) fn protocol(&self) -> String {
        let listed = self
            .info
            .as_ref()
            .and_then(|info| info.protocol.as_ref().ok());
        let seen = self.status.as_ref().and_then(|it| it.protocol.clone());
        let known = listed.map(|it| it.name().to_owned()).or(seen);
        let configured = || self.inbound.protocol.map(|it| it.name().to_owned());
        known
            .or_else(configured)
            .unwrap_or_else(|| UNKNOWN.to_owned())
    }

    /// Where it listens, as Xray says.
    pub(super) fn listen(&self) -> Option<String> {
        let info = self.info.as_ref()?;
        let ports: Vec<String> = info.ports.iter().copied().map(written).collect();
        let host = info.transport.listen?;
        let host = if host.is_ipv6() {
            format!("[{host}]")
        } else {
            host.to_string()
        };
        (!ports.is_empty()).then(|| format!("{host}:{}", ports.join(",")))
    }

    /// Passes in a row that failed.
    pub(super) fn failures(&self) -> u32 {
        self.status.as_ref().map_or(0, |it| it.failures)
    }

    /// When the last one did, in milliseconds before `now`.
    pub(super) fn failed_before_ms(&self, now: Timestamp) -> Option<u64> {
        let failed_at = self.status.as_ref()?.failed_at?;
        u64::try_from(now.duration_since(failed_at).as_millis()).ok()
    }

    /// Users who are there.
    pub(super) fn users(&self) -> u64 {
        let status = self.status.as_ref();
        status.map_or(0, |it| (it.live + it.foreign) as u64)
    }
}

fn written(range: PortRange) -> String {
    if range.from == range.to {
        range.from.to_string()
    } else {
        format!("{}-{}", range.from, range.to)
    }
}

/// That no inbound has that id, and which there are.
pub(super) fn no_such(id: &str, inbounds: &[Live]) -> String {
    let ids: Vec<&str> = inbounds.iter().map(Live::id).collect();
    let id = redact::line(id, ID_CHARS_MAX);
    if ids.is_empty() {
        format!("there is no node {id:?}: no inbound is managed here")
    } else {
        format!("there is no node {id:?}; those here are {}", ids.join(", "))
    }
}

/// Every managed inbound, as the last passes and the configuration say. Asks nobody.
pub(super) fn known(agent: &dyn Agent) -> Vec<Live> {
    let (config, statuses) = (agent.config(), agent.nodes());
    let mut all = Vec::new();
    for node in &config.nodes {
        let of_node = statuses.iter().find(|status| status.node == node.id);
        for inbound in &node.inbounds {
            let is_own =
                |it: &&InboundStatus| it.xray == inbound.xray && it.tag == inbound.tag.as_str();
            let status = of_node.and_then(|it| it.inbounds.iter().find(is_own));
            all.push(Live {
                node: node.id,
                inbound: inbound.clone(),
                status: status.cloned(),
                info: None,
            });
        }
    }
    all
}

/// The same, with what the running Xrays say.
pub(super) async fn listed(agent: &dyn Agent) -> Vec<Live> {
    let mut all = known(agent);
    let mut names: Vec<String> = all.iter().map(|it| it.inbound.xray.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let asked = names.iter().map(|name| agent.listing(name));
    let answers = join_all(asked).await;
    let listings: BTreeMap<_, _> = names.iter().zip(answers).collect();
    for live in &mut all {
        let listing = listings.get(&live.inbound.xray).and_then(Option::as_ref);
        let mut own = listing.into_iter().flatten();
        live.info = own
            .find(|info| info.tag == live.inbound.tag.as_str())
            .cloned();
    }
    all
}
