//! Reporters to panels that push users. Their sinks come and go while the agent runs: one task serves the
//! list as it is now. Keeps: a change disturbs no reporter of a sink that stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tracing::warn;

use super::baselines::Bytes;
use super::receivers::{KERNEL, SinkName};
use super::reporter::{self, ReporterLink, ReporterParts};
use super::sink::Sink;
use super::status::SinkStatus;
use crate::base::supervise::{Heartbeat, Shutdown};

const NOT_CONFIGURED: &str = "kernel.panel is not in the configuration";

type List = Arc<[Arc<dyn Sink>]>;

/// The sinks there are now. Cheap to clone; outlives the engines that serve them.
#[derive(Clone, Default)]
pub(super) struct KernelSinks {
    list: Arc<watch::Sender<List>>,
    links: Arc<Mutex<BTreeMap<SinkName, ReporterLink>>>,
    /// What is kept for the configured panel while there is none.
    kept: Arc<Mutex<Option<Bytes>>>,
}

impl KernelSinks {
    pub(super) fn of(sinks: Vec<Arc<dyn Sink>>) -> Self {
        let these = Self::default();
        these.set(sinks);
        these
    }

    /// The list from now on.
    pub(super) fn set(&self, sinks: Vec<Arc<dyn Sink>>) {
        let stays = |name: &SinkName| sinks.iter().any(|sink| sink.name() == *name);
        self.locked().retain(|name, link| {
            let stays = stays(name);
            if !stays {
                link.flushes.close(None);
            }
            stays
        });
        self.list.send_replace(sinks.into());
    }

    pub(super) fn now(&self) -> List {
        self.list.borrow().clone()
    }

    pub(super) fn names(&self) -> Vec<SinkName> {
        self.now().iter().map(|sink| sink.name()).collect()
    }

    /// What is between a sink's reporter and others; as it was, where it has had one.
    pub(super) fn link(
        &self,
        sink: &dyn Sink,
        make: impl FnOnce() -> ReporterLink,
    ) -> ReporterLink {
        self.locked()
            .entry(sink.name())
            .or_insert_with(make)
            .clone()
    }

    /// Of all sinks that have a reporter.
    pub(super) fn links(&self) -> Vec<ReporterLink> {
        self.locked().values().cloned().collect()
    }

    /// What is kept for the configured panel while there is none; nothing where it is there.
    pub(super) fn keep_for_panel(&self, bytes: Option<Bytes>) {
        let bytes = bytes.filter(|bytes| !bytes.is_zero());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = bytes.filter(|_| *kept != bytes) {
            warn!(
                sink = KERNEL,
                up = bytes.up,
                down = bytes.down,
                "{NOT_CONFIGURED}: bytes that it had not taken are kept until it is there again"
            );
        }
        *kept = bytes;
    }

    /// Shows what is kept for the configured panel.
    pub(super) fn kept(&self) -> Option<SinkStatus> {
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.map(|bytes| SinkStatus {
            sink: KERNEL.to_owned(),
            untold_bytes: bytes.total(),
            error: Some(format!(
                "{NOT_CONFIGURED}: {} bytes are kept until it is there again",
                bytes.total()
            )),
            fault: true,
            ..SinkStatus::default()
        })
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<SinkName, ReporterLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what the reporter of a sink needs.
pub(super) type MakeParts = Arc<dyn Fn(&Arc<dyn Sink>) -> ReporterParts + Send + Sync>;

type Served = FuturesUnordered<Abortable<BoxFuture<'static, ()>>>;

/// Serves the list until the end is asked for, and its reporters have ended.
pub(super) async fn run(
    sinks: KernelSinks,
    make: MakeParts,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut list = sinks.list.subscribe();
    let mut served: Vec<(Arc<dyn Sink>, AbortHandle)> = Vec::new();
    let mut reporters = Served::new();
    loop {
        let now = list.borrow_and_update().clone();
        served.retain(|(sink, reporter)| {
            let stays = now.iter().any(|it| Arc::ptr_eq(it, sink));
            if !stays {
                // What it has under way is of no more use: its reports are dropped, or, where the
                // sink was made anew, in doubt.
                reporter.abort();
            }
            stays
        });
        for sink in now.iter() {
            if !served.iter().any(|(it, _)| Arc::ptr_eq(it, sink)) {
                let (abort, registration) = AbortHandle::new_pair();
                let reporter = reporter::run(make(sink), shutdown.clone(), heartbeat.clone());
                let reporter: BoxFuture<'static, ()> = Box::pin(reporter);
                reporters.push(Abortable::new(reporter, registration));
                served.push((sink.clone(), abort));
            }
        }
        // All arms are cancel-safe: a reporter stays in its place.
        tokio::select! {
            () = shutdown.requested() => break,
            _ = list.changed() => {}
            Some(_) = reporters.next(), if !reporters.is_empty() => {}
            () = tokio::time::sleep(reporter::WAKE) => heartbeat.beat(),
        }
    }
    while reporters.next().await.is_some() {}
}
