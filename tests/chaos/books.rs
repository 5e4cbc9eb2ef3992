//! The agent's ledger as it is on the disk, read beside the agent or after its end: what it
//! collected of each boot of Xray by user, and its sums.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};
use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::Connection;
use xray_agent::base::clock::Clock;
use xray_agent::store::open_read_only;
use xray_agent::traffic::baselines::Bytes;
use xray_agent::traffic::ledger::views::{self, NodeTotals, Summary};
use xray_agent::traffic::ledger::{State, spec};

/// Bytes up and down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub up: u64,
    pub down: u64,
}

/// Bytes by user.
pub type Users = BTreeMap<String, Pair>;

impl Pair {
    pub fn total(self) -> u64 {
        self.up + self.down
    }

    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// No more of it than of the other, either way.
    pub fn is_within(self, other: Self) -> bool {
        self.up <= other.up && self.down <= other.down
    }

    /// How much more either way, if any.
    pub fn beyond(self, other: Self) -> Self {
        Self {
            up: self.up.saturating_sub(other.up),
            down: self.down.saturating_sub(other.down),
        }
    }
}

impl From<(u64, u64)> for Pair {
    fn from((up, down): (u64, u64)) -> Self {
        Self { up, down }
    }
}

impl From<Bytes> for Pair {
    fn from(Bytes { up, down }: Bytes) -> Self {
        Self { up, down }
    }
}

impl AddAssign for Pair {
    fn add_assign(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
    }
}

impl Sub for Pair {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            up: self.up - other.up,
            down: self.down - other.down,
        }
    }
}

pub fn of(users: &Users, user: &str) -> Pair {
    users.get(user).copied().unwrap_or_default()
}

pub fn sum<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Pair {
    pairs.into_iter().fold(Pair::default(), |mut sum, pair| {
        sum += *pair;
        sum
    })
}

pub fn add(to: &mut Users, users: &Users) {
    for (user, pair) in users {
        *to.entry(user.clone()).or_default() += *pair;
    }
}

/// One look at the ledger.
pub struct Books(Connection);

impl Books {
    /// Of a folder in which an agent has worked; `None` as long as there is no ledger.
    pub fn open(state: &Path) -> Result<Option<Self>> {
        Ok(open_read_only(&spec(state, Clock::system()))?.map(Self))
    }

    /// The boots of Xray that it knows, in the order in which it first saw them: the last eight.
    pub fn boots(&self) -> Result<Vec<i64>> {
        let mut statement = self.0.prepare("SELECT id FROM boot ORDER BY id")?;
        let ids = statement.query_map([], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// What it collected of a boot.
    pub fn collected(&self, boot: i64) -> Result<Users> {
        let sql = "SELECT email, up, down FROM baseline WHERE boot = ?1";
        let mut statement = self.0.prepare(sql)?;
        let users = statement.query_map([boot], |row| {
            let bytes = (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
            Ok((
                row.get(0)?,
                (bytes.0.cast_unsigned(), bytes.1.cast_unsigned()).into(),
            ))
        })?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    /// The sums of the one node and its one sink; zeros until something was counted.
    pub fn totals(&self) -> Result<NodeTotals> {
        Ok(self.summary()?.nodes.into_iter().next().unwrap_or_default())
    }

    /// What is billed to nobody.
    pub fn adopted(&self) -> Result<Pair> {
        let mut sum = Pair::default();
        for adopted in self.summary()?.adopted {
            sum += adopted.bytes.into();
        }
        Ok(sum)
    }

    /// Every report in that state: its key, whose it is, its bytes.
    pub fn reports(&self, state: State) -> Result<Vec<(String, String, Pair)>> {
        let mut reports = Vec::new();
        views::each_report(&self.0, state, |shown| {
            let key = shown.id.0.to_string();
            reports.push((key, shown.uuid.text(), shown.bytes.into()));
            true
        })
        .context("the reports")?;
        Ok(reports)
    }

    fn summary(&self) -> Result<Summary> {
        views::summary(&self.0).context("the sums")
    }
}
