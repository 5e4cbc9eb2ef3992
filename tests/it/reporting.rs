//! What tests of reports share: an agent between a scripted panel and a scripted Xray whose counters
//! a test sets, and a look into its ledger.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xray_agent::base::clock::Clock;
use xray_agent::store::open_read_only;
use xray_agent::traffic::baselines::Bytes;
use xray_agent::traffic::ledger::views::{NodeTotals, ShownReport, each_report, summary};
use xray_agent::traffic::ledger::{self, State};

use crate::lab::secrets::nth_uuid;
use crate::lab::{Agent, AgentCommand, eventually};
use crate::stage::Stage;
use crate::support::{LONG, TOKEN};

/// Bytes that one call of [`Desk::count`] adds to a user: up, and down.
pub const STEP: (i64, i64) = (1_000, 2_000);

pub struct Desk {
    pub stage: Stage,
    counters: BTreeMap<u32, (i64, i64)>,
}

/// The ledger at one moment.
#[derive(Debug)]
pub struct Books {
    pub totals: NodeTotals,
    pub reports: Vec<ShownReport>,
}

impl Desk {
    pub async fn new() -> Result<Self> {
        let stage = Stage::new(&[("in", "vless")]).await?;
        stage.allow(0..1);
        Ok(Self {
            stage,
            counters: BTreeMap::new(),
        })
    }

    /// The program, with short intervals; it bills what was counted before it began.
    pub fn command(&self) -> Result<AgentCommand> {
        let further = "[traffic]\nfirst_read = \"count\"\n";
        let command = self.stage.agent_with("", r#""in""#, further)?;
        Ok(command
            .env("TRAFFIC_COLLECT_INTERVAL_SECONDS", "0.1")
            .env("TRAFFIC_REPORT_INTERVAL_SECONDS", "0.2")
            .env("HTTP_TIMEOUT_SECONDS", "1")
            .env("XRAY_RPC_TIMEOUT_SECONDS", "5"))
    }

    /// These users have [`STEP`] more, all at once.
    pub fn count(&mut self, users: Range<u32>) {
        for user in users.clone() {
            let counter = self.counters.entry(user).or_default();
            *counter = (counter.0 + STEP.0, counter.1 + STEP.1);
        }
        let changed = self.counters.range(users);
        let changed = changed.map(|(user, counter)| (nth_uuid(*user), *counter));
        self.stage.xray.set_counters(changed);
    }

    /// What Xray counted in all.
    pub fn counted(&self) -> Bytes {
        let all = self.counters.values();
        all.fold(Bytes::default(), |sum, (up, down)| Bytes {
            up: sum.up + up.cast_unsigned(),
            down: sum.down + down.cast_unsigned(),
        })
    }

    pub fn billed(&self) -> Bytes {
        let (up, down) = self.stage.panel.billed_total();
        Bytes { up, down }
    }

    /// The ledger as it is now; every counted byte is in one place of it.
    pub fn books(&self) -> Result<Books> {
        let spec = ledger::spec(&self.stage.state_dir(), Clock::system());
        let connection = open_read_only(&spec)?.context("no ledger yet")?;
        connection.execute_batch("BEGIN")?;
        let mut totals = summary(&connection)?.nodes;
        let mut reports = Vec::new();
        for state in State::ALL {
            each_report(&connection, state, |report| {
                reports.push(report);
                true
            })?;
        }
        let totals = totals.pop().unwrap_or_default();
        let t = &totals;
        let places = [
            t.settled, t.open, t.pending, t.sending, t.rejected, t.unknown,
        ];
        let sum = places.iter().fold(Bytes::default(), |sum, place| Bytes {
            up: sum.up + place.bytes.up,
            down: sum.down + place.bytes.down,
        });
        ensure!(sum == t.counted, "{totals:#?}");
        Ok(Books { totals, reports })
    }

    /// Waits until the ledger is as it should be.
    pub async fn await_books(&self, what: &str, is_so: impl Fn(&Books) -> bool) -> Result<Books> {
        let found = eventually(what, LONG, async || {
            self.books().ok().filter(|books| is_so(books))
        });
        found
            .await
            .with_context(|| format!("{:#?}", self.books().map(|books| books.totals)))
    }

    /// Waits until so many reports have been taken.
    pub async fn await_settled(&self, reports: u64) -> Result<Books> {
        let what = format!("{reports} settled reports");
        self.await_books(&what, |books| books.totals.settled.reports >= reports)
            .await
    }

    /// The agent's whole log has neither the token nor a whole UUID of these users.
    pub fn says_no_secret(&self, agent: &Agent) -> Result<()> {
        let log = agent.log();
        ensure!(!log.contains(TOKEN), "the token is in the log");
        for user in self.counters.keys() {
            ensure!(!log.contains(&nth_uuid(*user)), "user {user} is in the log");
        }
        Ok(())
    }
}

/// How many different keys there are.
pub fn different(mut keys: Vec<Option<String>>) -> usize {
    keys.sort();
    keys.dedup();
    keys.len()
}

/// Numbers that look random and are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }

    pub fn pause(&mut self, longest: Duration) -> Duration {
        let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.below(longest_ms))
    }
}
