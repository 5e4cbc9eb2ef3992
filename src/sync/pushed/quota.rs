//! What a pushed user may still have. Bytes that the panel has not heard of yet count, too: to what it
//! knew when it pushed him comes what was counted since, less what it had taken by then. Pure.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::model::pushed::{PushedId, Quota};

/// How a user stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that he has used.
    pub used: u64,
    /// Bytes that he may still use; `None`: as many as he likes.
    pub remaining: Option<u64>,
}

impl Room {
    /// By a quota in whose place `used` bytes are in force now.
    pub fn of(quota: Quota, used: u64) -> Self {
        let remaining = quota.allocated.saturating_sub(used);
        Self {
            used,
            remaining: (quota.allocated > 0).then_some(remaining),
        }
    }

    /// Whether nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.remaining == Some(0)
    }
}

/// A user has run out, has room again, or may have more or less than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaChanged {
    /// The panel's id of him.
    pub id: PushedId,
    /// The same as a number, if it is one.
    pub user_id: Option<u64>,
    /// His subscription, where the panel named one.
    pub subscription_id: Option<u64>,
    /// How he stood.
    pub previous: Room,
    /// How he stands.
    pub current: Room,
    /// Whether nothing is left.
    pub exhausted: bool,
}

/// A change of which nobody has taken note yet; it is kept with the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Untold {
    /// How he stood when somebody last took note.
    pub(super) previous: Room,
    /// How he stands.
    pub(super) current: Room,
}

impl Untold {
    /// What is to be told after both: changes that come faster than they can be told are told as one.
    pub(super) fn merged(before: Option<Self>, after: Option<Self>) -> Option<Self> {
        match (before, after) {
            (Some(before), Some(after)) => Some(Self {
                previous: before.previous,
                ..after
            }),
            (before, after) => after.or(before),
        }
    }
}

/// Is told of quotas that change: each change at least once, until it says that it has taken note.
pub trait QuotaWatch: Send + Sync {
    /// Takes note of it; whether that is on the disk. If not, it is told again.
    fn changed(&self, change: QuotaChanged) -> BoxFuture<'_, bool>;
}

/// Nobody hears it now: it is told when somebody does.
#[derive(Clone, Copy, Debug)]
pub struct NobodyWatches;

impl QuotaWatch for NobodyWatches {
    fn changed(&self, _change: QuotaChanged) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
}

/// Bytes that are in force: `pushed` by the panel, `counted` until now, of which it had taken `base`
/// when it pushed.
pub fn used_in_force(pushed: u64, counted: u64, base: u64) -> u64 {
    pushed.saturating_add(counted.saturating_sub(base))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_without_a_quota_runs_out_and_others_at_the_last_byte() {
        let room = |allocated, used| Room::of(Quota { allocated, used: 0 }, used);
        let table = [
            (0, 0, None, false),
            (0, u64::MAX, None, false),
            (10, 9, Some(1), false),
            (10, 10, Some(0), true),
            (10, 11, Some(0), true),
        ];
        for (allocated, used, remaining, exhausted) in table {
            let room = room(allocated, used);
            assert_eq!(
                (room.remaining, room.is_exhausted()),
                (remaining, exhausted)
            );
        }
    }

    proptest! {
        /// A panel that adds up what it takes: whenever it pushes, nothing is reset or doubled.
        #[test]
        fn a_push_moves_nothing(
            steps in proptest::collection::vec((0_u64..1000, 0_u64..1000, any::<bool>()), 0..40)
        ) {
            let (mut counted, mut settled) = (0, 0);
            let (mut pushed, mut base) = (0, 0);
            for (more, taken, pushes) in steps {
                counted += more;
                settled = counted.min(settled + taken);
                if pushes {
                    (pushed, base) = (settled, settled);
                }
                prop_assert_eq!(used_in_force(pushed, counted, base), counted);
            }
        }

        #[test]
        fn it_is_never_below_what_was_pushed(pushed: u64, counted: u64, base: u64) {
            prop_assert!(used_in_force(pushed, counted, base) >= pushed);
        }
    }
}
