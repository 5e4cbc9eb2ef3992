//! Which run of Xray this is. Xray has no boot id: its uptime, laid on a clock that never steps, and
//! counters that only grow within one process, tell one boot from the next. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::SysStats;

/// Uptime comes in whole seconds, and the answer takes time to arrive.
const TOLERANCE_MS: u64 = 2_000;

/// One run of one Xray, as seen at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Of our host's kernel: the monotonic clock means nothing across two of them.
    kernel_boot_id: String,
    /// When Xray started, on the monotonic clock.
    started_ms: i64,
    /// Bytes ever allocated by it.
    total_alloc: u64,
    /// Objects ever allocated by it.
    mallocs: u64,
}

impl Boot {
    /// From an answer of GetSysStats received at `monotonic`.
    pub fn of(stats: &SysStats, monotonic: Duration, kernel_boot_id: &str) -> Self {
        let now_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
        Self {
            kernel_boot_id: kernel_boot_id.to_owned(),
            started_ms: now_ms.saturating_sub(i64::from(stats.uptime) * 1_000),
            total_alloc: stats.total_alloc,
            mallocs: stats.mallocs,
        }
    }

    /// Whether `later` is the same run, seen again.
    pub fn is_same(&self, later: &Self) -> bool {
        self.kernel_boot_id == later.kernel_boot_id
            && self.started_ms.abs_diff(later.started_ms) <= TOLERANCE_MS
            && later.total_alloc >= self.total_alloc
            && later.mallocs >= self.mallocs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(monotonic_s: u64, uptime: u32, total_alloc: u64) -> Boot {
        let stats = SysStats {
            uptime,
            total_alloc,
            mallocs: total_alloc,
            ..SysStats::default()
        };
        Boot::of(&stats, Duration::from_secs(monotonic_s), "kernel")
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
        ];
        for (later, same, what) in table {
            assert_eq!(first.is_same(&later), same, "{what}");
        }
        let mut other_kernel = boot(1010, 110, 6);
        other_kernel.kernel_boot_id = "other".into();
        assert!(!first.is_same(&other_kernel));
    }
}
