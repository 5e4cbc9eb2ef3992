//! The inbounds that a configuration has us manage, and what the loop of each needs.

use std::sync::Arc;

use super::desired::union;
use super::engine::{BuildError, Context};
use super::inbound::Parts;
use super::kick::{Blocks, Kicker};
use super::observe::Observer;
use super::pushed;
use super::state::StateFolder;
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::lock::{Lock, Taken};
use crate::config::{Config, Inbound, Node, Xray};
use crate::model::desired::{DesiredSource, InboundKey};
use crate::model::email::Emails;
use crate::xray::client::XrayClient;

/// One Xray, as all its inbounds share it.
#[derive(Clone)]
pub struct Core {
    client: XrayClient,
    blocks: Arc<Blocks>,
}

/// Every Xray. One that is among those `before`, as it is configured now, is the same.
pub fn cores(config: &Config, before: &[Core]) -> Vec<Core> {
    let outbound = &config.kick.block_outbound;
    let core = |xray: &Xray| {
        let same = before
            .iter()
            .find(|core| core.is_of(xray, outbound.as_ref()));
        same.cloned().unwrap_or_else(|| {
            let client = XrayClient::new(xray.clone());
            let blocks = Blocks::new(client.clone(), outbound.clone());
            Core {
                blocks: Arc::new(blocks),
                client,
            }
        })
    };
    config.xrays.iter().map(core).collect()
}

impl Core {
    /// Its API's client.
    pub(super) fn client(&self) -> &XrayClient {
        &self.client
    }

    fn is_of(&self, xray: &Xray, outbound: Option<&String>) -> bool {
        self.client.config() == xray && self.blocks.outbound() == outbound
    }
}

/// What the inbounds of `node` need.
pub fn inbound_parts(
    config: &Config,
    node: &Node,
    cores: &[Core],
    sources: &[Arc<dyn DesiredSource>],
    context: &Context,
) -> Result<Vec<Parts>, FileError> {
    let parts = node.inbounds.iter().map(|inbound| {
        let key = key(node, inbound);
        let folder = StateFolder::open(&config.state_dir, &key, context.clock)?;
        let core = cores
            .iter()
            .find(|core| core.client.name() == inbound.xray)
            .expect("invariant: a configuration names only Xrays that it has");
        let form = folder.state()?.form;
        let said = sources.iter().map(|source| source.desired(&key, form));
        let said: Vec<_> = said.collect();
        Ok(Parts {
            served: union(&said).users,
            observer: Observer::new(
                core.client.clone(),
                inbound.clone(),
                folder,
                context.clock,
                config.sync.resync_interval,
                pushed::kept_key(&config.state_dir)?,
            ),
            key,
            sources: sources.to_vec(),
            brake: config.sync.brake,
            interval: config.sync.interval,
            alone: is_alone(config, inbound),
            progress: context.progress.clone(),
            passes: Arc::default(),
            around_removal: context.around_removal.clone(),
            kicker: Kicker {
                client: core.client.clone(),
                cutter: context.cutter.clone().filter(|_| config.kick.enabled),
                looks_ahead: context.polls,
                blocks: core.blocks.clone(),
            },
        })
    });
    parts.collect()
}

/// Every managed inbound with the e-mails that it writes and knows, in the order of the configuration:
/// for whoever has to tell whose a counter is.
pub fn emails(config: &Config, clock: Clock) -> Result<Vec<(InboundKey, Emails)>, FileError> {
    let inbounds = config
        .nodes
        .iter()
        .flat_map(|node| node.inbounds.iter().map(move |inbound| (node, inbound)));
    let emails = inbounds.map(|(node, inbound)| {
        let key = key(node, inbound);
        let state = StateFolder::open(&config.state_dir, &key, clock)?.state()?;
        let emails = state.emails_of(&inbound.kernel_id, is_alone(config, inbound));
        Ok((key, emails))
    });
    emails.collect()
}

/// Whether no other inbound of the same Xray is managed.
pub(super) fn is_alone(config: &Config, inbound: &Inbound) -> bool {
    let all = config.nodes.iter().flat_map(|node| &node.inbounds);
    all.filter(|other| other.xray == inbound.xray).count() == 1
}

/// Takes the lock of an inbound: two agents on one would undo each other's work.
pub fn lock(parts: &Parts) -> Result<Lock, BuildError> {
    let holder = format!("xray-agent, process {}", std::process::id());
    match Lock::try_take(&parts.observer.folder.lock_file(), &holder)? {
        Taken::Held(lock) => Ok(lock),
        Taken::Busy(who) => Err(BuildError::Managed(parts.key.to_string(), who)),
    }
}

pub(super) fn key(node: &Node, inbound: &Inbound) -> InboundKey {
    InboundKey {
        node: node.id,
        xray: inbound.xray.clone(),
        tag: inbound.tag.clone(),
    }
}

pub(super) fn keys(config: &Config) -> Vec<InboundKey> {
    config
        .nodes
        .iter()
        .flat_map(|node| node.inbounds.iter().map(move |inbound| key(node, inbound)))
        .collect()
}
