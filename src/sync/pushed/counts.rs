//! What the ledger says of users' bytes, as far as quotas need it. Told without waiting for anything:
//! who ran out is found afterwards, by the loop in `watch`.

use std::collections::HashMap;

use super::record::Stored;
use super::{Pushed, lock};
use crate::model::ids::UserId;
use crate::model::pushed::PushedBytes;

/// The sums that were told last.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes: HashMap<UserId, Bytes>,
    /// Something was told: until then it is not known what a panel has taken.
    is_told: bool,
    /// Whose counted bytes changed since it was looked at, and what they were before.
    touched: HashMap<UserId, u64>,
}

/// Bytes of a user since the ledger began.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    counted: u64,
    settled: u64,
}

impl Counts {
    /// Counted bytes of a user under all his ids.
    pub(super) fn counted(&self, user: &Stored) -> u64 {
        self.sum(user, |bytes| bytes.counted)
    }

    /// Those of them that the pushing panel has taken. As long as nobody knows, all of them: bytes of
    /// old would be counted twice otherwise.
    pub(super) fn settled(&self, user: &Stored) -> u64 {
        if !self.is_told {
            return u64::MAX;
        }
        self.sum(user, |bytes| bytes.settled)
    }

    fn sum(&self, user: &Stored, of: impl Fn(&Bytes) -> u64) -> u64 {
        let known = user.all_ids().filter_map(|user| self.bytes.get(&user));
        known.fold(0, |sum, bytes| sum.saturating_add(of(bytes)))
    }

    /// Whether somebody's bytes changed.
    pub(super) fn are_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Takes out whose bytes changed, with what they were before.
    pub(super) fn take_touched(&mut self) -> HashMap<UserId, u64> {
        std::mem::take(&mut self.touched)
    }

    /// Counted bytes of a user before these changed.
    pub(super) fn counted_before(&self, user: &Stored, before: &HashMap<UserId, u64>) -> u64 {
        let of = |user: UserId| match before.get(&user) {
            Some(before) => *before,
            None => self.bytes.get(&user).map_or(0, |bytes| bytes.counted),
        };
        user.all_ids()
            .fold(0, |sum, user| sum.saturating_add(of(user)))
    }
}

impl PushedBytes for Pushed {
    fn counted(&self, sums: &[(UserId, u64)]) {
        let mut counts = lock(&self.counts);
        counts.is_told = true;
        for (user, sum) in sums {
            let bytes = counts.bytes.entry(*user).or_default();
            let before = std::mem::replace(&mut bytes.counted, *sum);
            if before != *sum {
                counts.touched.entry(*user).or_insert(before);
            }
        }
        drop(counts);
        self.bell.notify_one();
    }

    fn settled(&self, sums: &[(UserId, u64)]) {
        let mut counts = lock(&self.counts);
        counts.is_told = true;
        for (user, sum) in sums {
            counts.bytes.entry(*user).or_default().settled = *sum;
        }
    }
}
