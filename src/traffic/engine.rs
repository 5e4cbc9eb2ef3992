//! Puts traffic together: one collector for each Xray, one reporter for each sink, and the ledger
//! between them. Building touches nothing but memory; the ledger's file is opened by the first work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use super::collector::{self, CollectorLink, CollectorParts};
use super::forms::Forms;
use super::ledger::{Ledger, Undecided, views};
use super::link::{Leavers, Orders};
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
    /// Where bytes go.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// The clock.
    pub clock: Clock,
    /// Whether the end is preceded by a last read and a last flush.
    pub on_stop: bool,
}

/// Traffic, ready to run.
pub struct Engine {
    collectors: Vec<CollectorParts>,
    reporters: Vec<ReporterParts>,
    handle: Handle,
}

/// A handle to running traffic.
#[derive(Clone)]
pub struct Handle {
    collectors: Arc<BTreeMap<String, (XrayClient, CollectorLink)>>,
    reporters: Arc<[ReporterLink]>,
    requests: Arc<[Arc<Calls>]>,
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
    sinks: Arc<[&'static str]>,
    reports: Arc<watch::Sender<u64>>,
    hands_over: Arc<AtomicBool>,
}

impl Engine {
    /// Builds what `config` names. The caller holds the lock of its state folder.
    pub fn build(config: &Config, context: &Context<'_>) -> Result<Self, StoreError> {
        let sinks: Arc<[&'static str]> = context.sinks.iter().map(|sink| sink.name()).collect();
        let ledger = Ledger::start(&config.state_dir, sinks.clone(), context.clock)?;
        Ok(Self::assemble(Common {
            config,
            context,
            before: None,
            ledger,
            sinks,
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
            sinks: context.sinks.iter().map(|sink| sink.name()).collect(),
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
        let handle = Handle {
            collectors: Arc::new(by_name.collect()),
            reporters: reporters.iter().map(|parts| parts.link.clone()).collect(),
            requests: reporters.iter().map(|parts| parts.sink.calls()).collect(),
            ledger: common.ledger,
            hands_over: common.hands_over,
        };
        Self {
            collectors,
            reporters,
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
        let forms = Forms::of(of_xray.clone().map(|(key, emails)| (key.node, emails)));
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
            sinks: self.sinks.clone(),
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
        let same = before.find(|link| link.status.borrow().sink == sink.name());
        let link = same.cloned().unwrap_or_else(|| ReporterLink {
            flushes: Orders::default(),
            reports: self.reports.clone(),
            status: Arc::new(watch::Sender::new(SinkStatus {
                sink: sink.name().to_owned(),
                ..SinkStatus::default()
            })),
        });
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
        let flushes = self.reporters.iter().map(|link| link.flushes.carried_out());
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
        for link in self.reporters.iter() {
            link.reports.send_modify(|times| *times += 1);
        }
        decided
    }

    /// How traffic stands.
    pub fn status(&self) -> TrafficStatus {
        let xrays = self.collectors.values();
        TrafficStatus {
            xrays: xrays
                .map(|(_, link)| link.status.borrow().clone())
                .collect(),
            sinks: self
                .reporters
                .iter()
                .map(|link| link.status.borrow().clone())
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
    pub fn requests(&self) -> &[Arc<Calls>] {
        &self.requests
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
