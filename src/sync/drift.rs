//! In what the live users of an inbound differ from the wanted ones, told by user: the same rules by
//! which a pass plans, so that what is shown is what a pass would mend. Pure.

use super::desired::without_collisions;
use super::live::LiveSet;
use super::plan::{Rules, leaving, plan};
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::model::user_list::Users;
use crate::xray::account::AccountKind;

/// The differences; users ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Wanted and not live.
    pub missing: Vec<UserId>,
    /// Live and not wanted.
    pub extra: Vec<UserId>,
    /// Wanted and live, but not as we write them.
    pub altered: Vec<UserId>,
    /// Wanted, and left as they are: another user has their secret, or their entry must not be
    /// touched.
    pub conflicts: Vec<UserId>,
}

impl Drift {
    /// Of `live` from `wanted` (ascending).
    pub fn of(live: &LiveSet, wanted: &Users, kind: &AccountKind, emails: &Emails) -> Self {
        let (served, collisions) = without_collisions(wanted, kind);
        let rules = Rules {
            kind,
            emails,
            exclusive: false,
        };
        let plan = plan(live, &served, &[], rules);
        let refused = collisions.iter().map(|collision| collision.refused);
        let mut drift = Self {
            missing: Vec::new(),
            extra: leaving(live, &served),
            altered: plan.repairs.iter().map(|repair| repair.user).collect(),
            conflicts: plan.conflicts.iter().copied().chain(refused).collect(),
        };
        for user in plan.additions {
            let class = if live.has(user) {
                &mut drift.altered
            } else {
                &mut drift.missing
            };
            class.push(user);
        }
        for class in [&mut drift.altered, &mut drift.conflicts] {
            class.sort_unstable();
            class.dedup();
        }
        drift
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sync::live::Entry;

    const KIND: AccountKind = AccountKind::Vless {
        flow: String::new(),
    };

    fn user(byte: u8) -> UserId {
        UserId::from_bytes([byte; 16])
    }

    fn entry(email: &str, secret: UserId) -> Entry {
        Entry {
            email: email.to_owned(),
            secret: Some(KIND.secret_key(secret)),
            alien: false,
        }
    }

    fn drift(live: &LiveSet, wanted: &[UserId]) -> Drift {
        Drift::of(live, &wanted.into(), &KIND, &Emails::first("in", true))
    }

    #[test]
    fn each_user_who_differs_is_in_one_class() {
        let odd = BTreeMap::from([
            (user(3), vec![entry("A", user(3))]),
            (user(4), vec![entry("B", user(9))]),
        ]);
        let live = LiveSet {
            fit: vec![user(1), user(2)],
            odd,
            foreign: vec![entry("alice", user(6))],
        };
        let found = drift(&live, &[user(2), user(3), user(4), user(5), user(6)]);
        let right = Drift {
            missing: vec![user(5)],
            extra: vec![user(1)],
            altered: vec![user(3), user(4)],
            conflicts: vec![user(6)],
        };
        assert_eq!(found, right);
    }

    #[test]
    fn who_shares_a_secret_is_a_conflict_and_nobody_else_is_touched_by_it() {
        let mut twin = [7; 16];
        twin[7] = 8;
        let twin = UserId::from_bytes(twin);
        let live = LiveSet {
            fit: vec![user(7)],
            ..LiveSet::default()
        };
        let found = drift(&live, &[user(7), twin]);
        let right = Drift {
            conflicts: vec![twin],
            ..Drift::default()
        };
        assert_eq!(found, right);
        assert_eq!(drift(&live, &[user(7)]), Drift::default());
    }
}
