//! Puts traffic together: one collector for each Xray, one reporter for each sink, and the ledger
//! between them. Building touches nothing but memory; the ledger's file is opened by the first work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::collector::{self, CollectorLink, CollectorParts};
use super::forms::Forms;
use super::kernel::{self, KernelSinks, MakeParts};
use super::ledger::{Around, Ledger, Left, Undecided, Used, views};
use super::link::{Leavers, Orders};
use super::receivers::Receivers;
use super::reporter::{self, ReporterLink, ReporterParts};
use super::sink::Sink;
use super::status::{SinkStatus, TrafficStatus, XrayTraffic};
use crate::base::clock::Clock;
use crate::base::supervise::{Kind, Tasks};
use crate::config::{Config, FirstRead, Xray};
use crate::model::around_removal::AroundRemoval;
use crate::model::desired::InboundKey;
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::model::report::{Decision, ReportId};
use crate::model::tally::{Calls, Distribution};
use crate::store::{Health, StoreError};
use crate::xray::client::XrayClient;

/// A loop that was silent for this much longer than its calls can take hangs.
const HANGS_AFTER: Duration = Duration::from_mins(5);
/// Calls that a collector may make one after the other.
const CALLS_IN_A_ROW: u32 = 8;
/// A removal waits for the read before it no longer than this, a third of the time in which it is to be
/// seen in Xray: access goes before bytes, which Xray still has.
const BEFORE_REMOVAL_TAKES: Duration = Duration::from_millis(100);

/// Closing the ledger takes its log in.
const CLOSING_TAKES: Duration = Duration::from_secs(2);

/// What traffic is made of.
pub struct Context<'a> {
    /// Every managed inbound with its e-mails, in the order of the configuration.
    pub inbounds: &'a [(InboundKey, Emails)],
    /// Where bytes go for the panel that is polled.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Where bytes go for panels that push, at first; see [`Handle::set_kernel_sinks`]. Of no account
    /// where traffic takes over from what runs.
    pub kernel_sinks: Vec<Arc<dyn Sink>>,
    /// Who says for whom bytes are, and who hears of them. Of no account where traffic takes over from
    /// what runs.
    pub around: Around,
    /// The clock.
    pub clock: Clock,
    /// Whether the end is preceded by a last read and a last flush.
    pub on_stop: bool,
}

/// Traffic, ready to run.
pub struct Engine {
    collectors: Vec<CollectorParts>,
    reporters: Vec<ReporterParts>,
    kernel: MakeParts,
    handle: Handle,
}

/// A handle to running traffic.
#[derive(Clone)]
pub struct Handle {
    collectors: Arc<BTreeMap<String, (XrayClient, CollectorLink)>>,
    reporters: Arc<[ReporterLink]>,
    requests: Arc<[Arc<Calls>]>,
    kernel: KernelSinks,
    ledger: Ledger,
    /// The end that is asked for is followed by another run.
    hands_over: Arc<AtomicBool>,
}

/// What the loops have in common.
struct Common<'a> {
    config: &'a Config,
    context: &'a Context<'a>,
    before: Option<&'a Handle>,
    ledger: Ledger,
    kernel: KernelSinks,
    reports: Arc<watch::Sender<u64>>,
    hands_over: Arc<AtomicBool>,
}

impl Engine {
    /// Builds what `config` names. The caller holds the lock of its state folder.
    pub fn build(config: &Config, context: &Context<'_>) -> Result<Self, StoreError> {
        let sinks = context.sinks.iter().chain(&context.kernel_sinks);
        let receivers = Receivers::of(sinks.map(|sink| sink.name()));
        let (state_dir, around) = (&config.state_dir, context.around.clone());
        let ledger = Ledger::start_among(state_dir, receivers, around, context.clock)?;
        Ok(Self::assemble(Common {
            config,
            context,
            before: None,
            ledger,
            kernel: KernelSinks::of(context.kernel_sinks.clone()),
            reports: Arc::new(watch::Sender::new(0)),
            hands_over: Arc::default(),
        }))
    }

    /// The same for what takes the place of `before`, with the same state folder and sinks of the same
    /// names. Nothing changes for that as long as this is not started; it is to be ended first.
    pub fn rebuild(config: &Config, context: &Context<'_>, before: &Handle) -> Self {
        let known = before.reporters.first().map(|link| link.reports.clone());
        Self::assemble(Common {
            config,
            context,
            before: Some(before),
            ledger: before.ledger.clone(),
            kernel: before.kernel.clone(),
            reports: known.unwrap_or_else(|| Arc::new(watch::Sender::new(0))),
            hands_over: Arc::default(),
        })
    }

    fn assemble(common: Common<'_>) -> Self {
        let xrays = common.config.xrays.iter();
        let collectors: Vec<_> = xrays.filter_map(|xray| common.collector(xray)).collect();
        let ended = || collectors.iter().map(|c| c.link.ended.subscribe());
        let sinks = common.context.sinks.iter();
        let reporters: Vec<_> = sinks
            .map(|sink| common.reporter(sink, ended().collect()))
            .collect();
        let by_name = collectors.iter().map(|parts| {
            let name = parts.client.name().to_owned();
            (name, (parts.client.clone(), parts.link.clone()))
        });
        let kernel = common.make_kernel(ended().collect());
        // Who waits for a flush waits for theirs, too.
        common
            .kernel
            .now()
            .iter()
            .for_each(|sink| drop(kernel(sink)));
        let handle = Handle {
            collectors: Arc::new(by_name.collect()),
            reporters: reporters.iter().map(|parts| parts.link.clone()).collect(),
            requests: reporters.iter().map(|parts| parts.sink.calls()).collect(),
            kernel: common.kernel.clone(),
            ledger: common.ledger,
            hands_over: common.hands_over,
        };
        Self {
            collectors,
            reporters,
            kernel,
            handle,
        }
    }

    /// A handle to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Hands every loop over to be run.
    pub fn start(self, tasks: &mut Tasks) {
        for parts in self.reporters.clone() {
            let name = format!("reports to {}", parts.sink.name());
            tasks.watched_task(name, Kind::Leaf, HANGS_AFTER, move |shutdown, heartbeat| {
                reporter::run(parts.clone(), shutdown, heartbeat)
            });
        }
        let (sinks, make) = (self.handle.kernel.clone(), self.kernel.clone());
        let name = "reports to panels that push";
        tasks.watched_task(name, Kind::Leaf, HANGS_AFTER, move |shutdown, heartbeat| {
            kernel::run(sinks.clone(), make.clone(), shutdown, heartbeat)
        });
        self.start_reading(tasks);
    }

    /// Hands only those loops over that read counters into the ledger.
    pub fn start_reading(self, tasks: &mut Tasks) {
        for parts in self.collectors {
            let name = format!("traffic of {}", parts.client.name());
            let hangs_after = HANGS_AFTER + parts.client.longest_call() * CALLS_IN_A_ROW;
            tasks.watched_task(name, Kind::Leaf, hangs_after, move |shutdown, heartbeat| {
                collector::run(parts.clone(), shutdown, heartbeat)
            });
        }
    }
}

impl Common<'_> {
    /// What the collector of `xray` needs; `None` where no inbound of it is managed.
    fn collector(&self, xray: &Xray) -> Option<CollectorParts> {
        let inbounds = self.context.inbounds.iter();
        let of_xray = inbounds.filter(|(key, _)| key.xray == xray.name);
        let forms = Forms::of(of_xray.clone().map(|(key, emails)| (key.clone(), emails)));
        let tags: Vec<_> = of_xray.map(|(key, _)| key.tag.clone()).collect();
        if tags.is_empty() {
            return None;
        }
        let inbounds = self.config.nodes.iter().flat_map(|node| &node.inbounds);
        let levels = inbounds.filter(|i| i.xray == xray.name).map(|i| i.level);
        let before = self.before.and_then(|it| it.collectors.get(&xray.name));
        let same = before.filter(|(client, _)| client.config() == xray);
        // A connection of its own: an answer of megabytes must not hold up a removal.
        let client = same.map_or_else(|| XrayClient::new(xray.clone()), |(it, _)| it.clone());
        Some(CollectorParts {
            link: self.collector_link(&client, before.map(|(_, link)| link)),
            client,
            tags,
            forms: Arc::new(forms),
            levels: levels.collect(),
            ledger: self.ledger.clone(),
            sinks: self.context.sinks.clone().into(),
            kernel: self.kernel.clone(),
            interval: self.config.traffic.collect_interval,
            adopts: self.config.traffic.first_read == FirstRead::Adopt,
            on_stop: self.context.on_stop,
            hands_over: self.hands_over.clone(),
            clock: self.context.clock,
        })
    }

    /// What was asked of the loop before is asked of the next.
    fn collector_link(&self, client: &XrayClient, before: Option<&CollectorLink>) -> CollectorLink {
        let status = || XrayTraffic {
            xray: client.name().to_owned(),
            ..XrayTraffic::default()
        };
        let fresh = || CollectorLink {
            orders: Orders::default(),
            leavers: Leavers::default(),
            calls: client.calls(),
            status: Arc::new(watch::Sender::new(status())),
            reports: self.reports.clone(),
            ended: Arc::default(),
        };
        CollectorLink {
            calls: client.calls(),
            ended: Arc::default(),
            ..before.cloned().unwrap_or_else(fresh)
        }
    }

    /// What the reporter to `sink` needs.
    fn reporter(
        &self,
        sink: &Arc<dyn Sink>,
        collectors: Vec<watch::Receiver<bool>>,
    ) -> ReporterParts {
        let mut before = self.before.iter().flat_map(|it| it.reporters.iter());
        let same = before.find(|link| *link.status.borrow().sink == *sink.name());
        let link = same
            .cloned()
            .unwrap_or_else(|| link(&**sink, &self.reports));
        link.status
            .send_modify(|status| status.address = sink.address());
        ReporterParts {
            sink: sink.clone(),
            ledger: self.ledger.clone(),
            interval: self.config.traffic.report_interval,
            on_unknown: self.config.traffic.on_unknown,
            on_stop: self.context.on_stop,
            hands_over: self.hands_over.clone(),
            clock: self.context.clock,
            link,
            collectors,
        }
    }

    /// The same for sinks that come while it runs.
    fn make_kernel(&self, collectors: Vec<watch::Receiver<bool>>) -> MakeParts {
        let (ledger, reports) = (self.ledger.clone(), self.reports.clone());
        let (kernel, traffic) = (self.kernel.clone(), self.config.traffic.clone());
        let (on_stop, clock) = (self.context.on_stop, self.context.clock);
        let hands_over = self.hands_over.clone();
        Arc::new(move |sink| {
            let link = kernel.link(&**sink, || link(&**sink, &reports));
            link.status
                .send_modify(|status| status.address = sink.address());
            ReporterParts {
                sink: sink.clone(),
                ledger: ledger.clone(),
                interval: traffic.report_interval,
                on_unknown: traffic.on_unknown,
                on_stop,
                hands_over: hands_over.clone(),
                clock,
                link,
                collectors: collectors.clone(),
            }
        })
    }
}

fn link(sink: &dyn Sink, reports: &Arc<watch::Sender<u64>>) -> ReporterLink {
    ReporterLink {
        flushes: Orders::default(),
        reports: reports.clone(),
        status: Arc::new(watch::Sender::new(SinkStatus {
            sink: sink.name().to_string(),
            ..SinkStatus::default()
        })),
    }
}

impl Handle {
    /// Reads all counters into the ledger now, and tells how traffic stands then.
    pub async fn collect(&self) -> TrafficStatus {
        let reads = self
            .collectors
            .values()
            .map(|(_, link)| link.orders.carried_out());
        join_all(reads).await;
        self.status()
    }

    /// Reads all counters, and sends what can be sent.
    pub async fn pass(&self) -> TrafficStatus {
        self.collect().await;
        let links = self.links();
        let flushes = links.iter().map(|link| link.flushes.carried_out());
        join_all(flushes).await;
        self.status()
    }

    /// Carries out what a person decided of a report; the number that it has then.
    pub async fn decide(
        &self,
        id: ReportId,
        decision: Decision,
    ) -> Result<Result<ReportId, Undecided>, StoreError> {
        let decided = self.ledger.decide(id, decision).await;
        for link in self.links() {
            link.reports.send_modify(|times| *times += 1);
        }
        decided
    }

    /// Bytes that are wanted by panels that push go to these sinks and no others from now on, also after
    /// traffic was taken over. A sink that stays is to be the same one: its reporter goes on
    /// undisturbed. What is left for a registration that is gone is dropped; for the configured panel it
    /// is kept until it is there again.
    pub async fn set_kernel_sinks(&self, sinks: Vec<Arc<dyn Sink>>) -> Result<(), StoreError> {
        self.kernel.set(sinks);
        let left = self.ledger.set_kernel_sinks(self.kernel.names()).await?;
        let kept = left.iter().find(|left| left.is_kept);
        self.kernel.keep_for_panel(kept.map(|left| left.bytes));
        for Left { sink, bytes, .. } in left.iter().filter(|left| !left.is_kept) {
            warn!(
                sink,
                up = bytes.up,
                down = bytes.down,
                "this panel wants to hear of no more traffic: bytes that it had not taken are dropped"
            );
        }
        Ok(())
    }

    /// The sinks of panels that push.
    pub fn kernel_sinks(&self) -> Vec<Arc<dyn Sink>> {
        self.kernel.now().to_vec()
    }

    /// What was counted in every managed inbound since it is known.
    pub async fn inbounds(&self) -> Result<Vec<views::InboundTotals>, StoreError> {
        self.ledger.inbounds().await
    }

    /// What every user has moved since the ledger began.
    pub async fn used(&self) -> Result<HashMap<UserId, Used>, StoreError> {
        self.ledger.used().await
    }

    /// What one user has moved since the ledger began.
    pub async fn used_by(&self, user: UserId) -> Result<Used, StoreError> {
        self.ledger.used_by(user).await
    }

    fn links(&self) -> Vec<ReporterLink> {
        let mut links = self.reporters.to_vec();
        links.extend(self.kernel.links());
        links
    }

    /// How traffic stands.
    pub fn status(&self) -> TrafficStatus {
        let xrays = self.collectors.values();
        TrafficStatus {
            xrays: xrays
                .map(|(_, link)| link.status.borrow().clone())
                .collect(),
            sinks: self
                .links()
                .iter()
                .map(|link| link.status.borrow().clone())
                .chain(self.kernel.kept())
                .collect(),
            ledger_error: self.ledger.trouble(),
        }
    }

    /// Calls to every Xray for its counters, by gRPC status.
    pub fn calls(&self) -> impl Iterator<Item = (&str, Arc<Calls>)> {
        let collectors = self.collectors.iter();
        collectors.map(|(xray, (_, link))| (xray.as_str(), link.calls.clone()))
    }

    /// Reports sent to every sink, by HTTP status.
    pub fn requests(&self) -> Vec<Arc<Calls>> {
        let kernel = self.kernel.now();
        let of_kernel = kernel.iter().map(|sink| sink.calls());
        self.requests.iter().cloned().chain(of_kernel).collect()
    }

    /// The ledger's store: how it is, and how long its commits took.
    pub fn store(&self) -> (Health, Distribution) {
        (self.ledger.health(), self.ledger.commits())
    }

    /// Sums of the whole ledger.
    pub async fn summary(&self) -> Result<views::Summary, StoreError> {
        self.ledger.summary().await
    }

    /// Another run takes over as soon as this one has ended: its end is no end of the agent. What is
    /// under way is waited for, and nothing more is read or sent.
    pub fn hand_over(&self) {
        self.hands_over.store(true, Ordering::Relaxed);
    }

    /// Lets go of the ledger, and completes when its file is closed in order: when all loops have
    /// ended and the other handles are dropped, or after a while.
    pub async fn let_go(self) {
        if timeout(CLOSING_TAKES, self.ledger.let_go()).await.is_err() {
            debug!("the ledger is still at work; its file is looked through at the next start");
        }
    }

    /// Completes, with the reason, when a sync of the disk failed: the process has to end.
    pub async fn failed(&self) -> String {
        self.ledger.failed().await
    }
}

impl AroundRemoval for Handle {
    fn before<'a>(&'a self, xray: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some((_, link)) = self.collectors.get(xray) else {
                return;
            };
            let read = timeout(BEFORE_REMOVAL_TAKES, link.orders.carried_out()).await;
            if read.is_err() {
                debug!(xray, "users are removed before their counters were read");
            }
        })
    }

    fn after(&self, xray: &str, users: &[UserId]) {
        if let Some((_, link)) = self.collectors.get(xray) {
            link.leavers.add(users.iter().copied());
            link.orders.give();
        }
    }
}
