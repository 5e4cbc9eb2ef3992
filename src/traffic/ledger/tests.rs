//! The ledger's main promise: whatever is done to it, in whatever order, every byte that was counted
//! is in one place.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::views::{NodeTotals, ShownReport};
use super::*;
use crate::model::desired::InboundKey;
use crate::model::email::Emails;
use crate::model::ids::{NodeId, UserId};
use crate::traffic::baselines::Bytes;
use crate::traffic::forms::Forms;
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

const SINKS: [&str; 2] = ["one", "other"];
const USERS: u8 = 3;
/// Between two starts of the Xray: far above what clocks may differ by.
const RUN_MS: i64 = 1_000_000;

/// The promise is about sums, not about the disk, whose syncs would take most of the time.
const IN_MEMORY: &str = "/dev/shm";

/// Something that happens to a ledger.
#[derive(Clone, Debug)]
enum Step {
    /// A user's counters grow by this, and are read.
    Grow(u8, Bytes),
    /// Somebody else sets a user's counters to this, and they are read.
    Set(u8, Bytes),
    /// Xray starts anew.
    Restart,
    /// A period is closed, for everybody or for one user.
    Close(usize, Option<u8>),
    /// Of the reports under way some come to these ends, and so many are given out.
    Turn(usize, Vec<Fate>, usize),
    /// The same after a turn of which nobody knows whether it was written.
    LostTurn(usize, usize),
    /// The agent ends and starts.
    Reopen,
    /// Meanwhile the wall clock is set to so many days from its first day, before or after.
    SetClock(i64),
    /// What is unknown goes again.
    Release(usize, Option<Duration>),
    /// A person decides of one of the reports.
    Decide(usize, Decision),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || (0..1_000_u64, 0..1_000_u64).prop_map(|(up, down)| Bytes { up, down });
    let sink = || 0..SINKS.len();
    let words = || "why".to_owned();
    let fate = prop_oneof![
        Just(Fate::Settled),
        Just(Fate::Rejected(words())),
        Just(Fate::Pending(words())),
        any::<bool>().prop_map(move |resend| Fate::Unknown {
            words: words(),
            resend
        }),
    ];
    let decision = prop_oneof![
        Just(Decision::Delivered),
        Just(Decision::NotDelivered),
        Just(Decision::Retry)
    ];
    let within = prop_oneof![Just(None), Just(Some(Duration::ZERO))];
    let step = prop_oneof![
        4 => (0..USERS, bytes()).prop_map(|(user, by)| Step::Grow(user, by)),
        1 => (0..USERS, bytes()).prop_map(|(user, to)| Step::Set(user, to)),
        1 => Just(Step::Restart),
        3 => (sink(), prop::option::of(0..USERS)).prop_map(|(sink, who)| Step::Close(sink, who)),
        5 => (sink(), prop::collection::vec(fate, 0..3), 0..4_usize)
            .prop_map(|(sink, fates, places)| Step::Turn(sink, fates, places)),
        1 => (sink(), 0..3_usize).prop_map(|(sink, places)| Step::LostTurn(sink, places)),
        1 => Just(Step::Reopen),
        1 => (-10_000..10_000_i64).prop_map(Step::SetClock),
        1 => (sink(), within).prop_map(|(sink, within)| Step::Release(sink, within)),
        2 => (any::<prop::sample::Index>(), decision)
            .prop_map(|(which, decision)| Step::Decide(which.index(64), decision)),
    ];
    prop::collection::vec(step, 1..20)
}

/// A ledger, what is under way, and by another reckoning what was counted.
struct World {
    folder: TempDir,
    clock: Clock,
    ledger: Ledger,
    started_ms: i64,
    counters: BTreeMap<u8, Bytes>,
    under_way: [Vec<Claimed>; 2],
    counted: Bytes,
}

fn ledger_in(folder: &TempDir, clock: Clock) -> Ledger {
    Ledger::start(folder.path(), SINKS, clock).unwrap()
}

/// A wall clock that shows that day now.
fn clock_of(day: i64) -> Clock {
    let first = jiff::Timestamp::from_second(1_800_000_000).unwrap();
    Clock::following(first + jiff::SignedDuration::from_hours(24 * day))
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir());
        let folder = folder.unwrap();
        let clock = clock_of(0);
        Self {
            ledger: ledger_in(&folder, clock),
            clock,
            folder,
            started_ms: RUN_MS,
            counters: BTreeMap::new(),
            under_way: [Vec::new(), Vec::new()],
            counted: Bytes::default(),
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Grow(user, by) => {
                let now = self.counter(user).plus(by);
                self.read(user, now).await;
            }
            Step::Set(user, to) => self.read(user, to).await,
            Step::Restart => {
                self.started_ms += RUN_MS;
                self.counters.clear();
            }
            Step::Close(sink, who) => {
                let whose = who.map_or(Whose::All, |user| Whose::Users(vec![user_of(user)]));
                self.ledger.close(SINKS[sink], whose).await.unwrap();
            }
            Step::Turn(sink, fates, places) => self.turn(sink, fates, places, false).await,
            Step::LostTurn(sink, places) => self.turn(sink, Vec::new(), places, true).await,
            Step::Reopen => self.reopen().await,
            Step::SetClock(day) => {
                self.clock = clock_of(day);
                self.reopen().await;
            }
            Step::Release(sink, within) => {
                self.ledger.release(SINKS[sink], within).await.unwrap();
            }
            Step::Decide(which, decision) => self.decide(which, decision).await,
        }
    }

    fn counter(&self, user: u8) -> Bytes {
        self.counters.get(&user).copied().unwrap_or_default()
    }

    /// A user's counters are now these, and all are read.
    async fn read(&mut self, user: u8, now: Bytes) {
        let before = self.counter(user);
        let new = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let new = Bytes {
            up: new(now.up, before.up),
            down: new(now.down, before.down),
        };
        self.counters.insert(user, now);
        let collected = self.ledger.collect(self.reading()).await.unwrap();
        assert_eq!(collected.new, new);
        self.counted = self.counted.plus(new);
    }

    fn reading(&self) -> Reading {
        let (a, b) = (Emails::first("a", true), Emails::first("b", false));
        let named = self.counters.iter().flat_map(|(user, bytes)| {
            // Every second one is of the other node.
            let emails = if user % 2 == 0 { &a } else { &b };
            let email = emails.write(user_of(*user));
            [("uplink", bytes.up), ("downlink", bytes.down)].map(|(way, bytes)| {
                (
                    format!("user>>>{email}>>>traffic>>>{way}"),
                    bytes.cast_signed(),
                )
            })
        });
        Reading {
            xray: "main".into(),
            forms: Arc::new(Forms::of([
                (InboundKey::of(NodeId(1), "main", "in-1"), &a),
                (InboundKey::of(NodeId(2), "main", "in-2"), &b),
            ])),
            boot: Boot {
                kernel_boot_id: "of the test".to_owned(),
                started_ms: self.started_ms,
                started_awake_ms: None,
                uptime_s: 1,
                total_alloc: 1,
                mallocs: 1,
            },
            remote: false,
            same_connection: true,
            counters: Arc::new(UserCounters::of(named)),
            adopts: true,
        }
    }

    async fn turn(&mut self, sink: usize, fates: Vec<Fate>, places: usize, lost: bool) {
        let under_way = &mut self.under_way[sink];
        let ended = fates.len().min(under_way.len());
        let done = under_way.drain(..ended).zip(fates);
        let turn = Turn {
            done: done.map(|(claimed, fate)| claimed.done(fate)).collect(),
            places,
            resend_within: None,
            only_under_way: None,
            ..Turn::default()
        };
        let only_under_way = lost.then(|| under_way.iter().map(Claimed::seq).collect());
        let turn = Turn {
            only_under_way,
            ..turn
        };
        let claimed = self.ledger.turn(SINKS[sink], turn).await.unwrap();
        assert!(claimed.len() <= places);
        // That turn's answer did not arrive: nothing of it is sent.
        if !lost {
            under_way.extend(claimed);
        }
    }

    async fn reopen(&mut self) {
        let next = ledger_in(&self.folder, self.clock);
        let former = std::mem::replace(&mut self.ledger, next);
        former.store.close().await;
        for (sink, under_way) in SINKS.into_iter().zip(&mut self.under_way) {
            let orphans = self.ledger.orphans(sink).await.unwrap();
            assert!(orphans >= under_way.len());
            under_way.clear();
        }
    }

    async fn decide(&self, which: usize, decision: Decision) {
        let all = self.reports().await;
        if all.is_empty() {
            return;
        }
        let report = &all[which % all.len()];
        let decided = self.ledger.decide(report.id, decision).await.unwrap();
        let needed = match decision {
            Decision::Delivered | Decision::NotDelivered => State::Unknown,
            Decision::Retry => State::Rejected,
        };
        assert_eq!(decided.is_ok(), report.state == needed, "{report:?}");
        if let Ok(id) = decided {
            assert_eq!(id == report.id, decision != Decision::Retry);
        }
    }

    async fn reports(&self) -> Vec<ShownReport> {
        let read = self.ledger.read("reports", |work| {
            let mut all = Vec::new();
            for state in State::ALL {
                views::each_report(work, state, |report| {
                    all.push(report);
                    true
                })?;
            }
            Ok(all)
        });
        read.await.unwrap()
    }

    /// What was counted is what is in all states, at each node for each sink.
    async fn check(&self) {
        let summary = self.ledger.summary().await.unwrap();
        for sink in SINKS {
            let of_sink: Vec<_> = summary.nodes.iter().filter(|it| it.sink == sink).collect();
            for totals in &of_sink {
                assert_eq!(in_all_states(totals), totals.counted, "{totals:?}");
            }
            let counted = sum(of_sink.iter().map(|totals| totals.counted));
            assert_eq!(counted, self.counted, "{sink}");
        }
    }

    async fn exported(&self, sink: &'static str) -> Bytes {
        let read = self.ledger.read("export", move |work| {
            let mut exported = Bytes::default();
            views::export(work, jiff::Timestamp::UNIX_EPOCH, |line| {
                if line.sink == sink {
                    exported = exported.plus(line.bytes);
                }
                true
            })?;
            Ok(exported)
        });
        read.await.unwrap()
    }
}

fn user_of(user: u8) -> UserId {
    UserId::from_bytes([user; 16])
}

fn sum(all: impl Iterator<Item = Bytes>) -> Bytes {
    all.fold(Bytes::default(), Bytes::plus)
}

fn in_all_states(totals: &NodeTotals) -> Bytes {
    let amounts = [
        totals.settled,
        totals.open,
        totals.pending,
        totals.sending,
        totals.rejected,
        totals.unknown,
    ];
    sum(amounts.into_iter().map(|amount| amount.bytes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_byte_that_was_counted_is_in_one_place_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
            for sink in SINKS {
                assert_eq!(world.exported(sink).await, world.counted, "{sink}");
            }
        });
    }
}

#[tokio::test]
async fn settled_bytes_are_kept_for_so_many_days_that_had_any() {
    let mut world = World::new();
    for day in 0..70 {
        // Some days have nothing.
        world.take(Step::SetClock(3 * day)).await;
        world.take(Step::Grow(0, Bytes { up: 1, down: 0 })).await;
        for step in [
            Step::Close(0, None),
            Step::Turn(0, Vec::new(), 1),
            Step::Turn(0, vec![Fate::Settled], 0),
            Step::Close(0, None),
        ] {
            world.take(step).await;
        }
    }
    assert_eq!(world.exported(SINKS[0]).await.up, 62);
    let summary = world.ledger.summary().await.unwrap();
    assert_eq!(summary.nodes[0].settled.bytes.up, 70);
}
