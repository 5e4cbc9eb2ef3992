//! The loop of one sink with a real ledger and a sink that fails as sinks do, on paused time: whatever
//! goes wrong, every byte is in one place, and nobody is billed more than was counted.
//!
//! In one file of some length: what the sink remembers is what each test judges by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;

use super::baselines::Bytes;
use super::forms::Forms;
use super::ledger::{Ledger, Reading, Turn, Whose, views::NodeTotals};
use super::link::Orders;
use super::receivers::SinkName;
use super::reporter::{self, ReporterLink, ReporterParts};
use super::sink::Sink;
use super::status::SinkStatus;
use crate::base::clock::Clock;
use crate::base::supervise::{Ended, Kind, Supervisor};
use crate::config::OnUnknown;
use crate::model::desired::InboundKey;
use crate::model::email::Emails;
use crate::model::ids::{NodeId, UserId};
use crate::model::report::{Answer, Decision, Envelope, Reply, Report, ReportId};
use crate::traffic::ledger::Fate;
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

const SINK: &str = "test";
/// How long a sink takes to answer.
const TAKES: Duration = Duration::from_millis(20);
/// Until the ledger is looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// A bound against hanging.
const LONG: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

type Script = Box<dyn FnMut(&Report) -> Deed + Send>;

/// What a sink does with one report.
#[derive(Clone, Copy, Debug)]
struct Deed {
    /// Whether it counts it.
    takes: bool,
    says: Says,
}

#[derive(Clone, Copy, Debug)]
enum Says {
    Word(i64, &'static str),
    Html(u16),
    Wait(Duration),
    NotSent,
    Lost,
}

/// A sink with a memory of everything.
struct Fake {
    dedupes: bool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    script: Option<Script>,
    billed: BTreeMap<UserId, Bytes>,
    keys: BTreeSet<ReportId>,
    lost: BTreeSet<ReportId>,
    sent_again_after_an_unknown: usize,
    under_way: Vec<UserId>,
    most: usize,
    two_of_one_user: usize,
}

impl Fake {
    fn new(dedupes: bool, script: impl FnMut(&Report) -> Deed + Send + 'static) -> Arc<Self> {
        let seen = Seen {
            script: Some(Box::new(script)),
            ..Seen::default()
        };
        Arc::new(Self {
            dedupes,
            seen: Mutex::new(seen),
        })
    }

    fn billed(&self) -> Bytes {
        let seen = self.seen.lock().unwrap();
        let all = seen.billed.values();
        all.fold(Bytes::default(), |sum, each| sum.plus(*each))
    }

    fn take(&self, report: &Report) -> Says {
        let mut seen = self.seen.lock().unwrap();
        seen.two_of_one_user += usize::from(seen.under_way.contains(&report.user));
        seen.under_way.push(report.user);
        seen.most = seen.most.max(seen.under_way.len());
        seen.sent_again_after_an_unknown += usize::from(seen.lost.contains(&report.id));
        let mut script = seen.script.take().unwrap();
        let deed = script(report);
        seen.script = Some(script);
        if deed.takes && (seen.keys.insert(report.id) || !self.dedupes) {
            let billed = seen.billed.entry(report.user).or_default();
            *billed = billed.plus(bytes_of(report));
        }
        if matches!(deed.says, Says::Lost | Says::Html(_)) {
            seen.lost.insert(report.id);
        }
        deed.says
    }

    fn answer(&self, says: Says) -> Answer {
        let why = "lost".to_owned();
        let (status, envelope) = match says {
            Says::NotSent => return Answer::NotSent { why },
            Says::Lost => return Answer::Lost { why },
            Says::Html(status) => (status, None),
            Says::Word(code, message) => (u16::try_from(code).unwrap(), Some((code, message))),
            Says::Wait(_) => (429, Some((429, "slower"))),
        };
        let retry_after = match says {
            Says::Wait(pause) => Some(pause),
            _ => None,
        };
        Answer::Replied(Reply {
            status,
            retry_after,
            echoes_key: self.dedupes && envelope.is_some(),
            envelope: envelope.map(|(code, message)| Envelope {
                code,
                message: message.to_owned(),
            }),
            shown: format!("answered {status}"),
        })
    }
}

impl Sink for Fake {
    fn name(&self) -> SinkName {
        SINK.into()
    }

    fn address(&self) -> String {
        "http://sink.test".to_owned()
    }

    fn send<'a>(&'a self, reports: &'a [Report]) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let [report] = reports else {
                panic!("{} at once", reports.len());
            };
            let says = self.take(report);
            sleep(TAKES).await;
            let mut seen = self.seen.lock().unwrap();
            let place = seen.under_way.iter().position(|user| *user == report.user);
            seen.under_way.swap_remove(place.unwrap());
            drop(seen);
            self.answer(says)
        })
    }
}

fn bytes_of(report: &Report) -> Bytes {
    Bytes {
        up: report.up,
        down: report.down,
    }
}

const SETTLES: Deed = Deed {
    takes: true,
    says: Says::Word(200, "ok"),
};

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// One in five meets one of the ways in which panels and what is before them fail; a panel
    /// refuses all reports of one user in fifty.
    fn deed(&mut self, report: &Report) -> Deed {
        let number = u32::from_str_radix(&report.user.text()[..8], 16).unwrap();
        let is_refused = number.is_multiple_of(50);
        let deed = |takes, says| Deed {
            takes: takes && !is_refused,
            says,
        };
        match self.below(50) {
            0 => deed(true, Says::Lost),
            1 => deed(false, Says::Lost),
            2 => deed(true, Says::Html(502)),
            3 => deed(false, Says::Html(504)),
            4 => deed(true, Says::Html(200)),
            5 => deed(false, Says::NotSent),
            6 => deed(false, Says::Word(500, "db")),
            7 => deed(false, Says::Word(503, "busy")),
            8 => deed(false, Says::Wait(Duration::from_secs(3))),
            _ if is_refused => deed(false, Says::Word(403, "no_entitlement_for_node")),
            _ => SETTLES,
        }
    }
}

/// A ledger, and the counters of an Xray that fill it.
struct Desk {
    ledger: Ledger,
    clock: Clock,
    counted: BTreeMap<u32, u32>,
    _folder: tempfile::TempDir,
}

fn user(number: u32) -> UserId {
    UserId::parse(&name(number)).unwrap()
}

fn name(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::following(Timestamp::now());
        Self {
            ledger: Ledger::start(folder.path(), [SINK], clock).unwrap(),
            clock,
            counted: BTreeMap::new(),
            _folder: folder,
        }
    }

    /// These users have so many bytes more from them, and twice as many to them; in a report each.
    async fn count(&mut self, users: impl IntoIterator<Item = u32>, bytes: u32) {
        for number in users {
            *self.counted.entry(number).or_default() += bytes;
        }
        let counters = self.counted.iter().flat_map(|(number, bytes)| {
            let counter = |way: &str, bytes: i64| {
                let name = name(*number);
                (format!("user>>>{name}>>>traffic>>>{way}link"), bytes)
            };
            let bytes = i64::from(*bytes);
            [counter("up", bytes), counter("down", 2 * bytes)]
        });
        let emails = Emails::first("in", true);
        let reading = Reading {
            xray: "xray".into(),
            forms: Arc::new(Forms::of([(
                InboundKey::of(NodeId(1), "main", "in-1"),
                &emails,
            )])),
            boot: Boot {
                kernel_boot_id: "kernel".to_owned(),
                started_ms: 1_000,
                started_awake_ms: Some(1_000),
                uptime_s: 10,
                total_alloc: 1,
                mallocs: 1,
            },
            remote: false,
            same_connection: true,
            counters: Arc::new(UserCounters::of(counters)),
            adopts: false,
        };
        self.ledger.collect(reading).await.unwrap();
        self.ledger.close(SINK, Whose::All).await.unwrap();
    }

    async fn totals(&self) -> NodeTotals {
        let mut summary = self.ledger.summary().await.unwrap();
        summary.nodes.pop().unwrap()
    }

    fn parts(&self, sink: &Arc<Fake>, on_unknown: OnUnknown) -> ReporterParts {
        ReporterParts {
            hands_over: Arc::default(),
            sink: sink.clone(),
            ledger: self.ledger.clone(),
            interval: Duration::from_mins(1),
            on_unknown,
            on_stop: true,
            clock: self.clock,
            link: ReporterLink {
                flushes: Orders::default(),
                reports: Arc::new(watch::Sender::new(0)),
                status: Arc::new(watch::Sender::new(SinkStatus::default())),
            },
            collectors: Vec::new(),
        }
    }

    /// Carries reports to `sink` until `enough`; how the ledger stands then.
    async fn report(
        &self,
        sink: &Arc<Fake>,
        on_unknown: OnUnknown,
        enough: impl Fn(&NodeTotals) -> bool,
    ) -> NodeTotals {
        let parts = self.parts(sink, on_unknown);
        let mut supervisor = Supervisor::new();
        // Not watched: paused time leaps while the ledger is at work.
        supervisor
            .tasks()
            .task("reports", Kind::Leaf, move |shutdown, heartbeat| {
                reporter::run(parts.clone(), shutdown, heartbeat)
            });
        let until = async {
            while !enough(&self.totals().await) {
                sleep(LOOK).await;
            }
        };
        run(supervisor, until).await;
        let totals = self.totals().await;
        let parts = [totals.settled, totals.open, totals.pending, totals.sending];
        let sum = parts.iter().chain([&totals.rejected, &totals.unknown]);
        let sum = sum.fold(Bytes::default(), |sum, amount| sum.plus(amount.bytes));
        assert_eq!(sum, totals.counted);
        assert_eq!(totals.sending.reports, 0);
        let counted: u32 = self.counted.values().sum();
        assert_eq!(totals.counted.up, u64::from(counted));
        totals
    }
}

/// Runs until `until` is over. The end is on real time: paused time would leap past the limit for it
/// while the ledger is at work.
async fn run(supervisor: Supervisor, until: impl Future<Output = ()>) {
    let until = async {
        until.await;
        tokio::time::resume();
    };
    assert_eq!(supervisor.run(until, LONG).await, Ended::Stopped);
    tokio::time::pause();
}

fn nothing_waits(totals: &NodeTotals) -> bool {
    totals.pending.reports + totals.sending.reports + totals.open.reports == 0
}

fn minus(one: Bytes, other: Bytes) -> Bytes {
    Bytes {
        up: one.up - other.up,
        down: one.down - other.down,
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_drops_repeats_counts_10_000_reports_once_whatever_fails() {
    let mut desk = Desk::new();
    desk.count(0..10_000, 7).await;
    let mut dice = Dice(1);
    let sink = Fake::new(true, move |report| dice.deed(report));
    let totals = desk.report(&sink, OnUnknown::Auto, nothing_waits).await;
    assert_eq!(totals.unknown.reports, 0);
    assert_eq!(totals.rejected.reports, 200, "{totals:?}");
    assert_eq!(sink.billed(), totals.settled.bytes);
    let seen = sink.seen.lock().unwrap();
    assert!(seen.sent_again_after_an_unknown > 500, "faults were met");
    assert_eq!((seen.two_of_one_user, seen.most), (0, 16));
    // Never more than was counted, user by user.
    let right = Bytes { up: 7, down: 14 };
    assert!(seen.billed.values().all(|billed| *billed == right));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_knows_no_repeats_is_never_sent_an_unknown_again() {
    let mut desk = Desk::new();
    desk.count(0..10_000, 7).await;
    let mut dice = Dice(2);
    let sink = Fake::new(false, move |report| dice.deed(report));
    let totals = desk.report(&sink, OnUnknown::Auto, nothing_waits).await;
    assert!(totals.unknown.reports > 500, "{totals:?}");
    let seen = sink.seen.lock().unwrap();
    assert_eq!(seen.sent_again_after_an_unknown, 0);
    let right = Bytes { up: 7, down: 14 };
    assert!(seen.billed.values().all(|billed| *billed == right));
    drop(seen);
    // What it took and we do not know of is among what is held.
    let taken_unknown = minus(sink.billed(), totals.settled.bytes);
    assert!(taken_unknown.up > 0 && taken_unknown.up < totals.unknown.bytes.up);
}

#[tokio::test(start_paused = true)]
async fn one_report_that_fails_for_ever_does_not_keep_the_others_back() {
    for says in [Says::Word(500, "db"), Says::Word(413, "large"), Says::Lost] {
        let mut desk = Desk::new();
        desk.count([0], 1).await;
        let sink = Fake::new(true, move |report| {
            let is_the_one = report.user == user(0);
            let fails = Deed { takes: false, says };
            if is_the_one { fails } else { SETTLES }
        });
        let parts = desk.parts(&sink, OnUnknown::Resend);
        let link = parts.link.clone();
        let mut supervisor = Supervisor::new();
        supervisor
            .tasks()
            .task("reports", Kind::Leaf, move |shutdown, heartbeat| {
                reporter::run(parts.clone(), shutdown, heartbeat)
            });
        let until = async {
            // One after the other, so that each comes while the first has just failed.
            for number in 1..20 {
                desk.count([number], 1).await;
                link.reports.send_modify(|times| *times += 1);
                let deadline = desk.clock.monotonic() + Duration::from_hours(1);
                while desk.totals().await.settled.reports < u64::from(number) {
                    sleep(LOOK).await;
                    assert!(desk.clock.monotonic() < deadline, "{says:?}: {number}");
                }
            }
        };
        run(supervisor, until).await;
        assert_eq!(desk.totals().await.pending.reports, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn reports_of_one_user_go_in_order_and_never_two_at_once() {
    let mut desk = Desk::new();
    let order: Arc<Mutex<Vec<u64>>> = Arc::default();
    let seen = order.clone();
    let mut fails = true;
    let sink = Fake::new(true, move |report| {
        seen.lock().unwrap().push(report.up);
        fails = !fails;
        let down = Deed {
            takes: false,
            says: Says::Word(500, "db"),
        };
        if fails { SETTLES } else { down }
    });
    // Each was sent once before the next is made, so that they are not merged.
    for bytes in 1..=4 {
        desk.count([0], bytes).await;
        let turn = Turn {
            places: 1,
            ..Turn::default()
        };
        let claimed = desk.ledger.turn(SINK, turn).await.unwrap();
        let done = claimed.iter().map(|c| c.done(Fate::Pending("no".into())));
        let turn = Turn {
            done: done.collect(),
            ..Turn::default()
        };
        desk.ledger.turn(SINK, turn).await.unwrap();
    }
    let totals = desk.report(&sink, OnUnknown::Auto, nothing_waits).await;
    assert_eq!(totals.settled.bytes, Bytes { up: 10, down: 20 });
    let mut sent = order.lock().unwrap().clone();
    assert!(sent.is_sorted(), "{sent:?}");
    sent.dedup();
    assert!(sent.len() >= 2 && sink.seen.lock().unwrap().two_of_one_user == 0);
}

/// A report that was lost, and is held.
async fn one_unknown(desk: &mut Desk) -> ReportId {
    desk.count([0], 1).await;
    let turn = Turn {
        places: 1,
        ..Turn::default()
    };
    let claimed = desk.ledger.turn(SINK, turn).await.unwrap();
    let lost = Fate::Unknown {
        words: "lost".to_owned(),
        resend: false,
    };
    let turn = Turn {
        done: vec![claimed[0].done(lost)],
        ..Turn::default()
    };
    desk.ledger.turn(SINK, turn).await.unwrap();
    claimed[0].report.id
}

#[tokio::test(start_paused = true)]
async fn what_is_held_goes_again_within_a_day_and_then_only_on_somebodys_word() {
    let cases = [
        (OnUnknown::Auto, true, DAY / 2, 0),
        (OnUnknown::Auto, true, DAY * 2, 1),
        (OnUnknown::Auto, false, DAY / 2, 1),
        (OnUnknown::Hold, true, DAY / 2, 1),
        (OnUnknown::Resend, false, DAY * 2, 0),
    ];
    for (on_unknown, dedupes, later, held) in cases {
        let mut desk = Desk::new();
        let id = one_unknown(&mut desk).await;
        tokio::time::advance(later).await;
        // Another report, by whose answer the sink shows what it is.
        desk.count([1], 1).await;
        let sink = Fake::new(dedupes, |_| SETTLES);
        let settled = 2 - held;
        let totals = desk
            .report(&sink, on_unknown, |totals| {
                totals.settled.reports >= settled
            })
            .await;
        let case = format!("{on_unknown:?} {dedupes} {later:?}");
        assert_eq!(totals.unknown.reports, held, "{case}");
        let was_sent = sink.seen.lock().unwrap().keys.contains(&id);
        assert_eq!(was_sent, held == 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_in_doubt_that_may_not_go_again_are_held_and_keep_no_place() {
    let mut desk = Desk::new();
    desk.count(0..40, 1).await;
    let turn = Turn {
        places: 40,
        ..Turn::default()
    };
    let claimed = desk.ledger.turn(SINK, turn).await.unwrap();
    // As under `resend`, before somebody changed it.
    let doubted = claimed.iter().map(|claimed| {
        claimed.done(Fate::Unknown {
            words: "lost".to_owned(),
            resend: true,
        })
    });
    let done = doubted.collect();
    let turn = Turn {
        done,
        ..Turn::default()
    };
    desk.ledger.turn(SINK, turn).await.unwrap();
    desk.count([40], 1).await;
    let turn = Turn {
        places: 16,
        resend_within: Some(Duration::ZERO),
        ..Turn::default()
    };
    let claimed = desk.ledger.turn(SINK, turn).await.unwrap();
    let users: Vec<_> = claimed.iter().map(|claimed| claimed.report.user).collect();
    assert_eq!(users, [user(40)]);
    assert_eq!(desk.totals().await.unknown.reports, 40);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_report_that_was_once_in_doubt_is_sent_when_somebody_says_so() {
    let mut desk = Desk::new();
    let id = one_unknown(&mut desk).await;
    let decided = desk.ledger.decide(id, Decision::NotDelivered).await;
    assert_eq!(decided.unwrap(), Ok(id));
    let fates = [
        Fate::Unknown {
            words: "lost".to_owned(),
            resend: true,
        },
        Fate::Rejected("no".to_owned()),
    ];
    for fate in fates {
        let turn = Turn {
            places: 1,
            ..Turn::default()
        };
        let claimed = desk.ledger.turn(SINK, turn).await.unwrap();
        let turn = Turn {
            done: vec![claimed[0].done(fate)],
            ..Turn::default()
        };
        desk.ledger.turn(SINK, turn).await.unwrap();
    }
    let retried = desk.ledger.decide(id, Decision::Retry).await.unwrap();
    assert!(retried.is_ok_and(|new| new != id));
    tokio::time::advance(2 * DAY).await;
    let sink = Fake::new(false, |_| SETTLES);
    let totals = desk.report(&sink, OnUnknown::Auto, nothing_waits).await;
    assert_eq!(totals.settled.reports, 1, "{totals:?}");
}
