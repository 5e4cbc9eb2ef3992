//! Sinks of panels that push, beside one of a panel that is polled: whoever wants a user, and however
//! often that changes, each sink has what was counted while its panel wanted it, in one place and once.

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::model::desired::InboundKey;
use crate::model::email::Emails;
use crate::model::ids::{NodeId, UserId};
use crate::model::pushed::{Owner, Owners, PushedBytes, Wants};
use crate::model::report::{Taken, TakenBytes};
use crate::traffic::baselines::Bytes;
use crate::traffic::forms::Forms;
use crate::traffic::receivers::{KERNEL, REPORT_TRAFFIC};
use crate::xray::boot::Boot;
use crate::xray::counters::UserCounters;

const OTHER: &str = "kernel:other";
const USERS: u8 = 3;
const IN_MEMORY: &str = "/dev/shm";

/// Who wants a user, and what was told of him.
#[derive(Default)]
struct Panel {
    wants: Mutex<BTreeMap<UserId, Wants>>,
    counted: Mutex<BTreeMap<UserId, u64>>,
    settled: Mutex<BTreeMap<UserId, u64>>,
    taken: Mutex<BTreeMap<String, Bytes>>,
}

impl Owners for Panel {
    fn wants(&self, _inbound: &InboundKey, user: UserId) -> Wants {
        let wants = self.wants.lock().unwrap();
        wants.get(&user).copied().unwrap_or(Wants::POLLED)
    }

    fn owner(&self, _user: UserId) -> Option<Owner> {
        None
    }
}

impl PushedBytes for Panel {
    fn counted(&self, sums: &[(UserId, u64)]) {
        self.counted.lock().unwrap().extend(sums.iter().copied());
    }

    fn settled(&self, sums: &[(UserId, u64)]) {
        self.settled.lock().unwrap().extend(sums.iter().copied());
    }
}

impl TakenBytes for Panel {
    fn taken(&self, sink: &str, records: &[Taken]) {
        let mut taken = self.taken.lock().unwrap();
        let sum = taken.entry(sink.to_owned()).or_default();
        for record in records {
            *sum = sum.plus(Bytes {
                up: record.up,
                down: record.down,
            });
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A user is wanted so from now on.
    Want(u8, bool, bool),
    /// He moves so much in an inbound.
    Grow(u8, bool, u64),
    /// A sink closes its period.
    Close(usize),
    /// All that it has under way comes to this, and so many are given out.
    Turn(usize, Fate, usize),
    /// The other sink of the pushing panel comes or goes.
    Other(bool),
    /// The agent starts anew.
    Reopen,
}

const SINKS: [&str; 3] = [REPORT_TRAFFIC, KERNEL, OTHER];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        4 => Just(Fate::Settled),
        1 => Just(Fate::Rejected("why".to_owned())),
        1 => Just(Fate::Pending("why".to_owned())),
        1 => any::<bool>().prop_map(|resend| Fate::Unknown { words: "why".to_owned(), resend }),
    ];
    let step = prop_oneof![
        2 => (0..USERS, any::<bool>(), any::<bool>())
            .prop_map(|(user, polled, pushed)| Step::Want(user, polled, pushed)),
        5 => (0..USERS, any::<bool>(), 1..1_000_u64)
            .prop_map(|(user, second, by)| Step::Grow(user, second, by)),
        3 => (0..3_usize).prop_map(Step::Close),
        4 => (0..3_usize, fate, 0..4_usize).prop_map(|(sink, fate, n)| Step::Turn(sink, fate, n)),
        1 => any::<bool>().prop_map(Step::Other),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

struct World {
    folder: TempDir,
    panel: Arc<Panel>,
    ledger: Ledger,
    has_other: bool,
    counters: BTreeMap<(u8, bool), u64>,
    under_way: [Vec<Claimed>; 3],
    /// By another reckoning: what was counted for a sink, and of whom for the pushing panel.
    counted: [u64; 3],
    pushed: BTreeMap<UserId, u64>,
    by_inbound: [u64; 2],
}

fn user_of(user: u8) -> UserId {
    UserId::from_bytes([user; 16])
}

fn open(folder: &TempDir, panel: &Arc<Panel>, has_other: bool) -> Ledger {
    let around = Around {
        owners: panel.clone(),
        pushed_bytes: Some(panel.clone()),
        taken_bytes: Some(panel.clone()),
    };
    let mut sinks = SINKS.map(SinkName::from).to_vec();
    if !has_other {
        sinks.pop();
    }
    let receivers = Receivers::of(sinks);
    Ledger::start_among(folder.path(), receivers, around, Clock::system()).unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir());
        let (folder, panel) = (folder.unwrap(), Arc::new(Panel::default()));
        Self {
            ledger: open(&folder, &panel, true),
            folder,
            panel,
            has_other: true,
            counters: BTreeMap::new(),
            under_way: Default::default(),
            counted: [0; 3],
            pushed: BTreeMap::new(),
            by_inbound: [0; 2],
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Want(user, polled, pushed) => {
                let mut wants = self.panel.wants.lock().unwrap();
                wants.insert(user_of(user), Wants { polled, pushed });
            }
            Step::Grow(user, second, by) => self.grow(user, second, by).await,
            Step::Close(sink) => {
                self.ledger.close(SINKS[sink], Whose::All).await.unwrap();
            }
            Step::Turn(sink, fate, places) => self.turn(sink, &fate, places).await,
            Step::Other(is_there) => self.other(is_there).await,
            Step::Reopen => self.reopen().await,
        }
    }

    async fn grow(&mut self, user: u8, second: bool, by: u64) {
        *self.counters.entry((user, second)).or_default() += by;
        self.ledger.collect(self.reading()).await.unwrap();
        self.by_inbound[usize::from(second)] += by;
        let user = user_of(user);
        let wants = self.panel.wants.lock().unwrap();
        let wants = wants.get(&user).copied().unwrap_or(Wants::POLLED);
        if wants.pushed {
            self.counted[1] += by;
            self.counted[2] += if self.has_other { by } else { 0 };
            *self.pushed.entry(user).or_default() += by;
        }
        if wants.polled || !wants.pushed {
            self.counted[0] += by;
        }
    }

    fn reading(&self) -> Reading {
        let (a, b) = (Emails::first("a", true), Emails::first("b", false));
        let counters = self.counters.iter().map(|((user, second), bytes)| {
            let emails = if *second { &b } else { &a };
            let email = emails.write(user_of(*user));
            let name = format!("user>>>{email}>>>traffic>>>downlink");
            (name, bytes.cast_signed())
        });
        let inbound = |tag| InboundKey::of(NodeId(7), "main", tag);
        Reading {
            xray: "main".into(),
            forms: Arc::new(Forms::of([(inbound("a"), &a), (inbound("b"), &b)])),
            boot: Boot {
                kernel_boot_id: "of the test".to_owned(),
                started_ms: 1_000_000,
                started_awake_ms: None,
                uptime_s: 1,
                total_alloc: 1,
                mallocs: 1,
            },
            remote: false,
            same_connection: true,
            counters: Arc::new(UserCounters::of(counters)),
            adopts: false,
        }
    }

    async fn turn(&mut self, sink: usize, fate: &Fate, places: usize) {
        let done = self.under_way[sink].drain(..);
        let turn = Turn {
            done: done.map(|claimed| claimed.done(fate.clone())).collect(),
            places,
            together: sink > 0,
            ..Turn::default()
        };
        let claimed = self.ledger.turn(SINKS[sink], turn).await.unwrap();
        let has_inbound = |claimed: &Claimed| claimed.report.inbound.is_some();
        assert!(claimed.iter().all(|each| has_inbound(each) == (sink > 0)));
        assert!(claimed.iter().all(|each| each.report.node == NodeId(7)));
        self.under_way[sink] = claimed;
    }

    async fn other(&mut self, is_there: bool) {
        let mut sinks = vec![SinkName::from(KERNEL)];
        if is_there {
            sinks.push(OTHER.into());
        }
        let before = self.of(OTHER).await;
        let dropped = self.ledger.set_kernel_sinks(sinks).await.unwrap();
        self.has_other = is_there;
        let expected: Vec<_> = before
            .filter(|_| !is_there)
            .map(|totals| Left {
                sink: OTHER.to_owned(),
                bytes: Bytes {
                    up: 0,
                    down: totals.counted.down - totals.settled.bytes.down,
                },
                is_kept: false,
            })
            .into_iter()
            .collect();
        assert_eq!(dropped, expected);
        if !is_there {
            self.counted[2] = 0;
            self.under_way[2].clear();
            self.panel.taken.lock().unwrap().remove(OTHER);
        }
    }

    async fn reopen(&mut self) {
        self.panel.counted.lock().unwrap().clear();
        self.panel.settled.lock().unwrap().clear();
        let next = open(&self.folder, &self.panel, self.has_other);
        std::mem::replace(&mut self.ledger, next).let_go().await;
        for (sink, under_way) in SINKS.into_iter().zip(&mut self.under_way) {
            let orphans = self.ledger.orphans(sink).await.unwrap();
            assert_eq!(orphans, under_way.len());
            under_way.clear();
        }
    }

    async fn of(&self, sink: &str) -> Option<views::NodeTotals> {
        let summary = self.ledger.summary().await.unwrap();
        let mut of_sink = summary.nodes.into_iter().filter(|it| it.sink == sink);
        let found = of_sink.next();
        assert_eq!(of_sink.next(), None, "inbounds of a node are summed");
        found
    }

    async fn check(&self) {
        for (sink, counted) in SINKS.into_iter().zip(self.counted) {
            let totals = self.of(sink).await.unwrap_or_default();
            assert_eq!(totals.counted.down, counted, "{sink}");
            let amounts = [totals.open, totals.pending, totals.sending, totals.settled];
            let amounts = amounts.iter().chain([&totals.rejected, &totals.unknown]);
            let sum: u64 = amounts.map(|amount| amount.bytes.down).sum();
            assert_eq!(sum, counted, "{sink}");
            if sink != REPORT_TRAFFIC {
                let taken = self.panel.taken.lock().unwrap().get(sink).copied();
                assert_eq!(taken.unwrap_or_default(), totals.settled.bytes);
            }
        }
        assert_eq!(*self.panel.counted.lock().unwrap(), self.pushed);
        let settled: u64 = self.panel.settled.lock().unwrap().values().sum();
        let of_kernel = self.of(KERNEL).await.unwrap_or_default();
        assert!(settled >= of_kernel.settled.bytes.down);
        assert!(settled <= self.pushed.values().sum());
        let inbounds = self.ledger.inbounds().await.unwrap();
        let counted = |tag| {
            let found = inbounds.iter().find(|it| it.tag == tag);
            found.map_or(0, |it| it.bytes.down)
        };
        assert_eq!([counted("a"), counted("b")], self.by_inbound);
        let used = self.ledger.used().await.unwrap();
        for (user, sum) in &self.pushed {
            assert_eq!(used[user].pushed.total(), *sum);
            assert_eq!(self.ledger.used_by(*user).await.unwrap(), used[user]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn each_sink_has_what_was_counted_while_its_panel_wanted_it(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
        });
    }
}

#[tokio::test]
async fn of_reports_that_go_together_one_in_doubt_goes_alone() {
    let mut world = World::new();
    for user in 0..USERS {
        world.take(Step::Want(user, false, true)).await;
        world.take(Step::Grow(user, false, 5)).await;
    }
    world.take(Step::Close(1)).await;
    world.take(Step::Turn(1, Fate::Settled, 1)).await;
    let doubt = Fate::Unknown {
        words: "why".to_owned(),
        resend: true,
    };
    world.take(Step::Turn(1, doubt, 3)).await;
    assert_eq!(world.under_way[1].len(), 1, "the one in doubt");
    world.take(Step::Turn(1, Fate::Settled, 3)).await;
    assert_eq!(world.under_way[1].len(), 2, "the others");
}

#[tokio::test]
async fn the_configured_panels_bytes_wait_while_it_is_not_configured() {
    let mut world = World::new();
    world.take(Step::Want(0, false, true)).await;
    world.take(Step::Grow(0, false, 5)).await;
    world.take(Step::Close(1)).await;
    world.take(Step::Grow(0, false, 7)).await;
    let left = world.ledger.set_kernel_sinks(vec![OTHER.into()]).await;
    let bytes = Bytes { up: 0, down: 12 };
    let kept = Left {
        sink: KERNEL.to_owned(),
        bytes,
        is_kept: true,
    };
    assert_eq!(left.unwrap(), [kept]);
    // Counted meanwhile: not for it.
    world.take(Step::Grow(0, false, 100)).await;
    world.counted[1] -= 100;
    world.check().await;
    world.other(true).await;
    world.take(Step::Grow(0, false, 1)).await;
    for step in [
        Step::Close(1),
        Step::Turn(1, Fate::Settled, 9),
        Step::Turn(1, Fate::Settled, 0),
    ] {
        world.take(step).await;
    }
    world.check().await;
    let totals = world.of(KERNEL).await.unwrap();
    assert_eq!(totals.settled.bytes.down, 13);
}

#[tokio::test]
async fn what_a_sink_cannot_be_told_stays_open_and_is_counted() {
    let mut world = World::new();
    for user in 0..USERS {
        world.take(Step::Want(user, false, true)).await;
        world.take(Step::Grow(user, user == 2, 5)).await;
    }
    let fit = Fit::of(|inbound, user| inbound.tag.as_str() == "a" && user != user_of(0));
    let closed = world
        .ledger
        .close_fit(KERNEL, Whose::All, fit)
        .await
        .unwrap();
    assert_eq!((closed.reports, closed.left), (1, 2));
    assert_eq!(closed.left_bytes.total(), 10);
    // One that became so after its report was made waits.
    let turn = Turn {
        places: 9,
        fit: Fit::of(|_, _| false),
        ..Turn::default()
    };
    assert!(world.ledger.turn(KERNEL, turn).await.unwrap().is_empty());
    world.check().await;
}

#[tokio::test]
async fn a_ledger_of_the_first_schema_knows_what_its_users_have_moved() {
    let (folder, panel) = (tempfile::tempdir().unwrap(), Arc::new(Panel::default()));
    let mut world = World::new();
    world.folder = folder;
    world.ledger = open(&world.folder, &panel, false);
    world.panel = panel;
    for (user, by) in [(0, 5), (1, 7)] {
        world.take(Step::Grow(user, false, by)).await;
    }
    world.take(Step::Close(0)).await;
    world.take(Step::Turn(0, Fate::Settled, 1)).await;
    world.take(Step::Turn(0, Fate::Settled, 0)).await;
    world.take(Step::Grow(1, false, 100)).await;
    // The file as the first schema has it.
    let file = file(world.folder.path());
    let new = std::mem::replace(&mut world.ledger, open(&world.folder, &world.panel, false));
    new.let_go().await;
    make_old(&file);
    let nodes = world.ledger.summary().await.unwrap().nodes;
    assert_eq!(nodes[0].counted.down, 112);
    let used = world.ledger.used().await.unwrap();
    let down = |user| used[&user_of(user)].polled.down;
    assert_eq!((down(0), down(1)), (5, 107));
}

/// Takes the second migration back.
fn make_old(file: &Path) {
    let mut connection = Connection::open(file).unwrap();
    for table in ["inbound", "user_sum", "source_sum", "user_settled"] {
        let sql = format!("DROP TABLE {table}");
        connection.execute_batch(&sql).unwrap();
    }
    connection.pragma_update(None, "user_version", 1).unwrap();
    let (version, mut sum) = (1_u64, crc32fast::Hasher::new());
    sum.update(&version.to_le_bytes());
    let transaction = connection.transaction().unwrap();
    let mut query = transaction
        .prepare(
            "SELECT type || '|' || name || '|' || tbl_name || '|' || coalesce(sql, '')
             FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1",
        )
        .unwrap();
    let lines = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
    for line in lines {
        sum.update(line.unwrap().as_bytes());
    }
    drop(query);
    let sql = "UPDATE store_commits SET schema_crc = ?1";
    transaction.execute(sql, [sum.finalize()]).unwrap();
    transaction.commit().unwrap();
}
