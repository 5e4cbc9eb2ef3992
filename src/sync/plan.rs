//! The plan: what has to be done so that the live users become the wanted ones. Pure, and the rule
//! of the whole business: carried out, it leaves nothing more to plan.
//!
//! Xray finds users of one inbound by their secret, and removing an entry removes its secret, also
//! where another entry has the same one. So removals come first, additions after them, and whoever
//! loses a secret that way is written anew.

use std::collections::HashSet;

use super::live::{Entry, LiveSet};
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::xray::account::{AccountKind, SecretKey};

/// What has to be done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First: entries that go, and do not come back under the same e-mail with the same secret.
    pub removals: Vec<Removal>,
    /// Then: users whose entries are removed and written anew, one user after the other.
    pub repairs: Vec<Repair>,
    /// And: users who are added, ascending.
    pub additions: Vec<UserId>,
    /// Wanted, but a foreign user has their secret, or their entry must not be touched: left as
    /// they are.
    pub conflicts: Vec<UserId>,
}

/// Entries that go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Whose they are; `None` for a foreign one.
    pub user: Option<UserId>,
    /// Their e-mails, in Xray's spelling.
    pub emails: Vec<String>,
}

/// A user who is written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Who.
    pub user: UserId,
    /// The e-mails of the entries that go before.
    pub emails: Vec<String>,
}

impl Plan {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how many users (and foreign entries) something has to be done.
    pub fn len(&self) -> usize {
        self.removals.len() + self.repairs.len() + self.additions.len()
    }
}

/// How the inbound's users are written, and whether it is ours alone.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Its protocol.
    pub kind: &'a AccountKind,
    /// Its e-mails.
    pub emails: &'a Emails,
    /// Foreign users go, too.
    pub exclusive: bool,
}

/// Users of ours who are live, not wanted and can be removed, ascending.
pub fn leaving(live: &LiveSet, wanted: &[UserId]) -> Vec<UserId> {
    let mut leaving: Vec<_> = live
        .ours()
        .filter(|user| wanted.binary_search(user).is_err() && !live.is_stuck(*user))
        .collect();
    leaving.sort_unstable();
    leaving
}

/// Plans for `wanted` (ascending, none of whom share a secret) with the removals that are confirmed
/// (ascending). Whoever else is live stays.
pub fn plan(live: &LiveSet, wanted: &[UserId], confirmed: &[UserId], rules: Rules<'_>) -> Plan {
    let mut plan = Plan::default();
    let foreign: HashSet<SecretKey> = if rules.exclusive {
        plan.remove_foreign(&live.foreign);
        HashSet::new()
    } else {
        live.foreign
            .iter()
            .filter_map(|entry| entry.secret)
            .collect()
    };
    plan.remove(live, confirmed, rules);
    plan.mend(live, wanted, &foreign, rules);
    plan.add(live, wanted, &foreign, rules);
    plan.restore_shared(live, confirmed, rules);
    plan
}

impl Plan {
    /// Users with entries that are written anew, ascending within each of the two kinds.
    pub fn mended(&self) -> impl Iterator<Item = UserId> + '_ {
        let repaired = self.repairs.iter().map(|repair| repair.user);
        let removed = self.removals.iter().filter_map(|removal| removal.user);
        repaired.chain(removed.filter(|user| self.additions.binary_search(user).is_ok()))
    }

    /// Everybody for whom something has to be done.
    pub fn users(&self) -> impl Iterator<Item = UserId> + '_ {
        let removed = self.removals.iter().filter_map(|removal| removal.user);
        let repaired = self.repairs.iter().map(|repair| repair.user);
        let added = self.additions.iter().copied();
        removed.chain(repaired).chain(added)
    }

    fn remove_foreign(&mut self, foreign: &[Entry]) {
        // Xray cannot remove an entry without an e-mail.
        let removable = foreign
            .iter()
            .filter(|entry| !entry.email.is_empty() && !entry.alien);
        self.removals.extend(removable.map(|entry| Removal {
            user: None,
            emails: vec![entry.email.clone()],
        }));
    }

    fn remove(&mut self, live: &LiveSet, confirmed: &[UserId], rules: Rules<'_>) {
        let live_ones = confirmed.iter().filter(|user| live.has(**user));
        self.removals.extend(live_ones.map(|user| Removal {
            user: Some(*user),
            emails: match live.odd.get(user) {
                Some(entries) => emails_of(entries),
                None => vec![rules.emails.write(*user)],
            },
        }));
    }

    /// Wanted users with entries that are not as we write them.
    fn mend(
        &mut self,
        live: &LiveSet,
        wanted: &[UserId],
        foreign: &HashSet<SecretKey>,
        rules: Rules<'_>,
    ) {
        for (user, entries) in &live.odd {
            if wanted.binary_search(user).is_err() {
                continue;
            }
            let own = rules.kind.secret_key(*user);
            let emails = emails_of(entries);
            if foreign.contains(&own) || live.is_stuck(*user) {
                self.conflicts.push(*user);
            } else if entries.iter().all(|entry| entry.secret == Some(own)) {
                self.repairs.push(Repair {
                    user: *user,
                    emails,
                });
            } else {
                // The secret may be another user's: it has to go before that one is added.
                self.removals.push(Removal {
                    user: Some(*user),
                    emails,
                });
                self.additions.push(*user);
            }
        }
    }

    fn add(
        &mut self,
        live: &LiveSet,
        wanted: &[UserId],
        foreign: &HashSet<SecretKey>,
        rules: Rules<'_>,
    ) {
        let mut there = live.fit.iter().copied().peekable();
        for user in wanted {
            while there.next_if(|live| live < user).is_some() {}
            if there.peek() == Some(user) || live.odd.contains_key(user) {
                continue;
            }
            if !foreign.is_empty() && foreign.contains(&rules.kind.secret_key(*user)) {
                self.conflicts.push(*user);
            } else {
                self.additions.push(*user);
            }
        }
        self.additions.sort_unstable();
    }

    /// Users who stay, but whose secret goes with an entry of somebody else.
    fn restore_shared(&mut self, live: &LiveSet, confirmed: &[UserId], rules: Rules<'_>) {
        let lost = lost_secrets(live, &self.removals, rules.kind);
        let mut restored = Vec::new();
        for alike in lost.chunk_by(|a, b| a.prefix() == b.prefix()) {
            let neighbours = live.neighbours(alike[0]).iter().copied();
            restored.extend(neighbours.filter(|user| {
                let secret = rules.kind.secret_key(*user);
                alike.binary_search(&secret).is_ok() && confirmed.binary_search(user).is_err()
            }));
        }
        self.repairs.extend(restored.into_iter().map(|user| Repair {
            user,
            emails: vec![rules.emails.write(user)],
        }));
    }
}

/// The secrets of all that is removed, ascending.
fn lost_secrets(live: &LiveSet, removals: &[Removal], kind: &AccountKind) -> Vec<SecretKey> {
    let mut lost = Vec::new();
    let mut foreign = HashSet::new();
    for removal in removals {
        let Some(user) = removal.user else {
            foreign.extend(&removal.emails);
            continue;
        };
        match live.odd.get(&user) {
            Some(entries) => lost.extend(entries.iter().filter_map(|entry| entry.secret)),
            None => lost.push(kind.secret_key(user)),
        }
    }
    let gone = live.foreign.iter();
    let gone = gone.filter(|entry| foreign.contains(&entry.email));
    lost.extend(gone.filter_map(|entry| entry.secret));
    lost.sort_unstable();
    lost.dedup();
    lost
}

fn emails_of(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.email.clone()).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
