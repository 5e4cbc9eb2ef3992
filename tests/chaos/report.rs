//! What the campaign came to, for people. Bytes are both ways together where nothing else is said.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use xray_agent::traffic::ledger::views::NodeTotals;

use super::books::{Pair, Users, of, sum};
use super::campaign::Options;
use super::load::Moved;
use super::verdict::Last;
use crate::lab::Panel;

/// How a boot of Xray ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Killed while users moved bytes.
    UnderTraffic,
    /// Killed while they rested, whether or not all was collected.
    Still,
    /// Killed while they rested and after all was collected.
    Collected,
    /// Killed while they rested, the agent being dead already.
    WithAgent,
    /// Not at all.
    Alive,
}

/// One boot of Xray.
#[derive(Clone, Debug)]
pub struct Boot {
    pub number: i64,
    pub end: End,
    /// At the last look.
    pub counted: Pair,
    pub collected: Pair,
    /// Counted at the last look and never collected.
    pub grave: Pair,
    /// No more than this was never collected.
    pub grave_max: Pair,
    /// Of so much traffic as went before the end.
    pub grave_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub options: Options,
    pub agent_kills: u32,
    pub xray_kills: u32,
    pub faults: BTreeMap<&'static str, u64>,
    /// Requests to report traffic that reached the panel.
    pub requests: usize,
    /// Reports that were sent more than once.
    pub sent_again: usize,
    /// Accepted though the same was accepted before.
    pub repeats: usize,
    pub moved: Vec<Moved>,
    pub boots: Vec<Boot>,
    pub totals: NodeTotals,
    pub billed: Pair,
    pub adopted: Pair,
    pub violations: Vec<String>,
    pub took: Duration,
}

impl Boot {
    pub fn new(number: i64, last: &Last, collected: &Users) -> Self {
        let grave = never_collected(&last.counted, collected);
        let of_speed = |speed: u64| grave.total() * 1_000 / speed.max(1);
        Self {
            number,
            end: last.end,
            counted: sum(last.counted.values()),
            collected: sum(collected.values()),
            grave,
            grave_max: never_collected(&last.at_most, collected),
            grave_ms: last.speed.map(of_speed),
        }
    }
}

fn never_collected(counted: &Users, collected: &Users) -> Pair {
    let beyond = |(user, pair): (&String, &Pair)| pair.beyond(of(collected, user));
    sum(&counted.iter().map(beyond).collect::<Vec<_>>())
}

impl Report {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            agent_kills: 0,
            xray_kills: 0,
            faults: BTreeMap::new(),
            requests: 0,
            sent_again: 0,
            repeats: 0,
            moved: Vec::new(),
            boots: Vec::new(),
            totals: NodeTotals::default(),
            billed: Pair::default(),
            adopted: Pair::default(),
            violations: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub fn kills(&self) -> u32 {
        self.agent_kills + self.xray_kills
    }

    pub fn violation(&mut self, words: String) {
        self.violations.push(words);
    }

    pub fn is_exact(&self) -> bool {
        self.violations.is_empty()
    }

    /// What the panel has to say.
    pub fn hears(&mut self, panel: &Panel) {
        let keys = panel.report_keys();
        self.requests = keys.len();
        self.sent_again = keys.len() - keys.iter().collect::<BTreeSet<_>>().len();
        self.repeats = panel.repeats();
        self.billed = panel.billed_total().into();
    }

    fn sum_of_moved(&self, of: impl Fn(&Moved) -> Pair) -> Pair {
        sum(&self.moved.iter().map(of).collect::<Vec<_>>())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::UnderTraffic => "under traffic",
            Self::Still => "at rest",
            Self::Collected => "at rest, collected",
            Self::WithAgent => "after the agent",
            Self::Alive => "(lives)",
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>13} up {:>13} down", self.up, self.down)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options;
        let panel = if options.dedupes { "drops" } else { "counts" };
        writeln!(
            f,
            "seed {}, {} users, a panel that {panel} repeats, {:.0} s",
            options.seed,
            options.users,
            self.took.as_secs_f64()
        )?;
        writeln!(
            f,
            "kills: {} of the agent, {} of Xray",
            self.agent_kills, self.xray_kills
        )?;
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(name, times)| format!("{times} × {name}"))
            .collect();
        writeln!(f, "faults: {}", faults.join(", "))?;
        writeln!(
            f,
            "reports: {} requests, {} of them again; {} came again though accepted; {} settled",
            self.requests, self.sent_again, self.repeats, self.totals.settled.reports
        )?;
        self.fmt_boots(f)?;
        self.fmt_bytes(f)?;
        for violation in &self.violations {
            writeln!(f, "WRONG: {violation}")?;
        }
        let verdict = if self.is_exact() { "exact" } else { "WRONG" };
        write!(f, "verdict: {verdict}")
    }
}

impl Report {
    fn fmt_boots(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>6}  {:<20}{:>14}{:>12}{:>10}{:>10}{:>10}",
            "boot", "Xray was killed", "last look", "collected", "grave", "at most", "of ms"
        )?;
        for boot in &self.boots {
            let of_ms = boot.grave_ms.map_or("-".to_owned(), |ms| ms.to_string());
            writeln!(
                f,
                "{:>6}  {:<20}{:>14}{:>12}{:>10}{:>10}{of_ms:>10}",
                boot.number,
                boot.end,
                boot.counted.total(),
                boot.collected.total(),
                boot.grave.total(),
                boot.grave_max.total(),
            )?;
        }
        Ok(())
    }

    fn fmt_bytes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_boots = |of: fn(&Boot) -> Pair| sum(&self.boots.iter().map(of).collect::<Vec<_>>());
        let transfers: u64 = self.moved.iter().map(|moved| moved.transfers).sum();
        let failed: u64 = self.moved.iter().map(|moved| moved.failed).sum();
        writeln!(f, "transfers: {transfers}, {failed} of them failed; bytes:")?;
        let rows = [
            ("attempted", self.sum_of_moved(|moved| moved.attempted)),
            ("completed", self.sum_of_moved(|moved| moved.completed)),
            ("counted by Xray", of_boots(|boot| boot.counted)),
            ("  to its grave", of_boots(|boot| boot.grave)),
            ("collected", of_boots(|boot| boot.collected)),
            ("settled", self.totals.settled.bytes.into()),
            ("unknown", self.totals.unknown.bytes.into()),
            ("rejected", self.totals.rejected.bytes.into()),
            ("pending", self.totals.pending.bytes.into()),
            ("at the panel", self.billed),
        ];
        for (name, bytes) in rows {
            writeln!(f, "  {name:<18}{bytes}")?;
        }
        Ok(())
    }
}
