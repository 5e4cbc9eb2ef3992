//! The loop of one node: ask the panel, keep the files, give orders to the appliers, and tell how it
//! went. A failed poll leaves everything as it is, and Xray is repaired from the last good answer.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::brake::{Absences, Answer, judge};
use super::link::{ApplierLink, ApplierStatus, NodeLink, NodeReport, Order, Request};
use super::outputs::NodeFiles;
use super::polled::Polled;
use super::state::{read_json, write_json};
use super::status::{InboundStatus, NodeStatus};
use crate::base::clock::Clock;
use crate::base::files::FileError;
use crate::base::retry::Backoff;
use crate::base::said::Said;
use crate::base::supervise::{Heartbeat, Shutdown};
use crate::config::{ApplyMode, Sync};
use crate::model::ids::NodeId;
use crate::model::user_list::{UserList, Users};
use crate::panel::{Allowed, PanelClient, PanelError};

/// Failed polls are repeated no more slowly than this (jitter aside), or every interval if that is
/// longer: the panel's return should be seen soon.
const FAILED_POLL_PAUSE_MAX: Duration = Duration::from_mins(1);
/// What a panel may ask for by `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// Requests that wait on their own; further ones wait together with the newest.
const WAITING_MAX: usize = 64;
/// At the latest after this the loop wakes and looks at the clock.
const WAKE: Duration = Duration::from_secs(30);

/// Everything one node needs.
#[derive(Clone)]
pub(super) struct NodeParts {
    /// The panel's id.
    pub(super) id: NodeId,
    /// What is done with its users.
    pub(super) mode: ApplyMode,
    /// The panel that is polled; `None`: users are only pushed.
    pub(super) panel: Option<Polling>,
    /// Its files.
    pub(super) files: NodeFiles,
    /// `node-<id>.json` in the state folder.
    pub(super) state_file: PathBuf,
    /// Intervals and brake.
    pub(super) sync: Sync,
    /// The clock.
    pub(super) clock: Clock,
    /// Its inbounds, or its hook.
    pub(super) appliers: Vec<ApplierLink>,
    /// Rung by an applier that has something to report.
    pub(super) reported: Arc<Notify>,
    /// Whether it polls by itself; otherwise only when asked.
    pub(super) polls: bool,
}

/// The panel that is polled.
#[derive(Clone)]
pub(super) struct Polling {
    /// By which it is asked.
    pub(super) client: PanelClient,
    /// Where good answers go.
    pub(super) polled: Arc<Polled>,
}

/// Kept from one run to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) absences: Absences,
}

struct NodeLoop {
    parts: NodeParts,
    link: NodeLink,
    status: NodeStatus,
    said: Said,
    backoff: Backoff,
    next_poll: Instant,
    absences: Absences,
    /// The list in the files: allowed, and held.
    listed: Option<Users>,
    /// The last good answer of this process.
    answer: Option<Users>,
    /// The `ETag` of that answer and the order that carries it out.
    etag: Option<(String, u64)>,
    order: u64,
    /// The last order that all appliers carried out.
    applied: u64,
    served: u64,
    /// Requests that wait for their orders to be carried out: the request, and its order.
    waiting: VecDeque<(u64, u64)>,
    /// The order of the first poll.
    first: Option<u64>,
    /// What is in the files: the list, and the answer kept for a start without the panel.
    written: Option<(Users, Users)>,
}

/// Runs until the end is asked for.
pub(super) async fn run(
    parts: NodeParts,
    link: NodeLink,
    mut shutdown: Shutdown,
    heartbeat: Heartbeat,
) {
    let mut requests = link.requests();
    requests.mark_changed();
    let mut node = match NodeLoop::open(parts, link) {
        Ok(node) => node,
        Err(failure) => {
            error!("{failure}");
            return;
        }
    };
    loop {
        heartbeat.beat();
        tokio::select! {
            () = shutdown.requested() => return,
            () = node.turn(&mut requests) => {}
        }
    }
}

impl NodeLoop {
    fn open(parts: NodeParts, link: NodeLink) -> Result<Self, FileError> {
        let kept: Kept = read_json(&parts.state_file, parts.clock)?.unwrap_or_default();
        let listed = parts.files.allowed()?;
        let last = parts.appliers.iter().map(ApplierLink::last_order).max();
        let interval = parts.sync.interval;
        Ok(Self {
            status: NodeStatus {
                hook: None,
                ..link.status().of_panel(parts.panel.is_some())
            },
            said: Said::default(),
            backoff: Backoff::new(interval, FAILED_POLL_PAUSE_MAX),
            next_poll: Instant::now(),
            absences: kept.absences,
            listed,
            answer: None,
            etag: None,
            // A loop that is started anew goes on counting.
            order: last.unwrap_or_default() + 1,
            applied: 0,
            // A request that was answered was for the answer of that moment.
            served: link.last_report().request,
            waiting: VecDeque::new(),
            first: None,
            written: None,
            parts,
            link,
        })
    }

    async fn turn(&mut self, requests: &mut watch::Receiver<Request>) {
        let now = Instant::now();
        let wake = if self.parts.polls {
            self.next_poll.min(now + WAKE)
        } else {
            now + WAKE
        };
        tokio::select! {
            changed = requests.changed() => {
                changed.expect("invariant: the link holds the sender");
                let request = self.link.take_request(requests);
                if request.number > self.served {
                    self.served = request.number;
                    if request.polls {
                        self.poll(request.is_poll, request.force).await;
                    } else {
                        self.pass_again().await;
                    }
                    self.wait_for(request.number);
                }
            }
            () = self.parts.reported.notified() => {}
            () = sleep_until(wake) => {
                if self.parts.polls && Instant::now() >= self.next_poll {
                    // The first poll after a start sees what was seen before it.
                    let is_poll = self.answer.is_some()
                        || (self.parts.panel.is_none() && self.first.is_some());
                    self.poll(is_poll, false).await;
                }
            }
        }
        self.collect().await;
    }

    async fn poll(&mut self, is_poll: bool, force: bool) {
        match self.parts.panel.clone() {
            Some(panel) => self.ask(&panel, is_poll, force).await,
            // What was pushed stands, and stands once more.
            None => self.next_poll = Instant::now() + self.parts.sync.interval,
        }
        self.first.get_or_insert(self.order + 1);
        self.order(is_poll, force).await;
    }

    async fn ask(&mut self, panel: &Polling, is_poll: bool, force: bool) {
        let etag = self
            .etag
            .as_ref()
            .filter(|(_, order)| *order <= self.applied);
        let etag = etag.map(|(etag, _)| &**etag);
        let asked = panel.client.allowed(self.parts.id, etag).await;
        let good = match asked {
            Ok(Allowed::Unchanged) => self.answer.clone(),
            Ok(Allowed::List { list, etag }) => {
                self.etag = etag.map(|etag| (etag, self.order + 1));
                self.take(&list);
                Some(list.users)
            }
            Err(failure) => {
                self.failed(&failure, panel);
                None
            }
        };
        if let Some(users) = good {
            panel.polled.answered(self.parts.id, users.clone());
            self.answered(users, is_poll, force);
        }
    }

    /// A pass with what the panel said last, for another source that says something new.
    async fn pass_again(&mut self) {
        if self.parts.mode == ApplyMode::XrayGrpc {
            self.order(false, false).await;
        }
    }

    async fn order(&mut self, is_poll: bool, force: bool) {
        self.order += 1;
        self.carry_out(is_poll, force).await;
    }

    fn take(&mut self, list: &UserList) {
        if let (Some((place, first)), true) = (
            &list.first_malformed,
            self.status.malformed != list.malformed,
        ) {
            warn!(node = %self.parts.id, entries = list.malformed, "the panel's list has entries \
                that are no UUIDs, which are passed over; the first is entry {place}: {first:?}");
        }
        self.status.malformed = list.malformed;
    }

    fn answered(&mut self, users: Users, is_poll: bool, force: bool) {
        self.backoff.reset();
        self.next_poll = Instant::now() + self.parts.sync.interval;
        self.status.panel_error = None;
        self.said
            .state(&format!("panel, node {}", self.parts.id), None);
        self.status.allowed = Some(users.len());
        let at = self.parts.clock.now();
        self.status.answered_at = Some(at);
        self.listed = Some(self.braked(&users, at, is_poll, force));
        self.answer = Some(users);
    }

    fn failed(&mut self, failure: &PanelError, panel: &Polling) {
        let asked_for = failure
            .retry_after()
            .unwrap_or_default()
            .min(RETRY_AFTER_MAX);
        self.next_poll = Instant::now() + self.backoff.next_pause().max(asked_for);
        let why = failure.to_string();
        self.said
            .state(&format!("panel, node {}", self.parts.id), Some(&why));
        panel.polled.failed(self.parts.id, &why);
        self.status.panel_error = Some(why);
    }

    /// The files' own brake: whoever reads them is not emptied by one bad answer either.
    fn braked(&mut self, users: &Users, at: Timestamp, is_poll: bool, force: bool) -> Users {
        let listed = self.listed.clone().unwrap_or_default();
        let leaving: Vec<_> = listed
            .iter()
            .copied()
            .filter(|user| users.binary_search(user).is_err())
            .collect();
        let half = self.parts.sync.interval / 2;
        let answer = Answer {
            base: listed.len(),
            is_poll,
            at,
            apart: SignedDuration::try_from(half).unwrap_or(SignedDuration::MAX),
            force,
        };
        let verdict = judge(&mut self.absences, &leaving, answer, self.parts.sync.brake);
        self.status.held = verdict.held.len();
        if verdict.held.is_empty() {
            return users.clone();
        }
        let mut both = [&**users, &verdict.held].concat();
        both.sort_unstable();
        both.into()
    }

    /// In `xray-grpc` mode users come first and files after them; a hook finds its files written.
    async fn carry_out(&mut self, is_poll: bool, force: bool) {
        let order = Order {
            number: self.order,
            is_poll,
            force,
            at: self.status.answered_at,
            users: self.listed.clone(),
        };
        if self.parts.mode == ApplyMode::Cmd {
            self.write_files().await;
            if self.status.files_error.is_none() {
                self.give(&order);
            }
        } else {
            self.give(&order);
            self.write_files().await;
        }
    }

    fn give(&self, order: &Order) {
        for applier in &self.parts.appliers {
            applier.give(order.clone());
        }
    }

    async fn write_files(&mut self) {
        let (Some(listed), Some(answer)) = (self.listed.clone(), self.answer.clone()) else {
            return;
        };
        let content = (listed.clone(), answer.clone());
        // Counts of absence are in the files, too: while somebody is held they change.
        if self.status.held == 0
            && self.written.as_ref() == Some(&content)
            && self.parts.files.are_there()
        {
            return;
        }
        let (parts, absences) = (self.parts.clone(), self.absences.clone());
        let (users, held) = (listed.len(), self.status.held);
        let written = spawn_blocking(move || {
            let changed = parts.files.write_allowed(&listed, parts.clock.now())?;
            if let Some(panel) = &parts.panel {
                panel.polled.keep(parts.id, &answer)?;
            }
            let kept = if held > 0 {
                absences
            } else {
                Absences::default()
            };
            write_json(&parts.state_file, &Kept { absences: kept })?;
            Ok::<_, FileError>(changed)
        });
        let written = flat(written.await);
        self.written = written.is_ok().then_some(content);
        // In the other modes whoever applies the list says so.
        if let (ApplyMode::None, Ok(true)) = (self.parts.mode, &written) {
            info!(node = %self.parts.id, users, held, "files changed");
        }
        self.wrote(written.map(drop));
    }

    fn wrote(&mut self, result: Result<(), String>) {
        self.status.files_error = result.err();
        if let Some(why) = &self.status.files_error {
            self.said.failure(why.clone());
        }
    }

    /// Gathers what the appliers report, and tells whoever waits once all of them have reported.
    async fn collect(&mut self) {
        let reports: Vec<_> = self
            .parts
            .appliers
            .iter()
            .map(ApplierLink::last_report)
            .collect();
        self.status.inbounds.clear();
        for report in &reports {
            match &report.status {
                ApplierStatus::Inbound(status) => {
                    self.status.inbounds.push(InboundStatus::clone(status));
                }
                ApplierStatus::Hook(status) => self.status.hook = Some(status.clone()),
            }
        }
        let blocked = self.parts.mode == ApplyMode::Cmd && self.status.files_error.is_some();
        // An order stands for all before it. Passes may take longer than polls: the newest order need
        // never be the one that was carried out.
        let numbers = reports.iter().map(|report| report.number);
        let reached = match numbers.min() {
            Some(number) if !blocked => number.min(self.order),
            _ => self.order,
        };
        let all_done = !blocked && reports.iter().all(|report| report.done);
        if all_done && self.applied < reached {
            self.applied = reached;
            if reached == self.order {
                self.write_applied().await;
            }
        }
        let before = self.link.last_report();
        let attempted = before.attempted || self.first.is_some_and(|first| first <= reached);
        let request = self.answered_until(reached).unwrap_or(before.request);
        self.link.report(NodeReport {
            request,
            attempted,
            status: self.status.clone(),
        });
    }

    /// The last poll was made for this request.
    fn wait_for(&mut self, request: u64) {
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_back();
        }
        self.waiting.push_back((request, self.order));
    }

    /// The last request whose order is carried out now.
    fn answered_until(&mut self, reached: u64) -> Option<u64> {
        let mut last = None;
        while let Some((request, _)) = self.waiting.pop_front_if(|(_, order)| *order <= reached) {
            last = Some(request);
        }
        last
    }

    async fn write_applied(&mut self) {
        let nothing_applies = self.parts.appliers.is_empty();
        let (Some(users), false) = (self.listed.clone(), nothing_applies) else {
            return;
        };
        let parts = self.parts.clone();
        let written =
            spawn_blocking(move || parts.files.write_applied(&users, parts.clock.now())).await;
        self.wrote(flat(written));
    }
}

/// The outcome of a file operation on a thread of its own, as text for the status.
fn flat<T>(outcome: Result<Result<T, FileError>, JoinError>) -> Result<T, String> {
    match outcome {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(panic) => Err(panic.to_string()),
    }
}
