//! Which of the boots that we know answers. Keeps: a boot that may be one we know is never taken for
//! a new one, whose counters would count whole. Pure.

use crate::xray::boot::{Boot, TOLERANCE_MS};

/// Two sights of one start are within the tolerance of the row that they were put to, so that they
/// are within twice that of each other.
const TWINS_APART_MS: u64 = 2 * TOLERANCE_MS;

/// What the known boots say of the one that is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It is the one at this place.
    Same(usize),
    /// It may be one of these; what their counters say decides. The last seen first.
    Perhaps(Vec<usize>),
    /// It is none of them.
    New,
}

/// Since when the ledger knows an Xray: what an older run of it has counted is adopted, not billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The kernel's boot id then.
    pub kernel: String,
    /// The moment, in milliseconds on the clock that stands still in a suspend.
    pub at_ms: i64,
}

impl Birth {
    /// A ledger that bills also what the Xrays counted before it (`first_read = "count"`).
    pub fn of_all_time(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            at_ms: i64::MIN,
        }
    }
}

/// Which of `known` (the last seen first) is `seen`. `remote`: its clock may run otherwise than ours.
pub fn identify(known: &[Boot], seen: &Boot, remote: bool) -> Identity {
    let is_same = |known: &Boot| {
        let apart = known.apart_ms(seen, remote);
        apart.is_some_and(|ms| ms <= TOLERANCE_MS) && known.has_grown_to(seen)
    };
    let same = (0..known.len())
        .filter(|&at| is_same(&known[at]))
        // Of several processes that started together, it is the one closest from below.
        .max_by_key(|&at| (known[at].total_alloc, known[at].mallocs));
    if let Some(at) = same {
        return Identity::Same(at);
    }
    let perhaps: Vec<_> = (0..known.len())
        .filter(|&at| may_be(&known[at], seen, remote))
        .collect();
    if perhaps.is_empty() {
        Identity::New
    } else {
        Identity::Perhaps(perhaps)
    }
}

/// Where clocks say nothing: our host has booted and the Xray of another host has not; or that
/// host's clock and ours have drifted apart, or one of them slept. An Xray that seems to be on this
/// host is on another one when its address leads through a tunnel.
fn may_be(known: &Boot, seen: &Boot, remote: bool) -> bool {
    let other_kernel = known.kernel_boot_id != seen.kernel_boot_id;
    // No process on this host is older than its kernel.
    let outlived_our_kernel = other_kernel && seen.started_ms <= 0;
    let drifted = !other_kernel && (remote || known.is_near(seen, TOLERANCE_MS));
    (outlived_our_kernel || drifted) && seen.uptime_s >= known.uptime_s && known.has_grown_to(seen)
}

/// Boots that started when `seen` did, other than the one at `except`: processes that share a port, or
/// one that ended at once. Which of them a counter is of cannot be told for certain.
pub fn twins(known: &[Boot], seen: &Boot, remote: bool, except: Option<usize>) -> Vec<usize> {
    let is_twin = |known: &Boot| {
        let apart = known.apart_ms(seen, remote);
        apart.is_some_and(|ms| ms <= TWINS_APART_MS)
    };
    (0..known.len())
        .filter(|&at| Some(at) != except && is_twin(&known[at]))
        .collect()
}

/// Boots from before our host booted that may be the one that is seen now.
pub fn forerunners(known: &[Boot], seen: &Boot, remote: bool) -> Vec<usize> {
    (0..known.len())
        .filter(|&at| known[at].kernel_boot_id != seen.kernel_boot_id)
        .filter(|&at| may_be(&known[at], seen, remote))
        .collect()
}

/// The row of a boot that is seen again. Its start stays what it was when it was first seen: one that
/// followed would wander, from one process to a twin of it, out of sight of the first.
pub fn seen_again(known: &Boot, seen: &Boot, remote: bool) -> Boot {
    let mut row = seen.clone();
    let apart = known.apart_ms(seen, remote);
    if apart.is_some_and(|ms| ms <= TOLERANCE_MS) {
        row.started_ms = known.started_ms;
        row.started_awake_ms = known.started_awake_ms;
    }
    row
}

/// Whether `seen` may have counted before the ledger knew that Xray. In doubt, yes: then its bytes
/// are not billed.
pub fn is_older_than(seen: &Boot, birth: &Birth) -> bool {
    if seen.kernel_boot_id != birth.kernel {
        return seen.started_ms <= 0;
    }
    // Uptime is cut to whole seconds: the start may have been up to one earlier.
    seen.started_ms - 1_000 < birth.at_ms
}

/// The birth of a ledger that forgets `dropped`, under the kernel that runs now: that boot, should it
/// answer again, is older than the ledger, so that its bytes do not count whole.
#[must_use]
pub fn born_after(birth: &Birth, dropped: &Boot, kernel_now: &str) -> Birth {
    let at_ms = dropped.started_ms.saturating_add_unsigned(TWINS_APART_MS);
    if dropped.kernel_boot_id == birth.kernel {
        return Birth {
            kernel: birth.kernel.clone(),
            at_ms: birth.at_ms.max(at_ms),
        };
    }
    if dropped.kernel_boot_id == kernel_now {
        return Birth {
            kernel: kernel_now.to_owned(),
            at_ms,
        };
    }
    // What ran under a kernel that runs no more is older than that one's successor, which is enough.
    birth.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(kernel: &str, started_ms: i64, uptime_s: u32, grown: u64) -> Boot {
        Boot {
            kernel_boot_id: kernel.into(),
            started_ms,
            started_awake_ms: Some(started_ms),
            uptime_s,
            total_alloc: grown,
            mallocs: grown,
        }
    }

    #[test]
    fn a_boot_is_found_again_by_its_start() {
        let known = [boot("k", 50_000, 9, 90), boot("k", 20_000, 39, 70)];
        let seen = |started, grown| boot("k", started, 60, grown);
        let table = [
            (seen(50_500, 95), Identity::Same(0)),
            (seen(19_000, 71), Identity::Same(1)),
            (seen(19_000, 69), Identity::New),
            (seen(80_000, 1), Identity::New),
        ];
        for (seen, expected) in table {
            assert_eq!(identify(&known, &seen, false), expected, "{seen:?}");
        }
    }

    #[test]
    fn of_two_that_started_together_it_is_the_closest_from_below() {
        let known = [
            boot("k", 50_000, 9, 10),
            boot("k", 50_000, 9, 90),
            boot("k", 50_000, 9, 99),
        ];
        assert_eq!(
            identify(&known, &boot("k", 50_000, 12, 95), false),
            Identity::Same(1)
        );
        assert_eq!(
            twins(&known, &boot("k", 50_000, 12, 95), false, Some(1)),
            [0, 2]
        );
    }

    #[test]
    fn after_a_boot_of_our_host_only_what_is_older_than_it_may_be_known() {
        let known = [boot("old", 50_000, 100, 10)];
        let perhaps = Identity::Perhaps(vec![0]);
        let table = [
            (
                boot("new", -5_000, 101, 11),
                perhaps,
                "remote, still running",
            ),
            (
                boot("new", -5_000, 99, 11),
                Identity::New,
                "remote, started anew",
            ),
            (
                boot("new", -5_000, 101, 9),
                Identity::New,
                "remote, another process",
            ),
            (
                boot("new", 5_000, 101, 11),
                Identity::New,
                "started after our kernel",
            ),
        ];
        for (seen, expected, what) in table {
            assert_eq!(identify(&known, &seen, false), expected, "{what}");
        }
    }

    #[test]
    fn a_drifting_clock_of_another_host_makes_no_new_boot_for_certain() {
        let known = [boot("k", 50_000, 100, 10)];
        let seen = boot("k", 60_000, 200, 20);
        assert_eq!(identify(&known, &seen, true), Identity::Perhaps(vec![0]));
        assert_eq!(identify(&known, &seen, false), Identity::New);
    }

    #[test]
    fn a_boot_is_older_than_the_ledger_in_doubt() {
        let table = [
            (boot("k", 9_000, 1, 1), true, "before"),
            (
                boot("k", 10_900, 1, 1),
                true,
                "perhaps before: uptime is cut",
            ),
            (boot("k", 11_000, 1, 1), false, "after"),
            (
                boot("other", 5_000, 1, 1),
                false,
                "after a later boot of our host",
            ),
            (
                boot("other", -1, 1, 1),
                true,
                "perhaps: older than that boot",
            ),
        ];
        let birth = Birth {
            kernel: "k".into(),
            at_ms: 10_000,
        };
        for (seen, older, what) in table {
            assert_eq!(is_older_than(&seen, &birth), older, "{what}");
        }
    }

    #[test]
    fn a_boot_that_is_forgotten_is_older_than_the_ledger_from_then_on() {
        let birth = |kernel: &str, at_ms| Birth {
            kernel: kernel.to_owned(),
            at_ms,
        };
        let table = [
            (birth("k", 1), boot("k", 9_000, 1, 1), birth("k", 13_000)),
            (
                birth("k", 50_000),
                boot("k", 9_000, 1, 1),
                birth("k", 50_000),
            ),
            (
                birth("old", 50_000),
                boot("k", 9_000, 1, 1),
                birth("k", 13_000),
            ),
            (
                birth("k", 5_000),
                boot("old", 9_000, 1, 1),
                birth("k", 5_000),
            ),
            (
                birth("old", 5_000),
                boot("mid", 9_000, 1, 1),
                birth("old", 5_000),
            ),
        ];
        for (before, dropped, expected) in table {
            let after = born_after(&before, &dropped, "k");
            assert_eq!(after, expected, "{before:?} {dropped:?}");
            let again = Boot {
                started_ms: dropped.started_ms - 500,
                ..dropped
            };
            if again.kernel_boot_id == "k" {
                assert!(is_older_than(&again, &after), "{again:?}");
            }
        }
    }

    #[test]
    fn the_start_of_a_boot_does_not_wander_with_the_process_that_answers() {
        let mut row = boot("k", 50_000, 1, 1);
        for (started, grown) in [(51_500, 2), (52_000, 3), (50_100, 4)] {
            let seen = boot("k", started, 9, grown);
            assert_eq!(
                identify(std::slice::from_ref(&row), &seen, false),
                Identity::Same(0)
            );
            row = seen_again(&row, &seen, false);
            assert_eq!((row.started_ms, row.total_alloc), (50_000, grown));
        }
        let drifted = boot("k", 60_000, 99, 99);
        assert_eq!(seen_again(&row, &drifted, true), drifted);
    }

    #[test]
    fn a_suspend_of_this_host_makes_no_two_processes_on_it_one() {
        let slept = |started_ms, awake_ms, grown| Boot {
            started_awake_ms: Some(awake_ms),
            ..boot("k", started_ms, 9, grown)
        };
        let known = [slept(100_000, 100_000, 5), slept(40_000, 40_000, 3)];
        let seen = slept(40_000, 100_000, 9);
        assert_eq!(identify(&known, &seen, false), Identity::Same(1));
        assert_eq!(identify(&known, &seen, true), Identity::Same(0));
        let elsewhere = slept(20_000, 40_000, 9);
        assert_eq!(
            identify(&known, &elsewhere, false),
            Identity::Perhaps(vec![1])
        );
    }
}
