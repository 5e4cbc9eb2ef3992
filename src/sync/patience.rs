//! Whom to leave alone for a while: users whose calls failed, those whose call may be what ended Xray,
//! and those whom Xray keeps otherwise than written. A removal does not wait for a failed call.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::apply::Applied;
use super::plan::Plan;
use crate::model::ids::UserId;

/// After a call for a user failed, this user is left alone for so long at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_mins(15);
/// A user whose own call, with nothing else under way, went with Xray's end.
const SUSPECT_PAUSE: Duration = Duration::from_hours(1);

/// What is remembered of one inbound's users.
#[derive(Debug, Default)]
pub(super) struct Patience {
    resting: BTreeMap<UserId, Rest>,
    suspects: BTreeSet<UserId>,
    /// Whose entries were written anew by the last apply.
    mended: BTreeSet<UserId>,
    /// Whose entries are not as written after that all the same.
    stubborn: BTreeSet<UserId>,
}

/// A user whose calls failed so many times in a row, and until when he is left alone.
#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Instant,
}

impl Patience {
    /// Whose calls were under way when Xray went away: theirs are made last, each alone.
    pub(super) fn suspects(&self) -> &BTreeSet<UserId> {
        &self.suspects
    }

    /// Sees in the next `plan` what became of those who were mended. Whoever has to be mended again is
    /// left alone for a while, or a core that keeps users in its own way would have them written
    /// anew at every pass; these are told.
    pub(super) fn look_at_the_mended(&mut self, plan: &Plan, now: Instant) -> Vec<UserId> {
        let mended = std::mem::take(&mut self.mended);
        if mended.is_empty() {
            return Vec::new();
        }
        let again: BTreeSet<_> = plan.mended().filter(|user| mended.contains(user)).collect();
        for user in mended.difference(&again) {
            self.resting.remove(user);
            self.stubborn.remove(user);
        }
        for user in &again {
            self.rest(*user, PAUSE_MIN, now);
            self.stubborn.insert(*user);
        }
        again.into_iter().collect()
    }

    /// This is carried out next.
    pub(super) fn begin(&mut self, plan: &Plan) {
        self.mended = plan.mended().collect();
    }

    /// Takes out of `plan` what has to wait. For how many users that is.
    pub(super) fn hold_back(&self, plan: &mut Plan, now: Instant) -> usize {
        if self.resting.is_empty() {
            return 0;
        }
        let resting = |user: &UserId| self.resting.get(user).is_some_and(|rest| rest.until > now);
        let untouched = |user: &UserId| {
            resting(user) && (self.suspects.contains(user) || self.stubborn.contains(user))
        };
        let before: BTreeSet<_> = plan.users().collect();
        plan.removals
            .retain(|removal| !removal.user.as_ref().is_some_and(untouched));
        plan.repairs.retain(|repair| !resting(&repair.user));
        plan.additions.retain(|user| !resting(user));
        let after: BTreeSet<_> = plan.users().collect();
        before.difference(&after).count()
    }

    /// Learns from what was done. The user, if there is one, whose call went with Xray's end twice
    /// while it was the only one under way.
    pub(super) fn learn(&mut self, applied: &Applied, now: Instant) -> Option<UserId> {
        for user in applied.added.iter().chain(&applied.removed) {
            // Of one who was mended the next look tells.
            if !self.mended.contains(user) {
                self.resting.remove(user);
            }
            self.suspects.remove(user);
        }
        for (user, _) in &applied.failed {
            self.rest(*user, PAUSE_MIN, now);
        }
        let alone = match applied.suspects.first() {
            Some(only) if applied.suspects.len() == 1 => Some(*only),
            _ => None,
        };
        let deadly = alone.filter(|user| self.suspects.contains(user));
        if let Some(user) = deadly {
            self.rest(user, SUSPECT_PAUSE, now);
        }
        self.suspects.extend(&applied.suspects);
        deadly
    }

    fn rest(&mut self, user: UserId, first: Duration, now: Instant) {
        let failures = self.resting.get(&user).map_or(0, |rest| rest.failures);
        let pause = first * 2u32.saturating_pow(failures.min(10));
        let rest = Rest {
            failures: failures + 1,
            until: now + pause.min(PAUSE_MAX.max(first)),
        };
        self.resting.insert(user, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::plan::Removal;
    use crate::xray::error::XrayError;

    fn user(byte: u8) -> UserId {
        UserId::from_bytes([byte; 16])
    }

    fn plan(users: &[UserId]) -> Plan {
        let removal = |user: &UserId| Removal {
            user: Some(*user),
            emails: Vec::new(),
        };
        Plan {
            removals: users.iter().map(removal).collect(),
            additions: users.to_vec(),
            ..Plan::default()
        }
    }

    fn held_back(patience: &Patience, users: &[UserId], now: Instant) -> (Vec<UserId>, usize) {
        let mut plan = plan(users);
        patience.hold_back(&mut plan, now);
        (plan.additions, plan.removals.len())
    }

    #[test]
    fn who_failed_is_added_later_each_time_and_removed_at_once() {
        let (mut patience, now, users) = (Patience::default(), Instant::now(), [user(1), user(2)]);
        let failed = Applied {
            failed: vec![(user(1), XrayError::UserNotFound)],
            ..Applied::default()
        };
        patience.learn(&failed, now);
        assert_eq!(held_back(&patience, &users, now), (vec![user(2)], 2));
        assert_eq!(held_back(&patience, &users, now + PAUSE_MIN).0, users);
        patience.learn(&failed, now);
        assert_eq!(held_back(&patience, &users, now + PAUSE_MIN).0, [user(2)]);
        for _ in 0..100 {
            patience.learn(&failed, now);
        }
        assert_eq!(held_back(&patience, &users, now + PAUSE_MAX).0, users);
        let added = Applied {
            added: vec![user(1)],
            ..Applied::default()
        };
        patience.learn(&added, now);
        assert_eq!(held_back(&patience, &users, now).0, users);
    }

    #[test]
    fn who_is_kept_otherwise_than_written_is_mended_ever_more_seldom() {
        let (mut patience, now, users) = (Patience::default(), Instant::now(), [user(1)]);
        let done = Applied {
            added: users.to_vec(),
            ..Applied::default()
        };
        let mend = |patience: &mut Patience, at: Instant| {
            assert_eq!(held_back(patience, &users, at), (users.to_vec(), 1));
            patience.begin(&plan(&users));
            patience.learn(&done, at);
            assert_eq!(patience.look_at_the_mended(&plan(&users), at), users);
            assert_eq!(held_back(patience, &users, at), (Vec::new(), 0));
        };
        mend(&mut patience, now);
        let later = now + PAUSE_MIN;
        mend(&mut patience, later);
        assert_eq!(held_back(&patience, &users, later + PAUSE_MIN).1, 0);
        mend(&mut patience, later + 2 * PAUSE_MIN);
        // At last it is as written.
        patience.begin(&plan(&users));
        assert!(patience.look_at_the_mended(&plan(&[]), later).is_empty());
        assert_eq!(held_back(&patience, &users, later), (users.to_vec(), 1));
    }

    #[test]
    fn only_who_ends_xray_alone_and_twice_is_left_alone_altogether() {
        let (mut patience, now, users) = (Patience::default(), Instant::now(), [user(1), user(2)]);
        let broke = |suspects: &[UserId]| Applied {
            suspects: suspects.iter().copied().collect(),
            ..Applied::default()
        };
        assert_eq!(patience.learn(&broke(&users), now), None);
        assert_eq!(held_back(&patience, &users, now).0, users);
        assert_eq!(patience.suspects().len(), 2);
        assert_eq!(patience.learn(&broke(&users[..1]), now), Some(user(1)));
        assert_eq!(held_back(&patience, &users, now), (vec![user(2)], 1));
        assert_eq!(held_back(&patience, &users, now + SUSPECT_PAUSE).0, users);
    }
}
