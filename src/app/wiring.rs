//! Puts the engines together: users' part and traffic's, which meet in the removal of users. The
//! same way for the start as for each reload, when what is new takes over from what runs.
//!
//! Invariant: building ends nothing and starts nothing; of one engine, never two run at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::join;

use super::agent_store::{self, AgentStore};
use super::kernel::{KernelSinks, Quotas, TakenTeller};
use super::metrics::Looker;
use super::run::RunError;
use super::running::{Counting, Engines, Running, ToPanel, Traffic};
use super::traffic::TrafficError;
use crate::base::clock::Clock;
use crate::base::supervise::{Group, Groups, Supervisor};
use crate::config::Config;
use crate::model::ids::NodeId;
use crate::model::progress::Progress;
use crate::model::report::TakenBytes;
use crate::panel::PanelClient;
use crate::sync::pushed::Pushed;
use crate::sync::pushed::quota::QuotaWatch;
use crate::sync::{
    self,
    engine::{HookTask, MadeOf},
    pushed::quota::NobodyWatches,
};
use crate::traffic;
use crate::traffic::ledger::Around;
use crate::traffic::sink::Sink;

/// Engines that give way to others have this long to end; it is over before the service manager or a
/// person loses patience.
const GRACE: Duration = Duration::from_secs(15);

/// How engines are built and started here.
pub(super) struct Wiring {
    groups: Groups,
    clock: Clock,
    progress: Arc<dyn Progress>,
    /// They poll, count and report by themselves until the end.
    keeps_running: bool,
    counting: Counting,
    store: Option<AgentStore>,
    kernel_sinks: KernelSinks,
    taken: Option<TakenTeller>,
    sync: Option<Group>,
    hooks: BTreeMap<NodeId, Hook>,
    traffic: Option<Group>,
}

/// A hook's loop that runs. It runs on as long as its settings stay: a command under way is not broken
/// off for a change that does not concern it.
struct Hook {
    made_of: MadeOf,
    group: Group,
}

/// Traffic that was built and does not run yet.
pub(super) struct NewTraffic {
    engine: traffic::engine::Engine,
    sink: Option<ToPanel>,
}

impl NewTraffic {
    /// For whoever runs only a part of it.
    pub(super) fn into_engine(self) -> traffic::engine::Engine {
        self.engine
    }
}

/// Engines to take the place of others.
#[derive(Default)]
pub(super) struct Next {
    /// `None`: it stays as it is.
    pub(super) sync: Option<sync::engine::Engine>,
    pub(super) traffic: NextTraffic,
}

/// What becomes of traffic.
#[derive(Default)]
pub(super) enum NextTraffic {
    /// It stays as it is.
    #[default]
    Same,
    /// It is not counted any more.
    None,
    /// It is counted so.
    New(Box<NewTraffic>),
}

impl Wiring {
    /// `store`: what an agent that keeps running tells with.
    pub(super) fn new(
        groups: Groups,
        progress: Arc<dyn Progress>,
        store: Option<AgentStore>,
    ) -> Self {
        let keeps_running = store.is_some();
        Self {
            store,
            kernel_sinks: KernelSinks::new(Clock::system()),
            taken: None,
            groups,
            clock: Clock::system(),
            progress,
            keeps_running,
            counting: Counting::default(),
            sync: None,
            hooks: BTreeMap::new(),
            traffic: None,
        }
    }

    /// Builds what `config` names, and starts it.
    pub(super) fn start(
        &mut self,
        config: &Config,
        counts_traffic: bool,
    ) -> Result<Running, RunError> {
        let engine = sync::engine::Engine::build(config, &self.context(config))?;
        self.taken = Some(TakenTeller::new(engine.pushed().clone()));
        let traffic = if counts_traffic {
            self.build_traffic(config, engine.pushed(), None)?
        } else {
            None
        };
        let traffic = traffic.map(|new| self.start_traffic(config, new));
        let sync = self.start_sync(engine);
        let running = Running::new(Engines {
            config: Arc::new(config.clone()),
            sync,
            traffic,
            agent_store: self.store.clone(),
        });
        self.kernel_sinks.run_by(&running);
        Ok(running)
    }

    /// Follows, for as long as the agent runs, where the bytes of pushed users go.
    pub(super) fn add(&self, running: &Running, store: &AgentStore, supervisor: &mut Supervisor) {
        self.kernel_sinks.add(running, store, supervisor);
        if let Some(taken) = &self.taken {
            taken.add(store, supervisor);
        }
    }

    /// The users' part of `config`, to take over from `before`.
    pub(super) fn build_sync(
        &self,
        config: &Config,
        before: &Engines,
    ) -> Result<sync::engine::Engine, RunError> {
        let context = self.context(config);
        Ok(sync::engine::Engine::rebuild(
            config,
            &context,
            &before.sync,
        )?)
    }

    /// Traffic's part of `config`, to take over from `before`; `None` where it is not counted.
    pub(super) fn build_traffic(
        &self,
        config: &Config,
        pushed: &Arc<Pushed>,
        before: Option<&Traffic>,
    ) -> Result<Option<NewTraffic>, TrafficError> {
        if super::traffic::uncounted(config).is_some() {
            return Ok(None);
        }
        let sink = report_traffic(config, before)?;
        let inbounds = sync::engine::emails(config, self.clock)?;
        let courier = self.store.as_ref().map(|store| store.courier.clone());
        let courier = courier.unwrap_or_else(|| agent_store::courier(config));
        let context = traffic::engine::Context {
            inbounds: &inbounds,
            sinks: sink.iter().map(|(_, sink)| sink.clone()).collect(),
            kernel_sinks: self.kernel_sinks.at_start(config, pushed, &courier),
            around: self.around(pushed),
            clock: self.clock,
            on_stop: self.keeps_running,
        };
        let engine = match before {
            Some(before) => traffic::engine::Engine::rebuild(config, &context, &before.handle),
            None => traffic::engine::Engine::build(config, &context)?,
        };
        Ok(Some(NewTraffic { engine, sink }))
    }

    /// Ends what gives way, and starts what is new, each part as soon as it can.
    pub(super) async fn replace(&mut self, config: &Arc<Config>, next: Next, running: &Running) {
        let sync = (self.sync.take(), std::mem::take(&mut self.hooks));
        let traffic = self.traffic.take();
        let users = async {
            match next.sync {
                None => sync,
                Some(engine) => self.replace_sync(sync.0, sync.1, engine, running).await,
            }
        };
        let bytes = async {
            match next.traffic {
                NextTraffic::Same => traffic,
                NextTraffic::None => self.end_traffic(traffic, running).await,
                NextTraffic::New(new) => self.replace_traffic(config, traffic, *new, running).await,
            }
        };
        let (users, bytes) = join!(users, bytes);
        (self.sync, self.hooks) = users;
        self.traffic = bytes;
    }

    async fn replace_sync(
        &self,
        before: Option<Group>,
        hooks: BTreeMap<NodeId, Hook>,
        mut engine: sync::engine::Engine,
        running: &Running,
    ) -> (Option<Group>, BTreeMap<NodeId, Hook>) {
        let next: BTreeMap<_, _> = engine
            .take_hooks()
            .into_iter()
            .map(|hook| (hook.node(), hook))
            .collect();
        let (mut hooks, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            hooks.into_iter().partition(|(node, hook)| {
                let next = next.get(node);
                next.is_some_and(|next| *next.made_of() == hook.made_of)
            });
        let ends = gone.into_values().map(|hook| hook.group.stop(GRACE));
        let group = async {
            if let Some(group) = before {
                group.stop(GRACE).await;
            }
        };
        join!(group, join_all(ends));
        let (group, handle) = self.groups.start(|tasks| engine.start(tasks));
        for (node, hook) in next {
            hooks.entry(node).or_insert_with(|| self.begin_hook(hook));
        }
        running.change(|engines| engines.sync = handle);
        (Some(group), hooks)
    }

    fn begin_hook(&self, hook: HookTask) -> Hook {
        let made_of = hook.made_of().clone();
        let (group, ()) = self.groups.start(|tasks| hook.start(tasks));
        Hook { made_of, group }
    }

    async fn replace_traffic(
        &self,
        config: &Config,
        before: Option<Group>,
        new: NewTraffic,
        running: &Running,
    ) -> Option<Group> {
        if let Some(old) = running.now().traffic {
            old.handle.hand_over();
        }
        if let Some(group) = before {
            group.stop(GRACE).await;
        }
        let (group, traffic) = self.begin_traffic(config, new);
        running.change(|engines| engines.traffic = Some(traffic));
        Some(group)
    }

    /// As at the end of the agent: with a last read and a flush.
    async fn end_traffic(&self, before: Option<Group>, running: &Running) -> Option<Group> {
        if let Some(group) = before {
            group.stop(GRACE).await;
        }
        self.counting.set(None);
        let old = running.now().traffic;
        running.change(|engines| engines.traffic = None);
        if let Some(old) = old {
            old.handle.let_go().await;
        }
        None
    }

    fn start_sync(&mut self, mut engine: sync::engine::Engine) -> sync::engine::Handle {
        let hooks = engine.take_hooks().into_iter();
        self.hooks = hooks
            .map(|hook| (hook.node(), self.begin_hook(hook)))
            .collect();
        let (group, handle) = self.groups.start(|tasks| engine.start(tasks));
        self.sync = Some(group);
        handle
    }

    fn start_traffic(&mut self, config: &Config, new: NewTraffic) -> Traffic {
        let (group, traffic) = self.begin_traffic(config, new);
        self.traffic = Some(group);
        traffic
    }

    fn begin_traffic(&self, config: &Config, new: NewTraffic) -> (Group, Traffic) {
        let handle = new.engine.handle();
        self.counting.set(Some(handle.clone()));
        let (group, ()) = self.groups.start(|tasks| new.engine.start(tasks));
        let traffic = Traffic {
            handle,
            looker: self.looker(config),
            sink: new.sink,
        };
        (group, traffic)
    }

    /// Looks at the ledger of `config`.
    pub(super) fn looker(&self, config: &Config) -> Arc<Looker> {
        let spec = traffic::ledger::spec(&config.state_dir, self.clock);
        Looker::new(spec, self.clock, config.metrics)
    }

    /// Who says for which panel bytes are, and who hears of them.
    fn around(&self, pushed: &Arc<Pushed>) -> Around {
        let taken = self.taken.clone();
        Around {
            owners: pushed.clone(),
            pushed_bytes: Some(pushed.clone()),
            taken_bytes: taken.map(|taken| Arc::new(taken) as Arc<dyn TakenBytes>),
        }
    }

    fn quota_watch(&self) -> Arc<dyn QuotaWatch> {
        match &self.store {
            Some(store) => Arc::new(Quotas(store.clone())),
            None => Arc::new(NobodyWatches),
        }
    }

    fn context(&self, config: &Config) -> sync::engine::Context {
        sync::engine::Context {
            clock: self.clock,
            progress: self.progress.clone(),
            further_sources: Vec::new(),
            polls: self.keeps_running,
            around_removal: Arc::new(self.counting.clone()),
            cutter: super::cutting::cutter(config),
            quota_watch: self.quota_watch(),
        }
    }
}

/// Where reports to the polled panel go, as before where it is the same panel; `None`: none is polled.
fn report_traffic(
    config: &Config,
    before: Option<&Traffic>,
) -> Result<Option<ToPanel>, TrafficError> {
    let Some(panel) = config.panel.clone() else {
        return Ok(None);
    };
    let before = before.and_then(|traffic| traffic.sink.as_ref());
    if let Some(same) = before.filter(|(it, _)| *it == panel) {
        return Ok(Some(same.clone()));
    }
    let client = PanelClient::for_reports(panel.clone());
    let client = client.map_err(TrafficError::Panel)?;
    Ok(Some((panel, Arc::new(client) as Arc<dyn Sink>)))
}
