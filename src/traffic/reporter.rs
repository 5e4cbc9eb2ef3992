//! Carries the ledger's reports to one sink: closes a period at every interval, sends the oldest first,
//! some at once, and writes down what became of each. Keeps: nothing is sent that the ledger does not
//! hold as *sending*; what was under way when we were cut off is unknown.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::classify::{Verdict, classify};
use super::ledger::{Claimed, Done, Fate, Ledger, Turn, Whose};
use super::link::Orders;
use super::pace::Pace;
use super::sink::Sink;
use super::status::SinkStatus;
use crate::base::clock::Clock;
use crate::base::failpoint;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::config::OnUnknown;
use crate::model::report::Answer;
use crate::store::StoreError;

/// A panel that drops repeats does so for a day at least; later the same number may count again.
const REMEMBERED: Duration = Duration::from_hours(24);
/// After the ledger failed.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);
/// At the latest after this the loop wakes, so that it can be seen to live.
pub(super) const WAKE: Duration = Duration::from_secs(30);
/// The last flush is over within this time from the wish to end; the rest stays.
const LAST_FLUSH_TAKES: Duration = Duration::from_secs(5);
/// Of which at most this is spent on waiting for the last reads.
const LAST_READS_TAKE: Duration = Duration::from_millis(2_500);
/// Before another run takes over, what is under way is waited for this long: the panel's default
/// timeout. It costs nothing but that reports go on so much later.
const ANSWERS_TAKE: Duration = Duration::from_secs(10);
/// What is still under way is left this long before the end, so that it can be written down.
const WRITING_TAKES: Duration = Duration::from_millis(500);

/// What the loop of one sink needs.
#[derive(Clone)]
pub(super) struct ReporterParts {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) ledger: Ledger,
    pub(super) interval: Duration,
    pub(super) on_unknown: OnUnknown,
    pub(super) on_stop: bool,
    /// The end that is asked for is followed by another run.
    pub(super) hands_over: Arc<AtomicBool>,
    pub(super) clock: Clock,
    pub(super) link: ReporterLink,
    /// Each tells when its collector has read for the last time.
    pub(super) collectors: Vec<watch::Receiver<bool>>,
}

/// Between the loop and the others.
#[derive(Clone)]
pub(super) struct ReporterLink {
    /// Close everything and send what can be sent; answered with what went wrong.
    pub(super) flushes: Orders<Option<String>>,
    /// Reports are there that should go at once.
    pub(super) reports: Arc<watch::Sender<u64>>,
    pub(super) status: Arc<watch::Sender<SinkStatus>>,
}

/// Runs until the end is asked for.
pub(super) async fn run(parts: ReporterParts, mut shutdown: Shutdown, heartbeat: Heartbeat) {
    let mut reporter = Reporter::new(parts);
    loop {
        heartbeat.beat();
        // The wait is cancel-safe, and what follows it is not cut short by the wish to end.
        tokio::select! {
            () = shutdown.requested() => break,
            () = reporter.wait() => {}
        }
        reporter.act().await;
    }
    if reporter.parts.hands_over.load(Ordering::Relaxed) {
        reporter.hand_over(Instant::now() + ANSWERS_TAKE).await;
    } else if reporter.parts.on_stop {
        reporter.finish(Instant::now() + LAST_FLUSH_TAKES).await;
    } else {
        reporter.leave().await;
    }
}

/// Reports that went together, and what was answered.
type Answered = (Vec<Claimed>, Answer);
type UnderWay = FuturesUnordered<BoxFuture<'static, Answered>>;

struct Reporter {
    parts: ReporterParts,
    pace: Pace,
    under_way: UnderWay,
    /// Of those under way, their places in the ledger.
    places: Vec<i64>,
    /// Answers that came while the ledger was at work.
    answered: Vec<Answered>,
    /// What became of reports and is not written down yet.
    done: Vec<Done>,
    /// `None` until the ledger was looked at.
    dedupes: Option<bool>,
    /// That has changed and is not written down yet.
    has_learnt: bool,
    /// There may be reports that can go.
    may_have_work: bool,
    /// A turn failed: perhaps it was written all the same.
    adrift: bool,
    next_close: Instant,
    not_before: Option<Instant>,
    flushing: Option<u64>,
    flushes: watch::Receiver<u64>,
    reports: watch::Receiver<u64>,
    ledger_error: Option<String>,
    said: Said,
}

impl Reporter {
    fn new(parts: ReporterParts) -> Self {
        let flushes = parts.link.flushes.subscribe();
        let reports = parts.link.reports.subscribe();
        Self {
            pace: Pace::of(parts.sink.batch_max()),
            under_way: FuturesUnordered::new(),
            places: Vec::new(),
            answered: Vec::new(),
            done: Vec::new(),
            dedupes: None,
            has_learnt: false,
            may_have_work: true,
            adrift: false,
            next_close: Instant::now() + parts.interval,
            not_before: None,
            flushing: None,
            flushes,
            reports,
            ledger_error: None,
            said: Said::default(),
            parts,
        }
    }

    /// Until there is a reason to do something. Cancel-safe: what came is kept in `self`.
    async fn wait(&mut self) {
        if let Some(at) = self.not_before.take() {
            sleep_until(at).await;
        }
        if self.can_go_on() {
            return;
        }
        let now = Instant::now();
        let resumes = self.pace.resumes_at(now.into_std());
        let wakes = resumes
            .filter(|_| self.may_have_work)
            .map_or(now + WAKE, |at| Instant::from_std(at).min(now + WAKE));
        tokio::select! {
            Some(answered) = self.under_way.next(), if !self.under_way.is_empty() => {
                self.heard(answered);
            }
            _ = self.flushes.changed() => {
                self.flushing = Some(self.parts.link.flushes.last());
                self.next_close = Instant::now();
            }
            _ = self.reports.changed() => self.may_have_work = true,
            () = sleep_until(self.next_close.min(wakes)) => {}
        }
    }

    fn can_go_on(&self) -> bool {
        self.dedupes.is_none()
            || !self.done.is_empty()
            || (self.may_have_work && self.free_places() > 0)
            || (self.flushing.is_some() && self.is_quiet())
    }

    fn free_places(&self) -> usize {
        let now = Instant::now().into_std();
        self.pace.places(self.under_way.len(), now) * self.pace.batch()
    }

    /// Nothing is under way, and nothing can be sent now.
    fn is_quiet(&self) -> bool {
        let idle = self.under_way.is_empty() && self.done.is_empty();
        idle && (!self.may_have_work || self.free_places() == 0)
    }

    /// Does whatever is due.
    async fn act(&mut self) {
        let acted = self.try_to_act().await;
        let failed = acted.as_ref().err().map(ToString::to_string);
        if failed.is_some() {
            self.not_before = Some(Instant::now() + LEDGER_PAUSE);
        }
        self.ledger_error.clone_from(&failed);
        // Before the answer: whoever waits for that looks here next.
        self.tell();
        if failed.is_some() || (self.flushing.is_some() && self.is_quiet()) {
            self.answer_flush();
        }
    }

    fn answer_flush(&mut self) {
        if let Some(number) = self.flushing.take() {
            let trouble = self.trouble();
            self.parts.link.flushes.answer(number, trouble);
        }
    }

    async fn try_to_act(&mut self) -> Result<(), StoreError> {
        if self.dedupes.is_none() {
            self.begin().await?;
        }
        while let Some(Some(answered)) = self.under_way.next().now_or_never() {
            self.answered.push(answered);
        }
        self.hear_all();
        if Instant::now() >= self.next_close {
            self.next_close = Instant::now() + self.parts.interval;
            self.close().await?;
            self.may_have_work = true;
        }
        self.turn().await?;
        if self.has_learnt {
            self.keep_what_was_learnt().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let (sink, fit) = (self.parts.sink.name(), self.parts.sink.fit());
        let ledger = self.parts.ledger.clone();
        let closed = self
            .hearing(ledger.close_fit(&sink, Whose::All, fit))
            .await?;
        self.parts.link.status.send_modify(|status| {
            status.untold = closed.left;
            status.untold_bytes = closed.left_bytes.total();
        });
        Ok(())
    }

    /// The first look at the ledger: what was under way when we ended is unknown.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let (sink, ledger) = (&self.parts.sink, &self.parts.ledger);
        let name = sink.name();
        let orphans = ledger.orphans(&name).await?;
        let dedupes = ledger.dedupes(&name, sink.address()).await?;
        if orphans > 0 {
            warn!(
                sink = &*name,
                reports = orphans,
                "the agent ended while reports were being sent: whether they arrived is unknown"
            );
        }
        self.dedupes = Some(dedupes);
        self.release().await
    }

    /// Waits for the ledger, and takes answers in as they come: one that came in time counts as such,
    /// however long the disk takes.
    async fn hearing<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            // Both are cancel-safe: neither is dropped before it is over.
            tokio::select! {
                done = &mut work => return done,
                Some(answered) = self.under_way.next(), if !self.under_way.is_empty() => {
                    self.answered.push(answered);
                }
            }
        }
    }

    fn hear_all(&mut self) {
        for answered in std::mem::take(&mut self.answered) {
            self.heard(answered);
        }
    }

    async fn keep_what_was_learnt(&mut self) -> Result<(), StoreError> {
        let (sink, ledger) = (self.parts.sink.clone(), self.parts.ledger.clone());
        let dedupes = self.dedupes.unwrap_or(false);
        self.hearing(ledger.keep_dedupes(&sink.name(), sink.address(), dedupes))
            .await?;
        self.has_learnt = false;
        self.release().await
    }

    /// Sends unknown ones again, where that is safe or wanted.
    async fn release(&mut self) -> Result<(), StoreError> {
        if self.resends() {
            let (sink, within) = (self.parts.sink.name(), self.resend_within());
            let ledger = self.parts.ledger.clone();
            let released = self.hearing(ledger.release(&sink, within)).await?;
            if released > 0 {
                info!(
                    sink = &*sink,
                    reports = released,
                    "unknown reports are sent again, under their numbers"
                );
                self.may_have_work = true;
            }
        }
        Ok(())
    }

    fn resends(&self) -> bool {
        match self.parts.on_unknown {
            OnUnknown::Resend => true,
            OnUnknown::Hold => false,
            OnUnknown::Auto => self.dedupes == Some(true),
        }
    }

    /// For how long a report in doubt may be sent again; `None`: for ever.
    fn resend_within(&self) -> Option<Duration> {
        match self.parts.on_unknown {
            OnUnknown::Resend => None,
            _ if self.resends() => Some(REMEMBERED),
            _ => Some(Duration::ZERO),
        }
    }

    /// Writes down what came, takes what may go, and sends it.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let places = if self.may_have_work {
            self.free_places()
        } else {
            0
        };
        if places == 0 && self.done.is_empty() && !self.adrift {
            return Ok(());
        }
        let turn = Turn {
            done: self.done.clone(),
            places,
            together: self.pace.is_batched(),
            fit: self.parts.sink.fit(),
            resend_within: self.resend_within(),
            only_under_way: self.adrift.then(|| self.places.clone()),
        };
        self.adrift = true;
        let (sink, ledger) = (self.parts.sink.name(), self.parts.ledger.clone());
        let batch = self.pace.batch();
        let claimed = self.hearing(ledger.turn(&sink, turn)).await?;
        self.adrift = false;
        self.done.clear();
        if places > 0 {
            // Fewer than asked for: the others wait for what is under way, or there are none.
            self.may_have_work = claimed.len() == places;
        }
        for batch in claimed.chunks(batch) {
            self.send(batch.to_vec());
        }
        self.hear_all();
        Ok(())
    }

    fn send(&mut self, claimed: Vec<Claimed>) {
        let sink = self.parts.sink.clone();
        self.places.extend(claimed.iter().map(Claimed::seq));
        self.under_way.push(Box::pin(async move {
            failpoint::reach("report.before_send");
            let reports: Vec<_> = claimed.iter().map(|each| each.report.clone()).collect();
            let answer = sink.send(&reports).await;
            failpoint::reach("report.after_send");
            (claimed, answer)
        }));
    }

    /// Takes in an answer.
    fn heard(&mut self, (claimed, answer): Answered) {
        let is_over = |place: &i64| claimed.iter().any(|claimed| claimed.seq() == *place);
        self.places.retain(|place| !is_over(place));
        let verdict = classify(&answer);
        self.pace.heard(&verdict, Instant::now().into_std());
        self.learn(&answer, &verdict);
        let fate = match verdict {
            Verdict::Settled => {
                let now = self.parts.clock.now();
                self.parts
                    .link
                    .status
                    .send_modify(|status| status.settled_at = Some(now));
                Fate::Settled
            }
            Verdict::Rejected { words } => Fate::Rejected(words),
            Verdict::Pending { why, .. } => Fate::Pending(why),
            Verdict::Unknown { why } => Fate::Unknown {
                words: why,
                resend: self.resends(),
            },
        };
        self.done
            .extend(claimed.iter().map(|claimed| claimed.done(fate.clone())));
        self.may_have_work = true;
    }

    /// Whether the sink drops repeats shows in its answers.
    fn learn(&mut self, answer: &Answer, verdict: &Verdict) {
        let Answer::Replied(reply) = answer else {
            return;
        };
        let shows = reply.envelope.is_some() && (reply.echoes_key || *verdict == Verdict::Settled);
        if shows && self.dedupes != Some(reply.echoes_key) {
            self.dedupes = Some(reply.echoes_key);
            self.has_learnt = true;
        }
    }

    fn trouble(&self) -> Option<String> {
        let of_sink = self.pace.trouble().map(|trouble| trouble.why.clone());
        self.ledger_error.clone().or(of_sink)
    }

    fn tell(&mut self) {
        let now = Instant::now().into_std();
        let resumes_at = self
            .pace
            .resumes_at(now)
            .and_then(|at| self.parts.clock.now().checked_add(at - now).ok());
        let trouble = self.pace.trouble().cloned();
        self.parts.link.status.send_modify(|status| {
            status.under_way = self.places.len();
            status.at_once = self.pace.at_once() * self.pace.batch();
            status.dedupes = self.dedupes.unwrap_or(false);
            status.fault = trouble.as_ref().is_some_and(|trouble| trouble.fault);
            status.resumes_at = resumes_at;
        });
        let error = self.trouble();
        self.said.state(&self.parts.sink.name(), error.as_deref());
        self.parts
            .link
            .status
            .send_modify(|status| status.error = error);
    }

    /// One flush before the end.
    async fn finish(&mut self, deadline: Instant) {
        let reads = futures_util::future::join_all(
            self.parts
                .collectors
                .iter_mut()
                .map(|ended| async move { ended.wait_for(|ended| *ended).await.is_ok() }),
        );
        let _ = timeout_at(deadline.min(Instant::now() + LAST_READS_TAKE), reads).await;
        self.next_close = Instant::now();
        let until = deadline - WRITING_TAKES;
        loop {
            self.not_before = None;
            self.act().await;
            let over = self.ledger_error.is_some() || self.is_quiet();
            if over || timeout_at(until, self.wait()).await.is_err() {
                break;
            }
        }
        self.leave().await;
    }

    /// Waits for what is under way, and sends nothing more.
    async fn hand_over(&mut self, deadline: Instant) {
        // Cancel-safe: what was not heard in time stays under way.
        while let Ok(Some(answered)) = timeout_at(deadline, self.under_way.next()).await {
            self.answered.push(answered);
        }
        self.leave().await;
    }

    /// Whatever is still under way is unknown from now on.
    async fn leave(&mut self) {
        self.hear_all();
        self.under_way.clear();
        self.may_have_work = false;
        if !self.places.is_empty() || !self.done.is_empty() || self.adrift {
            let turn = Turn {
                done: std::mem::take(&mut self.done),
                only_under_way: self.adrift.then(|| self.places.clone()),
                ..Turn::default()
            };
            let sink = self.parts.sink.name();
            let written = self.parts.ledger.turn(&sink, turn).await;
            if written.is_ok() && !self.places.is_empty() {
                let _ = self.parts.ledger.orphans(&sink).await;
            }
        }
        self.answer_flush();
    }
}
