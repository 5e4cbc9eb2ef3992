//! The brake: a removal of many users waits until further polls agree (`design.md`). Pure; the
//! counts of absence are data that the caller keeps, so that they outlive a process.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::Brake;
use crate::model::ids::UserId;

/// Over this many users, and over half of them: `confirm_polls`.
const MANY_USERS: usize = 20;
/// At least this many, and over nine tenths of them: `confirm_polls_all`.
const ALL_USERS_MIN: usize = 2;

/// What is kept from one answer to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Absences {
    /// For each user who is live and not wanted: in how many answers in a row.
    users: BTreeMap<UserId, Absence>,
    /// While somebody is held: what the removal was measured against at first. Whoever is added
    /// meanwhile does not make it a smaller one.
    base: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Absence {
    answers: u32,
    /// The removal was not confirmed: the user has to stay, also where Xray lost him meanwhile.
    #[serde(default)]
    held: bool,
    /// When the last of them was counted.
    at: Timestamp,
}

impl Absences {
    /// Who was held by the last judgement and is not wanted, ascending.
    pub fn held(&self, wanted: &[UserId]) -> Vec<UserId> {
        let held = self.users.iter().filter(|(_, absence)| absence.held);
        held.map(|(user, _)| *user)
            .filter(|user| wanted.binary_search(user).is_err())
            .collect()
    }

    fn hold(&mut self, user: UserId) {
        if let Some(absence) = self.users.get_mut(&user) {
            absence.held = true;
        }
    }
}

/// What the brake is told of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// How many users the removals are measured against: of ours live now, or last applied,
    /// whichever are more.
    pub base: usize,
    /// Whether the answer is a poll of its own. "Sync now" and a restart see the same answer again.
    pub is_poll: bool,
    /// When it came.
    pub at: Timestamp,
    /// Half the poll interval: closer together, two polls are one.
    pub apart: SignedDuration,
    /// A person says that it is right.
    pub force: bool,
}

/// Who may go now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Ascending.
    pub confirmed: Vec<UserId>,
    /// Ascending: they stay until further answers agree.
    pub held: Vec<UserId>,
    /// In how many answers a user must have been absent to go.
    pub needed: u32,
    /// The most answers in which one of the held was absent.
    pub seen: u32,
}

/// Judges the removal of `leaving` (ascending), and counts their absence.
pub fn judge(
    absences: &mut Absences,
    leaving: &[UserId],
    answer: Answer,
    limits: Brake,
) -> Verdict {
    count(absences, leaving, answer);
    let base = absences.base.unwrap_or(answer.base).min(answer.base);
    let needed = if answer.force {
        1
    } else {
        needed(leaving.len(), base, limits)
    };
    let seen_of = |user: &UserId| {
        let absence = absences.users.get(user);
        absence.map_or(1, |absence| absence.answers)
    };
    let (confirmed, held): (Vec<_>, Vec<_>) = leaving
        .iter()
        .copied()
        .partition(|user| seen_of(user) >= needed);
    let seen = held.iter().map(seen_of).max().unwrap_or_default();
    absences.base = (!held.is_empty()).then_some(base);
    for user in &held {
        absences.hold(*user);
    }
    Verdict {
        confirmed,
        held,
        needed,
        seen,
    }
}

fn count(absences: &mut Absences, leaving: &[UserId], answer: Answer) {
    let mut counted = BTreeMap::new();
    for user in leaving {
        let absence = match absences.users.get(user) {
            None => Absence {
                answers: 1,
                held: false,
                at: answer.at,
            },
            // The clock was set back: measure from now on, count nothing.
            Some(old) if answer.at < old.at => Absence {
                at: answer.at,
                ..*old
            },
            Some(old) if answer.is_poll && answer.at.duration_since(old.at) >= answer.apart => {
                Absence {
                    answers: old.answers.saturating_add(1),
                    at: answer.at,
                    held: false,
                }
            }
            Some(old) => *old,
        };
        let absence = Absence {
            held: false,
            ..absence
        };
        counted.insert(*user, absence);
    }
    absences.users = counted;
}

fn needed(leaving: usize, base: usize, limits: Brake) -> u32 {
    if leaving >= ALL_USERS_MIN && leaving * 10 > base * 9 {
        limits.confirm_polls_all.max(1)
    } else if leaving > MANY_USERS && leaving * 2 > base {
        limits.confirm_polls.max(1)
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Brake = Brake {
        confirm_polls: 2,
        confirm_polls_all: 6,
    };

    fn users(n: usize) -> Vec<UserId> {
        (0..n)
            .map(|i| UserId::from_bytes((i as u128).to_be_bytes()))
            .collect()
    }

    fn answer(base: usize, second: i64) -> Answer {
        Answer {
            base,
            is_poll: true,
            at: Timestamp::from_second(1_000_000 + second).unwrap(),
            apart: SignedDuration::from_secs(5),
            force: false,
        }
    }

    #[test]
    fn how_many_polls_must_agree_depends_on_how_many_would_go() {
        let table = [
            (1, 1, 1),
            (2, 2, 6),
            (1, 2, 1),
            (20, 39, 1),
            (20, 22, 6),
            (21, 41, 2),
            (21, 42, 1),
            (90, 100, 2),
            (91, 100, 6),
            (500, 1000, 1),
        ];
        for (leaving, base, expected) in table {
            assert_eq!(
                needed(leaving, base, LIMITS),
                expected,
                "{leaving} of {base}"
            );
        }
    }

    #[test]
    fn a_mass_removal_is_confirmed_by_the_second_poll() {
        let (mut absences, leaving) = (Absences::default(), users(60));
        let first = judge(&mut absences, &leaving, answer(100, 0), LIMITS);
        assert_eq!((first.held.len(), first.needed, first.seen), (60, 2, 1));
        let second = judge(&mut absences, &leaving, answer(100, 10), LIMITS);
        assert_eq!((second.confirmed.len(), second.held.len()), (60, 0));
        // Counts stay until the users are gone, so that a removal that failed is not held anew.
        assert!(
            judge(&mut absences, &leaving, answer(100, 11), LIMITS)
                .held
                .is_empty()
        );
        judge(&mut absences, &[], answer(40, 20), LIMITS);
        assert_eq!(absences, Absences::default());
    }

    #[test]
    fn an_emptied_list_needs_six() {
        let (mut absences, leaving) = (Absences::default(), users(3));
        for poll in 0..5 {
            let verdict = judge(&mut absences, &leaving, answer(3, poll * 10), LIMITS);
            assert_eq!(verdict.held.len(), 3, "poll {poll}");
        }
        assert_eq!(
            judge(&mut absences, &leaving, answer(3, 50), LIMITS)
                .confirmed
                .len(),
            3
        );
    }

    #[test]
    fn what_is_no_further_poll_does_not_count() {
        let (mut absences, leaving) = (Absences::default(), users(60));
        judge(&mut absences, &leaving, answer(100, 0), LIMITS);
        let sync_now = Answer {
            is_poll: false,
            ..answer(100, 60)
        };
        let too_soon = answer(100, 4);
        let clock_back = answer(100, -3600);
        for not_counted in [sync_now, too_soon, clock_back] {
            assert_eq!(
                judge(&mut absences, &leaving, not_counted, LIMITS)
                    .held
                    .len(),
                60
            );
        }
        assert!(
            judge(&mut absences, &leaving, answer(100, 10), LIMITS)
                .held
                .is_empty()
        );
    }

    #[test]
    fn who_comes_back_starts_from_nothing() {
        let (mut absences, leaving) = (Absences::default(), users(60));
        judge(&mut absences, &leaving, answer(100, 0), LIMITS);
        assert!(
            judge(&mut absences, &[], answer(100, 10), LIMITS)
                .held
                .is_empty()
        );
        assert_eq!(
            judge(&mut absences, &leaving, answer(100, 20), LIMITS)
                .held
                .len(),
            60
        );
    }

    #[test]
    fn newcomers_do_not_make_a_held_removal_a_smaller_one() {
        let (mut absences, leaving) = (Absences::default(), users(30));
        // Everybody is exchanged: from the second answer on, the others are live as well.
        for poll in 0..5 {
            let base = if poll == 0 { 30 } else { 60 };
            let verdict = judge(&mut absences, &leaving, answer(base, poll * 10), LIMITS);
            assert_eq!((verdict.held.len(), verdict.needed), (30, 6), "poll {poll}");
        }
        let last = judge(&mut absences, &leaving, answer(60, 50), LIMITS);
        assert_eq!(last.confirmed.len(), 30);
        // What comes after is measured anew.
        let next = judge(&mut absences, &users(20), answer(60, 60), LIMITS);
        assert_eq!((next.held.len(), next.needed), (0, 1));
    }

    #[test]
    fn a_smaller_removal_does_not_wait_for_the_larger_one_before_it() {
        let mut absences = Absences::default();
        judge(&mut absences, &users(29), answer(30, 0), LIMITS);
        let verdict = judge(&mut absences, &users(2), answer(30, 10), LIMITS);
        assert_eq!((verdict.confirmed.len(), verdict.needed), (2, 1));
    }

    #[test]
    fn who_is_held_is_remembered_and_who_may_go_is_not() {
        let mut absences = Absences::default();
        let verdict = judge(&mut absences, &users(60), answer(100, 0), LIMITS);
        assert_eq!(absences.held(&[]), verdict.held);
        assert_eq!(absences.held(&users(59)), users(60)[59..]);
        judge(&mut absences, &users(60), answer(100, 10), LIMITS);
        assert_eq!(absences.held(&[]), []);
    }

    #[test]
    fn force_lets_everybody_through() {
        let mut absences = Absences::default();
        let forced = Answer {
            force: true,
            ..answer(100, 0)
        };
        assert_eq!(
            judge(&mut absences, &users(100), forced, LIMITS)
                .confirmed
                .len(),
            100
        );
    }

    #[test]
    fn counts_survive_being_written_and_read() {
        let mut absences = Absences::default();
        judge(&mut absences, &users(60), answer(100, 0), LIMITS);
        let text = serde_json::to_string(&absences).unwrap();
        assert_eq!(serde_json::from_str::<Absences>(&text).unwrap(), absences);
    }

    proptest! {
        #[test]
        fn everybody_who_leaves_is_either_confirmed_or_held(
            leaving in 0usize..200, base in 0usize..400, polls in 1usize..8
        ) {
            let (mut absences, leaving) = (Absences::default(), users(leaving));
            for poll in 0..polls {
                let at = answer(base, i64::try_from(poll).unwrap() * 10);
                let verdict = judge(&mut absences, &leaving, at, LIMITS);
                let mut all = [verdict.confirmed.clone(), verdict.held.clone()].concat();
                all.sort_unstable();
                prop_assert_eq!(&all, &leaving);
                prop_assert!(verdict.held.is_empty() || poll + 1 < verdict.needed as usize);
            }
        }
    }
}
