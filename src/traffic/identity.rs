//! Which of the boots that we know answers. Keeps: a boot that may be one we know is never taken for
//! a new one, whose counters would count whole. Pure.

use crate::xray::boot::Boot;

/// Uptime is cut to whole seconds: a start may have been up to one earlier than it seems.
const UPTIME_GRAIN_MS: i64 = 1_000;
/// By so much the start of one boot may seem to move, and more.
const START_GRAIN_MS: i64 = 5_000;

/// Since when the ledger knows an Xray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The kernel's boot id then.
    pub kernel: String,
    /// The moment, in milliseconds on the clock that stands still in a suspend.
    pub at_ms: i64,
}

/// What the known boots say of the one that is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It is the one at this place.
    Same(usize),
    /// It is one of these if all of that one's counters are there and none went back; else a new
    /// one. Most likely first.
    Perhaps(Vec<usize>),
    /// It is none of them.
    New,
}

/// Which of `known` (the last seen first) is `seen`. `remote`: its clock may run otherwise than ours.
pub fn identify(known: &[Boot], seen: &Boot, remote: bool) -> Identity {
    let same = (0..known.len())
        .filter(|&at| known[at].is_same(seen))
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

/// Where clocks say nothing: our host has booted and the Xray of another host has not, or that
/// host's clock and ours have drifted apart.
fn may_be(known: &Boot, seen: &Boot, remote: bool) -> bool {
    let other_kernel = known.kernel_boot_id != seen.kernel_boot_id;
    // No process on this host is older than its kernel.
    let outlived_our_kernel = other_kernel && seen.started_ms <= 0;
    let drifted = remote && !other_kernel;
    (outlived_our_kernel || drifted) && seen.uptime_s >= known.uptime_s && known.has_grown_to(seen)
}

/// Boots that started when `seen` did, other than the one at `except`: processes that share a port, or
/// one that ended at once. Which of them a counter is of cannot be told for certain.
pub fn twins(known: &[Boot], seen: &Boot, except: Option<usize>) -> Vec<usize> {
    (0..known.len())
        .filter(|&at| Some(at) != except && known[at].started_with(seen))
        .collect()
}

/// Whether `seen` may have counted before the ledger knew that Xray. In doubt, yes: then its bytes
/// are not billed.
pub fn is_older_than(seen: &Boot, birth: &Birth) -> bool {
    if seen.kernel_boot_id != birth.kernel {
        return seen.started_ms <= 0;
    }
    seen.started_ms - UPTIME_GRAIN_MS < birth.at_ms
}

/// Since when an Xray is known after one of its boots was forgotten: if that one answers once more,
/// it is adopted like any other that is older than the ledger's memory. `seen` is the boot of now.
pub fn born_after(birth: &Birth, forgotten: &Boot, seen: &Boot) -> Birth {
    let at_ms = forgotten.started_ms.saturating_add(START_GRAIN_MS);
    // One of an earlier boot of our host is on another host, and older than this one by its start.
    let is_of_now = forgotten.kernel_boot_id == seen.kernel_boot_id;
    let is_known = forgotten.kernel_boot_id == birth.kernel && at_ms <= birth.at_ms;
    if is_known || !is_of_now {
        return birth.clone();
    }
    Birth {
        kernel: forgotten.kernel_boot_id.clone(),
        at_ms,
    }
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
        assert_eq!(twins(&known, &boot("k", 50_000, 12, 95), Some(1)), [0, 2]);
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
}
