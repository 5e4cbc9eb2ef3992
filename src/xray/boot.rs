//! Which run of Xray this is. Xray has no boot id: its uptime, laid on a clock that never steps, and
//! counters that only grow within one process, tell one boot from the next. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::SysStats;
use crate::base::clock::Moment;

/// How far apart two sights of one start can be: uptime comes in whole seconds, and an answer may
/// take up to a second to arrive. One that takes longer must not be used.
pub const TOLERANCE_MS: u64 = 2_000;

/// Together with the second that uptime is cut to, this stays within the tolerance.
const ANSWER_MAX: Duration = Duration::from_millis(900);

/// One run of one Xray, as seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Of our host's kernel: its clocks mean nothing across two of them.
    pub kernel_boot_id: String,
    /// When Xray started, in milliseconds on the clock that stands still while this host is
    /// suspended, as an Xray on the same host does. Zero or less: before this kernel booted, so on
    /// another host. Up to a second late.
    pub started_ms: i64,
    /// The same on the clock that counts on while this host is suspended, as an Xray on another
    /// host does.
    #[serde(default)]
    pub started_awake_ms: Option<i64>,
    /// Whole seconds since Xray started.
    #[serde(default)]
    pub uptime_s: u32,
    /// Bytes ever allocated by it.
    pub total_alloc: u64,
    /// Objects ever allocated by it.
    pub mallocs: u64,
}

impl Boot {
    /// From an answer of GetSysStats received at `moment`.
    pub fn of(stats: &SysStats, moment: &Moment) -> Self {
        let started = |now: Duration| {
            let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
            now_ms.saturating_sub(i64::from(stats.uptime) * 1_000)
        };
        Self {
            kernel_boot_id: moment.kernel_boot_id.clone(),
            started_ms: started(moment.monotonic),
            started_awake_ms: Some(started(moment.with_suspend)),
            uptime_s: stats.uptime,
            total_alloc: stats.total_alloc,
            mallocs: stats.mallocs,
        }
    }

    /// From an answer of GetSysStats that was asked for at `asked` and received at `answered`. `None`
    /// when it took so long, or this host slept meanwhile, that it does not tell when Xray started:
    /// such a boot could pass for a new one, whose counters would count whole.
    pub fn between(stats: &SysStats, asked: &Moment, answered: &Moment) -> Option<Self> {
        let is_within = |asked: Duration, answered: Duration| {
            answered
                .checked_sub(asked)
                .is_some_and(|took| took <= ANSWER_MAX)
        };
        let is_prompt = asked.kernel_boot_id == answered.kernel_boot_id
            && is_within(asked.monotonic, answered.monotonic)
            && is_within(asked.with_suspend, answered.with_suspend);
        is_prompt.then(|| Self::of(stats, answered))
    }

    /// Whether `later` is the same run, seen again.
    pub fn is_same(&self, later: &Self) -> bool {
        self.started_with(later) && self.has_grown_to(later)
    }

    /// Whether both started at the same time, as far as clocks can tell.
    pub fn started_with(&self, other: &Self) -> bool {
        self.is_near(other, TOLERANCE_MS)
    }

    /// Whether both started within `apart_ms` of each other, on either clock.
    pub fn is_near(&self, other: &Self, apart_ms: u64) -> bool {
        [false, true].iter().any(|&remote| {
            self.apart_ms(other, remote)
                .is_some_and(|ms| ms <= apart_ms)
        })
    }

    /// Milliseconds between both starts, on the clock by which an Xray on this host runs, or
    /// (`remote`) one on another host. `None` where that clock says nothing.
    pub fn apart_ms(&self, other: &Self, remote: bool) -> Option<u64> {
        if self.kernel_boot_id != other.kernel_boot_id {
            return None;
        }
        let starts = if remote {
            self.started_awake_ms.zip(other.started_awake_ms)
        } else {
            Some((self.started_ms, other.started_ms))
        };
        starts.map(|(a, b)| a.abs_diff(b))
    }

    /// Whether what only grows within one process has not gone back in `later`.
    pub fn has_grown_to(&self, later: &Self) -> bool {
        later.total_alloc >= self.total_alloc && later.mallocs >= self.mallocs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(monotonic_s: u64, uptime: u32, total_alloc: u64) -> Boot {
        suspended(monotonic_s, 0, uptime, total_alloc)
    }

    fn suspended(monotonic_s: u64, suspended_s: u64, uptime: u32, total_alloc: u64) -> Boot {
        let stats = SysStats {
            uptime,
            total_alloc,
            mallocs: total_alloc,
            ..SysStats::default()
        };
        let moment = Moment {
            monotonic: Duration::from_secs(monotonic_s),
            with_suspend: Duration::from_secs(monotonic_s + suspended_s),
            kernel_boot_id: "kernel".into(),
        };
        Boot::of(&stats, &moment)
    }

    #[test]
    fn a_boot_is_told_by_its_start_and_by_what_only_grows() {
        let first = boot(1000, 100, 5);
        let table = [
            (boot(1010, 110, 6), true, "ten seconds later"),
            (boot(1010, 112, 6), true, "within the grain"),
            (boot(1010, 3, 6), false, "started anew"),
            (
                boot(1001, 101, 4),
                false,
                "restarted within a second: counters went back",
            ),
            (
                boot(1010, 115, 6),
                false,
                "another process, started earlier",
            ),
            (
                suspended(1010, 3600, 110, 6),
                true,
                "suspended for an hour with us",
            ),
            (
                suspended(1010, 3600, 3710, 6),
                true,
                "awake on its host while ours was suspended",
            ),
        ];
        for (later, same, what) in table {
            assert_eq!(first.is_same(&later), same, "{what}");
        }
        let mut other_kernel = boot(1010, 110, 6);
        other_kernel.kernel_boot_id = "other".into();
        assert!(!first.is_same(&other_kernel));
    }

    #[test]
    fn an_answer_that_took_too_long_tells_no_boot() {
        let moment = |monotonic_ms, slept_ms| Moment {
            monotonic: Duration::from_millis(monotonic_ms),
            with_suspend: Duration::from_millis(monotonic_ms + slept_ms),
            kernel_boot_id: "kernel".into(),
        };
        let asked = moment(50_000, 0);
        let table = [
            (moment(50_003, 0), true, "at once"),
            (moment(50_900, 0), true, "late"),
            (moment(50_901, 0), false, "too late"),
            (moment(50_003, 5_000), false, "after a suspend"),
            (moment(49_000, 0), false, "clocks never go back"),
        ];
        for (answered, expected, what) in table {
            let boot = Boot::between(&SysStats::default(), &asked, &answered);
            let at_once = Boot::of(&SysStats::default(), &answered);
            assert_eq!(boot, expected.then_some(at_once), "{what}");
        }
    }
}
