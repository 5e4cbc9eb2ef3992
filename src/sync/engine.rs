//! Puts the loops together: one for each node, one for each inbound, one for each hook. Building
//! touches the state folder only; nothing runs before the supervisor does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::desired::union;
use super::hook_loop::{self, HookParts};
use super::inbound::Parts;
use super::inbound_loop;
use super::kick::by_hand::{ByHand, KickOutcome};
use super::kick::{Blocks, Kicker};
use super::link::{ApplierLink, ApplierStatus, NodeLink};
use super::node::{self, NodeParts};
use super::observe::Observer;
use super::outputs::NodeFiles;
use super::polled::Polled;
use super::pushed::Pushed;
use super::state::StateFolder;
use super::status::{HookStatus, InboundStatus, NodeStatus};
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::lock::{Lock, Taken};
use crate::base::supervise::{Kind, Supervisor};
use crate::config::{ApplyMode, Config, Inbound, Node, Xray};
use crate::hook::HookRunner;
use crate::model::around_removal::AroundRemoval;
use crate::model::cut::Cutter;
use crate::model::desired::{DesiredSource, InboundKey};
use crate::model::email::Emails;
use crate::model::ids::{NodeId, UserId};
use crate::model::progress::Progress;
use crate::model::tally::{Calls, Passes};
use crate::panel::PanelClient;
use crate::xray::client::XrayClient;

/// A loop that was silent for this much longer than the calls in a row that it may wait for hangs.
const HANGS_AFTER: Duration = Duration::from_mins(2);
/// Calls that a pass may make one after the other without a sign of progress.
const CALLS_IN_A_ROW: u32 = 6;

/// Why the engine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The state folder cannot be used.
    #[error("{0}; STATE_DIR (state.dir) must be a folder that the agent may write to")]
    File(#[from] FileError),
    /// The panel's client cannot be made.
    #[error("cannot prepare calls to the panel: {0}")]
    Panel(String),
    /// Somebody else manages the inbound.
    #[error("inbound {0} is being managed by {1}")]
    Managed(String, String),
}

/// What the engine is made of.
#[derive(Clone)]
pub struct Context {
    /// The clock.
    pub clock: Clock,
    /// Who is told how far a long pass has come.
    pub progress: Arc<dyn Progress>,
    /// Sources besides the panel and the pushed sets.
    pub further_sources: Vec<Arc<dyn DesiredSource>>,
    /// Whether nodes poll by themselves.
    pub polls: bool,
    /// Who counts the bytes of users who are removed.
    pub around_removal: Arc<dyn AroundRemoval>,
    /// Who cuts their open sessions; `None`: nobody does.
    pub cutter: Option<Arc<dyn Cutter>>,
}

/// The main job, ready to run.
pub struct Engine {
    nodes: Vec<(NodeParts, NodeLink)>,
    inbounds: Vec<(Parts, ApplierLink)>,
    hooks: Vec<(HookParts, ApplierLink)>,
    locks: Vec<Lock>,
    pushed: Arc<Pushed>,
}

/// A handle to the running engine.
#[derive(Clone)]
pub struct Handle {
    nodes: Vec<(NodeId, NodeLink)>,
    pushed: Arc<Pushed>,
    by_hand: Arc<[ByHand]>,
    tallies: Arc<Tallies>,
    /// Held as long as anybody has a handle.
    _locks: Arc<Vec<Lock>>,
}

/// What was counted since the start.
pub struct Tallies {
    /// Polls of the panel, by HTTP status.
    pub panel: Arc<Calls>,
    /// Calls to every Xray, by gRPC status.
    pub xrays: Vec<(String, Arc<Calls>)>,
    /// Passes over every inbound.
    pub passes: Vec<(InboundKey, Arc<Passes>)>,
}

impl Engine {
    /// Builds everything that `config` names, and takes the lock of each inbound.
    pub fn build(config: &Config, context: &Context) -> Result<Self, BuildError> {
        let panel = config
            .panel
            .clone()
            .expect("invariant: a configuration to run has a panel");
        let panel = PanelClient::new(panel).map_err(BuildError::Panel)?;
        let ids = config.nodes.iter().map(|node| node.id);
        let polled = Arc::new(Polled::open(&config.state_dir, ids)?);
        let keys = keys(config);
        let pushed = Arc::new(Pushed::open(&config.state_dir, keys.iter())?);
        let mut sources: Vec<Arc<dyn DesiredSource>> = vec![polled.clone(), pushed.clone()];
        sources.extend(context.further_sources.iter().cloned());
        let cores = cores(config);

        let mut engine = Self {
            nodes: Vec::new(),
            inbounds: Vec::new(),
            hooks: Vec::new(),
            locks: Vec::new(),
            pushed,
        };
        for node in &config.nodes {
            let reported = Arc::new(Notify::new());
            let appliers = match config.mode {
                ApplyMode::XrayGrpc => {
                    let parts = inbound_parts(config, node, &cores, &sources, context)?;
                    engine.add_inbounds(parts, &reported)?
                }
                ApplyMode::Cmd => vec![engine.add_hook(config, node, context, &reported)],
                ApplyMode::None => Vec::new(),
            };
            let parts = NodeParts {
                id: node.id,
                mode: config.mode,
                panel: panel.clone(),
                polled: polled.clone(),
                files: NodeFiles::new(&config.output, node.id),
                state_file: config
                    .state_dir
                    .join("nodes")
                    .join(format!("node-{}.json", node.id)),
                sync: config.sync.clone(),
                clock: context.clock,
                appliers,
                reported,
                polls: context.polls,
            };
            engine
                .nodes
                .push((parts, NodeLink::new(NodeStatus::new(node.id))));
        }
        Ok(engine)
    }

    fn add_inbounds(
        &mut self,
        all: Vec<Parts>,
        reported: &Arc<Notify>,
    ) -> Result<Vec<ApplierLink>, BuildError> {
        let mut links = Vec::new();
        for parts in all {
            self.locks.push(lock(&parts)?);
            let status = InboundStatus {
                xray: parts.key.xray.clone(),
                tag: parts.key.tag.0.clone(),
                read_back: true,
                ..InboundStatus::default()
            };
            let link = ApplierLink::new(ApplierStatus::Inbound(Box::new(status)), reported.clone());
            links.push(link.clone());
            self.inbounds.push((parts, link));
        }
        Ok(links)
    }

    fn add_hook(
        &mut self,
        config: &Config,
        node: &Node,
        context: &Context,
        reported: &Arc<Notify>,
    ) -> ApplierLink {
        let command = config.hook.command.clone().unwrap_or_default();
        let parts = HookParts {
            node: node.id,
            files: NodeFiles::new(&config.output, node.id),
            runner: HookRunner::new(command, config.hook.timeout),
            clock: context.clock,
        };
        let link = ApplierLink::new(ApplierStatus::Hook(HookStatus::default()), reported.clone());
        self.hooks.push((parts, link.clone()));
        link
    }

    fn tallies(&self) -> Tallies {
        let inbounds = self.inbounds.iter().map(|(parts, _)| parts);
        let mut xrays: Vec<_> = inbounds
            .clone()
            .map(|parts| &parts.observer.client)
            .map(|client| (client.name().to_owned(), client.calls()))
            .collect();
        xrays.sort_by(|(a, _), (b, _)| a.cmp(b));
        xrays.dedup_by(|(a, _), (b, _)| a == b);
        let panel = self.nodes.first().map(|(parts, _)| parts.panel.calls());
        Tallies {
            panel: panel.unwrap_or_default(),
            xrays,
            passes: inbounds
                .map(|parts| (parts.key.clone(), parts.passes.clone()))
                .collect(),
        }
    }

    /// Hands every loop to the supervisor.
    pub fn start(self, supervisor: &mut Supervisor) -> Handle {
        let tallies = Arc::new(self.tallies());
        let by_hand = self
            .inbounds
            .iter()
            .map(|(parts, _)| ByHand::of(parts))
            .collect();
        let nodes = self
            .nodes
            .iter()
            .map(|(parts, link)| (parts.id, link.clone()))
            .collect();
        for (parts, link) in self.nodes {
            let name = format!("node {}", parts.id);
            let hangs_after = HANGS_AFTER + parts.panel.longest_call();
            supervisor.watched_task(
                name,
                Kind::Essential,
                hangs_after,
                move |shutdown, heartbeat| {
                    node::run(parts.clone(), link.clone(), shutdown, heartbeat)
                },
            );
        }
        for (parts, link) in self.inbounds {
            let name = format!("inbound {}", parts.key);
            let hangs_after = HANGS_AFTER + parts.observer.client.longest_call() * CALLS_IN_A_ROW;
            supervisor.watched_task(name, Kind::Essential, hangs_after, move |shutdown, beat| {
                inbound_loop::run(parts.clone(), link.clone(), shutdown, beat)
            });
        }
        for (parts, link) in self.hooks {
            let name = format!("hook of node {}", parts.node);
            supervisor.task(name, Kind::Leaf, move |shutdown, heartbeat| {
                hook_loop::run(parts.clone(), link.clone(), shutdown, heartbeat)
            });
        }
        Handle {
            nodes,
            pushed: self.pushed,
            by_hand,
            tallies,
            _locks: Arc::new(self.locks),
        }
    }
}

impl Handle {
    /// Polls and passes all nodes at once, and waits for the outcome.
    pub async fn sync(&self, is_poll: bool, force: bool) -> Vec<NodeStatus> {
        let asked = self.nodes.iter().map(|(_, link)| link.ask(is_poll, force));
        futures_util::future::join_all(asked).await
    }

    /// Asks all nodes for a poll and a pass, without waiting.
    pub fn ask(&self) {
        for (_, link) in &self.nodes {
            link.request(false, false);
        }
    }

    /// Cuts a user off in every inbound, whether he is still allowed or not.
    pub async fn kick_user(&self, user: UserId) -> Vec<KickOutcome> {
        kick_user(&self.by_hand, user).await
    }

    /// What was counted since the start.
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// How every node stands.
    pub fn status(&self) -> Vec<NodeStatus> {
        self.nodes.iter().map(|(_, link)| link.status()).collect()
    }

    /// Waits until every node has tried a pass.
    pub async fn attempted(&self) {
        for (_, link) in &self.nodes {
            link.attempted().await;
        }
    }

    /// Waits until something is wrong with one of the nodes, and says what.
    pub async fn failed(&self) -> Vec<String> {
        let waits = self.nodes.iter().map(|(_, link)| Box::pin(link.failed()));
        futures_util::future::select_all(waits).await.0
    }

    /// The pushed users.
    pub fn pushed(&self) -> &Arc<Pushed> {
        &self.pushed
    }
}

/// Cuts a user off in these inbounds, all at once.
pub async fn kick_user(inbounds: &[ByHand], user: UserId) -> Vec<KickOutcome> {
    let kicks = inbounds.iter().map(|inbound| inbound.kick(user));
    futures_util::future::join_all(kicks).await
}

/// One Xray, as all its inbounds share it.
#[derive(Clone)]
pub struct Core {
    client: XrayClient,
    blocks: Arc<Blocks>,
}

/// Every Xray.
pub fn cores(config: &Config) -> Vec<Core> {
    let core = |xray: &Xray| {
        let client = XrayClient::new(xray.clone());
        let outbound = config.kick.block_outbound.clone();
        Core {
            blocks: Arc::new(Blocks::new(client.clone(), outbound)),
            client,
        }
    };
    config.xrays.iter().map(core).collect()
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
        let said: Vec<_> = sources.iter().map(|source| source.desired(&key)).collect();
        Ok(Parts {
            served: union(&said).users,
            observer: Observer::new(
                core.client.clone(),
                inbound.clone(),
                folder,
                context.clock,
                config.sync.resync_interval,
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
fn is_alone(config: &Config, inbound: &Inbound) -> bool {
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

fn key(node: &Node, inbound: &Inbound) -> InboundKey {
    InboundKey {
        node: node.id,
        xray: inbound.xray.clone(),
        tag: inbound.tag.clone(),
    }
}

fn keys(config: &Config) -> Vec<InboundKey> {
    config
        .nodes
        .iter()
        .flat_map(|node| node.inbounds.iter().map(move |inbound| key(node, inbound)))
        .collect()
}
