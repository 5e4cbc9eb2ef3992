//! What happened, counted where it happens and read by whoever shows it: calls by what was called and
//! what came of it, and how long things took. Counting never waits and never fails; a count only
//! grows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of [`Durations`] in milliseconds: from a call on this host to a pass over 100 000 users.
pub const BOUNDS_MS: [u64; 14] = [
    1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
];
/// Most pairs of a call and what came of it: a partner that answers with ever new codes fills no memory.
const PAIRS_MAX: usize = 256;
/// What further ones are counted as.
pub const OTHER: u16 = u16::MAX;

/// Calls by name and by the code that they came to, as the protocol has it.
#[derive(Debug, Default)]
pub struct Calls(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Calls {
    /// Counts a call that is over.
    pub fn count(&self, call: &'static str, code: u16) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !counts.contains_key(&(call, code));
        let code = if is_new && counts.len() >= PAIRS_MAX {
            OTHER
        } else {
            code
        };
        *counts.entry((call, code)).or_default() += 1;
    }

    /// All counts, in order.
    pub fn counts(&self) -> BTreeMap<(&'static str, u16), u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

/// How long something took, each time.
#[derive(Debug, Default)]
pub struct Durations {
    /// By the bounds, and one for what is longer than all.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// [`Durations`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many were up to each of [`BOUNDS_MS`] and over the one before; at last those over all.
    pub counts: [u64; BOUNDS_MS.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Counts one that took so long.
    pub fn count(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_MS.partition_point(|bound| bound * 1_000 < us);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How they are distributed.
    pub fn distribution(&self) -> Distribution {
        Distribution {
            counts: std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

/// Passes over one inbound since the start.
#[derive(Debug, Default)]
pub struct Passes {
    /// How long each took.
    pub took: Durations,
    /// That left nothing to do.
    pub done: AtomicU64,
    /// After which removals wait for further polls.
    pub held: AtomicU64,
    /// That came to nothing, or not for all users.
    pub failed: AtomicU64,
    /// Users added.
    pub added: AtomicU64,
    /// Users removed.
    pub removed: AtomicU64,
    /// From the panel's answer until the sessions of those who left by it were cut.
    pub cut_after: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_the_first_bound_that_it_does_not_exceed() {
        let durations = Durations::default();
        for (ms, place) in [(0, 0), (1, 0), (2, 1), (60_000, 13), (60_001, 14)] {
            let before = durations.distribution().counts[place];
            durations.count(Duration::from_millis(ms));
            assert_eq!(
                durations.distribution().counts[place],
                before + 1,
                "{ms} ms"
            );
        }
        assert_eq!(durations.distribution().sum_us, 120_004_000);
    }

    #[test]
    fn ever_new_codes_fill_no_memory() {
        let calls = Calls::default();
        for code in 0..1_000 {
            calls.count("poll", code);
        }
        let counts = calls.counts();
        assert_eq!(counts.len(), PAIRS_MAX + 1);
        assert_eq!(counts[&("poll", OTHER)], 1_000 - PAIRS_MAX as u64);
        assert_eq!(counts.values().sum::<u64>(), 1_000);
    }
}
