//! Puts the loops together: one for each node, one for each inbound, one for each hook. Building
//! touches the state folder only; nothing runs before the supervisor does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::carried::{Carried, NodeEnds};
use super::inbound::Parts;
use super::inbound_loop;
use super::kick::by_hand::{ByHand, KickOutcome};
use super::link::{ApplierLink, NodeLink, NodeReport};
use super::node::{self, NodeParts, Polling};
use super::outputs::NodeFiles;
use super::polled::Polled;
use super::pushed::quota::QuotaWatch;
use super::pushed::{self, Pushed};
use super::status::NodeStatus;
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::supervise::{Kind, Tasks};
use crate::config::{ApplyMode, Config, Node};
use crate::model::around_removal::AroundRemoval;
use crate::model::cut::Cutter;
use crate::model::desired::{DesiredSource, InboundKey};
use crate::model::ids::{NodeId, UserId};
use crate::model::progress::Progress;
use crate::model::tally::{Calls, Passes};
use crate::model::user_list::Users;
use crate::panel::PanelClient;
use crate::xray::client::XrayClient;

pub use super::hook_loop::{HookTask, MadeOf};
pub use super::managed::{Core, cores, emails, inbound_parts, lock};

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
    /// Who is told of pushed users' quotas.
    pub quota_watch: Arc<dyn QuotaWatch>,
}

/// The main job, ready to run.
pub struct Engine {
    nodes: Vec<(NodeParts, NodeLink)>,
    inbounds: Vec<(Parts, ApplierLink)>,
    hooks: Vec<HookTask>,
    pushed: Arc<Pushed>,
    polled: Option<Arc<Polled>>,
    quota_watch: Arc<dyn QuotaWatch>,
    carried: Carried,
    /// Nodes of the run before that are none of this one.
    gone: Vec<NodeLink>,
}

/// A handle to the running engine.
#[derive(Clone)]
pub struct Handle {
    nodes: Vec<(NodeId, NodeLink)>,
    pushed: Arc<Pushed>,
    by_hand: Arc<[ByHand]>,
    tallies: Arc<Tallies>,
    /// With the inbounds' locks: held as long as anybody has a handle.
    carried: Arc<Carried>,
}

/// Nodes' reports, for whoever holds the handle that they are of.
pub struct Changes(Vec<watch::Receiver<NodeReport>>);

/// What was counted since the start.
pub struct Tallies {
    /// Polls of the panel, by HTTP status.
    pub panel: Arc<Calls>,
    /// Calls to every Xray, by gRPC status.
    pub xrays: Vec<(String, Arc<Calls>)>,
    /// Passes over every inbound.
    pub passes: Vec<(InboundKey, Arc<Passes>)>,
}

/// What all nodes have in common.
struct Common<'a> {
    config: &'a Config,
    context: &'a Context,
    panel: Option<PanelClient>,
    polled: Option<Arc<Polled>>,
    sources: Vec<Arc<dyn DesiredSource>>,
}

impl Engine {
    /// Builds everything that `config` names, and takes the lock of each inbound.
    pub fn build(config: &Config, context: &Context) -> Result<Self, BuildError> {
        let engine = Self::assemble(config, context, &Carried::default())?;
        // Nothing was there before that would need what was.
        engine.pushed.polled_by(engine.polled.clone());
        Ok(engine)
    }

    /// The same for what takes the place of `before`, with the same state folder. Nothing changes for
    /// that as long as this is not started; it is to be ended first.
    pub fn rebuild(
        config: &Config,
        context: &Context,
        before: &Handle,
    ) -> Result<Self, BuildError> {
        Self::assemble(config, context, &before.carried)
    }

    fn assemble(config: &Config, context: &Context, before: &Carried) -> Result<Self, BuildError> {
        let panel = before.panel(config)?;
        let (polled, pushed) = (
            before.polled(config)?,
            before.pushed(config, context.clock)?,
        );
        let mut sources: Vec<Arc<dyn DesiredSource>> = Vec::new();
        sources.extend(
            polled
                .clone()
                .map(|polled| polled as Arc<dyn DesiredSource>),
        );
        sources.push(pushed.clone());
        sources.extend(context.further_sources.iter().cloned());
        let mut engine = Self {
            nodes: Vec::new(),
            inbounds: Vec::new(),
            hooks: Vec::new(),
            carried: Carried {
                panel: panel.clone(),
                polled: polled.clone(),
                pushed: Some(pushed.clone()),
                cores: cores(config, &before.cores),
                ..Carried::default()
            },
            pushed,
            polled: polled.clone(),
            quota_watch: context.quota_watch.clone(),
            gone: Vec::new(),
        };
        let common = Common {
            config,
            context,
            panel,
            polled,
            sources,
        };
        for node in &config.nodes {
            engine.add_node(node, &common, before)?;
        }
        engine.gone = before.gone(&engine.carried);
        Ok(engine)
    }

    fn add_node(
        &mut self,
        node: &Node,
        common: &Common<'_>,
        before: &Carried,
    ) -> Result<(), BuildError> {
        let (config, context) = (common.config, common.context);
        let NodeEnds { link, reported } = before.node(node.id);
        let appliers = match config.mode {
            ApplyMode::XrayGrpc => self.add_inbounds(node, common, before, &reported)?,
            ApplyMode::Cmd => vec![self.add_hook(node, common, before, &reported)],
            ApplyMode::None => Vec::new(),
        };
        let panel = common.panel.clone().zip(common.polled.clone());
        let parts = NodeParts {
            id: node.id,
            mode: config.mode,
            panel: panel.map(|(client, polled)| Polling { client, polled }),
            files: NodeFiles::new(&config.output, node.id),
            state_file: config
                .state_dir
                .join("nodes")
                .join(format!("node-{}.json", node.id)),
            sync: config.sync.clone(),
            clock: context.clock,
            appliers,
            reported: reported.clone(),
            polls: context.polls,
        };
        self.nodes.push((parts, link.clone()));
        self.carried
            .nodes
            .insert(node.id, NodeEnds { link, reported });
        Ok(())
    }

    fn add_inbounds(
        &mut self,
        node: &Node,
        common: &Common<'_>,
        before: &Carried,
        reported: &Arc<Notify>,
    ) -> Result<Vec<ApplierLink>, BuildError> {
        let (config, context) = (common.config, common.context);
        let cores = self.carried.cores.clone();
        let mut links = Vec::new();
        for mut parts in inbound_parts(config, node, &cores, &common.sources, context)? {
            let lock = before.lock(&parts)?;
            let file = parts.observer.folder.lock_file();
            self.carried.locks.insert(file, lock);
            let ends = before.inbound(&parts.key, reported);
            parts.passes = ends.passes.clone();
            links.push(ends.link.clone());
            self.carried
                .inbounds
                .insert(parts.key.clone(), ends.clone());
            self.inbounds.push((parts, ends.link));
        }
        Ok(links)
    }

    fn add_hook(
        &mut self,
        node: &Node,
        common: &Common<'_>,
        before: &Carried,
        reported: &Arc<Notify>,
    ) -> ApplierLink {
        let link = before.hook(node.id, reported);
        self.carried.hooks.insert(node.id, link.clone());
        let hook = HookTask::new(common.config, node.id, common.context.clock, link.clone());
        self.hooks.push(hook);
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
        let panel = self
            .nodes
            .first()
            .and_then(|(parts, _)| parts.panel.as_ref());
        let panel = panel.map(|panel| panel.client.calls());
        Tallies {
            panel: panel.unwrap_or_default(),
            xrays,
            passes: inbounds
                .map(|parts| (parts.key.clone(), parts.passes.clone()))
                .collect(),
        }
    }

    /// The pushed users.
    pub fn pushed(&self) -> &Arc<Pushed> {
        &self.pushed
    }

    /// Takes the hooks' loops out of it, for whoever lets some of them run on.
    pub fn take_hooks(&mut self) -> Vec<HookTask> {
        std::mem::take(&mut self.hooks)
    }

    /// Hands every loop over to be run.
    pub fn start(self, tasks: &mut Tasks) -> Handle {
        // Only now, for the engine before used what it had.
        self.pushed.polled_by(self.polled.clone());
        for node in &self.gone {
            node.retire();
        }
        let tallies = Arc::new(self.tallies());
        let inbounds = self.inbounds.iter();
        let by_hand = inbounds.map(|(parts, _)| ByHand::of(parts)).collect();
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|(parts, link)| (parts.id, link.clone()));
        let handle = Handle {
            nodes: nodes.collect(),
            pushed: self.pushed.clone(),
            by_hand,
            tallies,
            carried: Arc::new(self.carried),
        };
        for (parts, link) in self.nodes {
            let name = format!("node {}", parts.id);
            let call = parts
                .panel
                .as_ref()
                .map(|panel| panel.client.longest_call());
            let hangs_after = HANGS_AFTER + call.unwrap_or_default();
            tasks.watched_task(name, Kind::Essential, hangs_after, move |shutdown, beat| {
                node::run(parts.clone(), link.clone(), shutdown, beat)
            });
        }
        for (parts, link) in self.inbounds {
            let name = format!("inbound {}", parts.key);
            let hangs_after = HANGS_AFTER + parts.observer.client.longest_call() * CALLS_IN_A_ROW;
            tasks.watched_task(name, Kind::Essential, hangs_after, move |shutdown, beat| {
                inbound_loop::run(parts.clone(), link.clone(), shutdown, beat)
            });
        }
        for hook in self.hooks {
            hook.start(tasks);
        }
        let (pushed, quota_watch) = (self.pushed, self.quota_watch);
        let nodes = handle.nodes.clone();
        let name = "pushed users' quotas";
        // Without it everybody is still served: it fails alone.
        tasks.watched_task(name, Kind::Leaf, HANGS_AFTER, move |shutdown, beat| {
            let nodes = nodes.clone();
            let reconcile = move || {
                for (_, link) in &nodes {
                    link.request_pass();
                }
            };
            let (pushed, watch) = (pushed.clone(), quota_watch.clone());
            pushed::run(pushed, watch, reconcile, shutdown, beat)
        });
        handle
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

    /// Passes all nodes at once by what the sources say now, without asking the panel, and waits for the
    /// outcome. It may take as long as Xray is slow: whoever waits sets a limit. Requests that come while
    /// a pass runs are served by one more.
    pub fn reconcile(&self) -> impl Future<Output = ()> + Send + 'static {
        let links: Vec<_> = self.nodes.iter().map(|(_, link)| link.clone()).collect();
        async move {
            let passes = links.iter().map(NodeLink::pass);
            futures_util::future::join_all(passes).await;
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

    /// The nodes' reports from now on. Whoever looks at [`Handle::status`] after this misses none.
    pub fn changes(&self) -> Changes {
        Changes(self.nodes.iter().map(|(_, link)| link.reports()).collect())
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

    /// The client of the Xray by that name, if there is one.
    pub fn xray(&self, name: &str) -> Option<XrayClient> {
        let mut clients = self.carried.cores.iter().map(Core::client);
        clients.find(|client| client.name() == name).cloned()
    }

    /// Whom the panel allows at each node, by its last good answer.
    pub fn allowed(&self) -> Vec<(NodeId, Users)> {
        let polled = self.carried.polled.iter();
        let nodes = polled.flat_map(|polled| {
            let ids = self.nodes.iter().map(|(id, _)| *id);
            ids.filter_map(|id| Some((id, polled.last_good(id)?)))
        });
        nodes.collect()
    }

    /// The pushed users.
    pub fn pushed(&self) -> &Arc<Pushed> {
        &self.pushed
    }
}

impl Changes {
    /// Completes when a node has reported since this was made, or since it last completed for that
    /// node. Cancel-safe.
    pub async fn changed(&mut self) {
        let nodes = self.0.iter_mut();
        let waits: Vec<_> = nodes.map(|node| Box::pin(node.changed())).collect();
        if waits.is_empty() {
            std::future::pending::<()>().await;
        }
        let (changed, ..) = futures_util::future::select_all(waits).await;
        changed.expect("invariant: the handle holds the senders");
    }
}

/// The pushed users and what the polls said, for whoever counts traffic without the loops.
pub fn pushed(config: &Config, clock: Clock) -> Result<Arc<Pushed>, FileError> {
    let nothing = Carried::default();
    let pushed = nothing.pushed(config, clock)?;
    pushed.polled_by(nothing.polled(config)?);
    Ok(pushed)
}

/// Cuts a user off in these inbounds, all at once.
pub async fn kick_user(inbounds: &[ByHand], user: UserId) -> Vec<KickOutcome> {
    let kicks = inbounds.iter().map(|inbound| inbound.kick(user));
    futures_util::future::join_all(kicks).await
}
