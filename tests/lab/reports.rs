//! The scripted panel's `POST /api/internal/report-traffic`: served by the contract, or with the
//! faults that a test asks for. The whole body is read before any answer.
//!
//! Invariant: what is counted is counted before the answer's delay begins, so a client that gives
//! up waiting was billed all the same.
use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};

use super::answer::{Answer, Sending};
use super::contract::{REMEMBERED, State};
use super::ledger::{Ledger, Report, key_of};
use super::panel::{Panel, REQUEST_BOUND, lock};
use super::wait::eventually;

/// What goes wrong with one report. "Accepts" means by the contract: with a wrong token, for a
/// refused user, or as a repeat at a panel that dedupes, nothing is counted then either.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Closes the connection before it reads the body; nothing is counted.
    CloseBeforeBody,
    /// Reads it, counts nothing and never answers; the connection stays open.
    Hang,
    /// Answers this and counts nothing.
    Instead(Answer),
    /// Accepts, and answers this all the same.
    AcceptThen(Answer),
    /// Accepts, and closes the connection without an answer.
    AcceptThenClose,
    /// Accepts, and never answers; the connection stays open.
    AcceptThenHang,
    /// Accepts, and gives the contract's answer after that time.
    AcceptThenWait(Duration),
}

/// Chooses by the request's number, the first being 1.
type Script = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

/// What the panel knows of the requests to report traffic.
#[derive(Default)]
pub struct Reports {
    pub ledger: Ledger,
    requests: u64,
    headers: VecDeque<HeaderMap>,
    keys: Vec<Option<String>>,
    script: Option<Script>,
    delay: Duration,
    under_way: BTreeSet<u64>,
    newest_beside: Vec<Option<u64>>,
    max_concurrent: usize,
}

impl Reports {
    /// Notes a request whose head has come; its number, and what is to go wrong with it.
    fn arrive(&mut self, headers: &HeaderMap) -> (u64, Option<Fault>) {
        self.requests += 1;
        self.keys.push(key_of(headers));
        self.headers.push_back(headers.clone());
        if self.headers.len() > REMEMBERED {
            self.headers.pop_front();
        }
        self.newest_beside.push(self.under_way.last().copied());
        self.under_way.insert(self.requests);
        self.max_concurrent = self.max_concurrent.max(self.under_way.len());
        let script = self.script.as_mut();
        (
            self.requests,
            script.and_then(|script| script(self.requests)),
        )
    }
}

impl Panel {
    /// Whether a report whose `Idempotency-Key` was accepted before is dropped, and the key echoed
    /// in every answer to a report; at first neither.
    pub fn set_dedupes(&self, on: bool) {
        self.state().reports.ledger.dedupes = on;
    }

    /// From now on reports for that user get this error in the envelope, and do not count.
    pub fn refuse(&self, uuid: &str, status: u16, message: &str) {
        let refusal = Answer::error(status, message);
        let refused = &mut self.state().reports.ledger.refused;
        refused.insert(uuid.to_owned(), refusal);
    }

    /// Ends a refusal.
    pub fn refuse_no_more(&self, uuid: &str) {
        self.state().reports.ledger.refused.remove(uuid);
    }

    /// From now on this goes wrong with every report; None: nothing. Replaces a script.
    pub fn set_report_fault(&self, fault: Option<Fault>) {
        let script = fault.map(|fault| Box::new(move |_| Some(fault.clone())) as Script);
        self.state().reports.script = script;
    }

    /// Asks `script` what goes wrong with each report, by its number among all requests to report
    /// traffic, from 1. It must not call the panel, which is locked meanwhile.
    pub fn script_report_faults(&self, script: impl FnMut(u64) -> Option<Fault> + Send + 'static) {
        self.state().reports.script = Some(Box::new(script));
    }

    /// How long every report's answer takes, from when it was counted.
    pub fn set_report_delay(&self, delay: Duration) {
        self.state().reports.delay = delay;
    }

    /// Requests to report traffic so far, whatever came of them.
    pub fn report_requests(&self) -> u64 {
        self.state().reports.requests
    }

    /// The headers of the last requests to report traffic, oldest first.
    pub fn report_headers(&self) -> Vec<HeaderMap> {
        self.state().reports.headers.iter().cloned().collect()
    }

    /// The `Idempotency-Key` of every request to report traffic, whatever came of it, in order.
    pub fn report_keys(&self) -> Vec<Option<String>> {
        self.state().reports.keys.clone()
    }

    /// Requests to report traffic that have come and are not answered yet.
    pub fn concurrent_reports(&self) -> usize {
        self.state().reports.under_way.len()
    }

    /// For every request to report traffic, in order: the number of the newest other one that was
    /// not answered yet when it came.
    pub fn newest_reports_beside(&self) -> Vec<Option<u64>> {
        self.state().reports.newest_beside.clone()
    }

    /// The most that there ever were at once.
    pub fn max_concurrent_reports(&self) -> usize {
        self.state().reports.max_concurrent
    }

    /// Every accepted report, repeats included, in order of acceptance.
    pub fn reports(&self) -> Vec<Report> {
        self.state().reports.ledger.log().to_vec()
    }

    /// The accepted reports of that user on all nodes, repeats included.
    pub fn reports_of(&self, uuid: &str) -> Vec<Report> {
        let state = self.state();
        let log = state.reports.ledger.log().iter();
        log.filter(|report| report.uuid == uuid).cloned().collect()
    }

    /// How many reports came whose key had been accepted before, counted again or not.
    pub fn repeats(&self) -> usize {
        let state = self.state();
        let log = state.reports.ledger.log().iter();
        log.filter(|report| report.repeat).count()
    }

    /// Bytes up and down that were counted for that user on that node.
    pub fn billed(&self, node: u64, uuid: &str) -> (u64, u64) {
        self.state().reports.ledger.billed(node, uuid)
    }

    /// Bytes up and down that were counted for all.
    pub fn billed_total(&self) -> (u64, u64) {
        self.state().reports.ledger.total()
    }

    /// All that it has accepted, and how it takes reports: to be put back by [`Panel::set_books`].
    pub fn books(&self) -> Ledger {
        self.state().reports.ledger.clone()
    }

    /// Makes it know what it knew when these were taken.
    pub fn set_books(&self, books: Ledger) {
        self.state().reports.ledger = books;
    }

    /// Waits until at least `count` reports have been accepted in all, repeats included.
    pub async fn await_reports(&self, count: usize) -> Result<()> {
        let what = format!("{count} reports accepted");
        eventually(&what, REQUEST_BOUND, async || {
            self.state().reports.ledger.log().len() >= count
        })
        .await
    }

    /// Waits until at least `count` requests to report traffic have come in all.
    pub async fn await_report_requests(&self, count: u64) -> Result<()> {
        let what = format!("{count} requests to report traffic");
        eventually(&what, REQUEST_BOUND, async || {
            self.report_requests() >= count
        })
        .await
    }
}

/// Is that request for [`serve`]?
pub fn is_report(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/api/internal/report-traffic"
}

/// Takes one report; an error closes the connection.
pub async fn serve(
    request: Request<Incoming>,
    state: &Arc<Mutex<State>>,
) -> io::Result<Response<Sending>> {
    let (head, body) = request.into_parts();
    let (number, fault) = lock(state).reports.arrive(&head.headers);
    let _in_flight = InFlight { state, number };
    let body = match fault {
        Some(Fault::CloseBeforeBody) => Bytes::new(),
        _ => body.collect().await.map_err(io::Error::other)?.to_bytes(),
    };
    let take = || lock(state).take_report(number, &head.headers, &body);
    let answer = match fault {
        Some(Fault::CloseBeforeBody) => Answer::close(),
        Some(Fault::Hang) => pending().await,
        Some(Fault::Instead(answer)) => answer,
        Some(Fault::AcceptThen(answer)) => {
            take();
            answer
        }
        Some(Fault::AcceptThenClose) => {
            take();
            Answer::close()
        }
        Some(Fault::AcceptThenHang) => {
            take();
            pending().await
        }
        Some(Fault::AcceptThenWait(delay)) => {
            let answer = take();
            tokio::time::sleep(delay).await;
            answer
        }
        None => take(),
    };
    let (answer, delay) = {
        let reports = &lock(state).reports;
        (reports.ledger.signed(&head.headers, answer), reports.delay)
    };
    tokio::time::sleep(delay).await;
    answer.send().await
}

/// A request that is not answered yet; also one whose client went away counts no longer.
struct InFlight<'a> {
    state: &'a Mutex<State>,
    number: u64,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        lock(self.state).reports.under_way.remove(&self.number);
    }
}
