//! Reads the counters of one Xray into the ledger: at every interval, when asked, and before the end.
//! Keeps: a read that may be of two runs of Xray is discarded; what was not committed is read again,
//! for Xray still has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::connections::Connections;
use super::forms::Forms;
use super::kernel::KernelSinks;
use super::ledger::{Collected, Ledger, Reading, Whose};
use super::link::{Leavers, Orders};
use super::sink::Sink;
use super::status::XrayTraffic;
use super::switches::{Seen, Switches};
use crate::base::clock::Clock;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::model::ids::{InboundTag, UserId};
use crate::model::tally::Calls;
use crate::store::StoreError;
use crate::xray::boot::Boot;
use crate::xray::client::XrayClient;
use crate::xray::counters::UserCounters;
use crate::xray::error::XrayError;

/// A read that met a restart of Xray, or answers that were too slow to tell which run they are of, is
/// made so many times at once.
const READS: usize = 3;
/// At the latest after this the loop wakes, so that it can be seen to live.
const WAKE: Duration = Duration::from_secs(30);
/// The last read before the end takes at most this; what it misses, Xray still has.
const LAST_READ_TAKES: Duration = Duration::from_secs(2);

/// Why a read came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CollectError {
    /// Xray did not answer as it should.
    #[error(transparent)]
    Xray(#[from] XrayError),
    /// Two runs of Xray, or two Xrays, were read at once, or it cannot be told.
    #[error("Xray restarted while its counters were read, or answers too slowly to tell")]
    Torn,
    /// The ledger could not take it.
    #[error("{0}")]
    Ledger(#[from] StoreError),
}

/// What the loop of one Xray needs.
#[derive(Clone)]
pub(super) struct CollectorParts {
    pub(super) client: XrayClient,
    pub(super) forms: Arc<Forms>,
    pub(super) levels: Arc<[u32]>,
    pub(super) tags: Vec<InboundTag>,
    pub(super) ledger: Ledger,
    pub(super) sinks: Arc<[Arc<dyn Sink>]>,
    pub(super) kernel: KernelSinks,
    pub(super) interval: Duration,
    pub(super) adopts: bool,
    pub(super) on_stop: bool,
    /// The end that is asked for is followed by another run.
    pub(super) hands_over: Arc<AtomicBool>,
    pub(super) clock: Clock,
    pub(super) link: CollectorLink,
}

/// Between the loop and the others.
#[derive(Clone)]
pub(super) struct CollectorLink {
    pub(super) orders: Orders<Option<String>>,
    pub(super) leavers: Leavers,
    pub(super) calls: Arc<Calls>,
    pub(super) status: Arc<watch::Sender<XrayTraffic>>,
    /// Reports are there that should go at once.
    pub(super) reports: Arc<watch::Sender<u64>>,
    /// The last read before the end is over.
    pub(super) ended: Arc<watch::Sender<bool>>,
}

/// Runs until the end is asked for.
pub(super) async fn run(parts: CollectorParts, mut shutdown: Shutdown, heartbeat: Heartbeat) {
    let mut orders = parts.link.orders.subscribe();
    let mut collector = Collector {
        connections: Connections::new(parts.client.clone(), parts.tags.clone()),
        switches: Switches::default(),
        boot: None,
        lost: None,
        said: Said::default(),
        parts,
    };
    let mut next = Instant::now();
    loop {
        heartbeat.beat();
        // All arms are cancel-safe.
        tokio::select! {
            () = shutdown.requested() => break,
            _ = orders.changed() => {}
            () = sleep_until(next.min(Instant::now() + WAKE)) => {
                if Instant::now() < next {
                    continue;
                }
            }
        }
        next = Instant::now() + collector.parts.interval;
        // A read that is cut short is made once more below; what it has handed to the ledger is
        // written all the same.
        tokio::select! {
            () = shutdown.requested() => break,
            () = collector.turn() => {}
        }
    }
    if collector.parts.on_stop && !collector.parts.hands_over.load(Ordering::Relaxed) {
        let _ = timeout(LAST_READ_TAKES, collector.turn()).await;
    }
    collector.parts.link.ended.send_replace(true);
}

struct Collector {
    parts: CollectorParts,
    connections: Connections,
    switches: Switches,
    /// The run of Xray that was read last.
    boot: Option<Boot>,
    /// Connections lost when the last read was taken in; `None` where it is not known whether one was.
    lost: Option<u64>,
    said: Said,
}

impl Collector {
    /// One read, for all orders that were given before it began.
    async fn turn(&mut self) {
        let link = self.parts.link.clone();
        let number = link.orders.last();
        let leavers = link.leavers.take();
        let read = match self.collect().await {
            Ok(()) => self.close(&leavers).await.map_err(CollectError::from),
            Err(error) => Err(error),
        };
        if read.is_err() {
            link.leavers.add(leavers);
        }
        let error = read.err().map(|error| error.to_string());
        link.status
            .send_modify(|status| status.error.clone_from(&error));
        let subject = format!("traffic of {}", self.parts.client.name());
        self.said.state(&subject, error.as_deref());
        link.orders.answer(number, error);
    }

    async fn collect(&mut self) -> Result<(), CollectError> {
        let (boot, counters, lost) = match self.read().await {
            Err(CollectError::Xray(error @ XrayError::Unimplemented(_))) => {
                self.look_at_switches(Seen::NoService);
                return Err(error.into());
            }
            read => read?,
        };
        if !self.boot.as_ref().is_some_and(|last| last.is_same(&boot)) {
            // Its configuration may be another one.
            self.switches = Switches::default();
        }
        self.boot = Some(boot.clone());
        let seen = self.seen(&counters).await;
        self.look_at_switches(seen);
        let reading = Reading {
            xray: self.parts.client.name().into(),
            forms: self.parts.forms.clone(),
            boot,
            remote: self.parts.client.may_be_remote(),
            same_connection: self.lost == Some(lost),
            counters: Arc::new(counters),
            adopts: self.parts.adopts,
        };
        self.lost = None;
        let collected = self.parts.ledger.collect(reading).await?;
        self.lost = Some(lost);
        self.tell(&collected);
        let now = self.parts.clock.now();
        self.parts
            .link
            .status
            .send_modify(|status| status.took_in(&collected, now));
        Ok(())
    }

    /// All counters, surely of one run of one Xray, with how many connections were lost until then.
    async fn read(&self) -> Result<(Boot, UserCounters, u64), CollectError> {
        let client = &self.parts.client;
        let connections = client.lost_connections();
        for _ in 0..READS {
            let lost = *connections.borrow();
            let before = self.boot().await?;
            let counters = client.user_counters().await?;
            let after = self.boot().await?;
            let is_whole = before
                .zip(after.as_ref())
                .is_some_and(|(before, after)| before.is_same(after));
            if let (Some(boot), true) = (after, is_whole && lost == *connections.borrow()) {
                return Ok((boot, counters, lost));
            }
        }
        Err(CollectError::Torn)
    }

    /// Which run answers; `None` where that cannot be told for certain.
    async fn boot(&self) -> Result<Option<Boot>, XrayError> {
        let asked = self.parts.clock.moment();
        let stats = self.parts.client.sys_stats().await?;
        Ok(Boot::between(&stats, &asked, &self.parts.clock.moment()))
    }

    /// The last bytes of users who were removed are reported at once.
    async fn close(&self, leavers: &[UserId]) -> Result<(), StoreError> {
        if leavers.is_empty() {
            return Ok(());
        }
        let mut closed = 0;
        let kernel = self.parts.kernel.now();
        for sink in self.parts.sinks.iter().chain(kernel.iter()) {
            let (name, whose) = (sink.name(), Whose::Users(leavers.to_vec()));
            let ledger = &self.parts.ledger;
            closed += ledger.close_fit(&name, whose, sink.fit()).await?.reports;
        }
        if closed > 0 {
            self.parts.link.reports.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    async fn seen(&mut self, counters: &UserCounters) -> Seen {
        if counters.is_empty() {
            let established = self.connections.established(std::time::Instant::now());
            Seen::NoCounters {
                established: established.await,
            }
        } else {
            Seen::Counters
        }
    }

    fn look_at_switches(&mut self, seen: Seen) {
        self.switches.read(std::time::Instant::now(), seen);
        let mend = self
            .switches
            .lacks()
            .map(|lack| lack.mend(&self.parts.levels));
        let name = self.parts.client.name();
        if let Some(mend) = &mend {
            self.said.once("switches", || warn!(xray = name, "{mend}"));
        }
        self.parts
            .link
            .status
            .send_modify(|status| status.not_counting = mend);
    }

    fn tell(&mut self, collected: &Collected) {
        let xray = self.parts.client.name();
        if collected.adopts_now {
            info!(
                xray,
                up = collected.adopted.up,
                down = collected.adopted.down,
                "this Xray counted before the ledger knew it: those bytes are billed to nobody \
                 (traffic.first_read)"
            );
        }
        if collected.resets > 0 {
            self.said.once("resets", || {
                warn!(
                    xray,
                    counters = collected.resets,
                    "somebody else resets Xray's counters: \
                    bytes between our reads and theirs are lost to us; stop them"
                );
            });
        }
        if collected.alternates {
            self.said.once("alternates", || {
                warn!(
                    xray,
                    "two Xrays answer at this address in turn, for Xray lets several \
                    processes listen on one port: end one of them"
                );
            });
        }
    }
}
