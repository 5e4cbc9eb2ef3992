//! The users that are live in one inbound, sorted out: those just as we would write them, those of
//! ours that need mending, and the foreign ones. Pure; it costs 16 bytes for each usual user.

use std::collections::{BTreeMap, HashSet};

use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::xray::account::{AccountSpec, SecretKey};
use crate::xray::proto::xray::common::protocol::User;

/// One entry in Xray's table of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its e-mail, in the case in which Xray has it.
    pub email: String,
    /// Its secret, where a user of ours could have that one.
    pub secret: Option<SecretKey>,
    /// Its account is of another protocol than the inbound's. VMess keeps such an entry although it
    /// refuses it, and removing it ends the whole Xray: it stays until Xray is restarted.
    pub alien: bool,
}

impl Entry {
    fn of(found: User, spec: &AccountSpec) -> Self {
        Self {
            secret: spec.secret_of(&found),
            alien: spec.is_alien(&found),
            email: found.email,
        }
    }
}

/// What is live in an inbound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveSet {
    /// Ascending; each has one entry, which is as we would write it.
    pub fit: Vec<UserId>,
    /// Ours, but with another spelling, flow, level or secret than we write, or more than once; with
    /// all of the user's entries. Never also in `fit`.
    pub odd: BTreeMap<UserId, Vec<Entry>>,
    /// Not ours.
    pub foreign: Vec<Entry>,
}

impl LiveSet {
    /// Sorts out what Xray lists.
    pub fn of(listed: impl IntoIterator<Item = User>, spec: &AccountSpec, emails: &Emails) -> Self {
        let mut live = Self::default();
        for found in listed {
            let Some(user) = emails.read(&found.email) else {
                live.foreign.push(Entry::of(found, spec));
                continue;
            };
            if found.email == emails.write(user) && spec.is_as_written(user, &found) {
                live.fit.push(user);
            } else {
                let entry = Entry::of(found, spec);
                live.odd.entry(user).or_default().push(entry);
            }
        }
        live.fit.sort_unstable();
        live.separate(spec, emails);
        live
    }

    /// Moves to `odd` whoever has more entries than the one that fits.
    fn separate(&mut self, spec: &AccountSpec, emails: &Emails) {
        let odd = &mut self.odd;
        let fitting = |user: UserId| Entry {
            email: emails.write(user),
            secret: Some(spec.kind.secret_key(user)),
            alien: false,
        };
        for twice in self
            .fit
            .chunk_by(|a, b| a == b)
            .filter(|same| same.len() > 1)
        {
            let entries = odd.entry(twice[0]).or_default();
            entries.extend(twice[1..].iter().map(|user| fitting(*user)));
        }
        self.fit.dedup();
        self.fit.retain(|user| match odd.get_mut(user) {
            Some(entries) => {
                entries.push(fitting(*user));
                false
            }
            None => true,
        });
    }

    /// How many users of ours are live.
    pub fn managed(&self) -> usize {
        self.fit.len() + self.odd.len()
    }

    /// Whether this user of ours is live.
    pub fn has(&self, user: UserId) -> bool {
        self.fit.binary_search(&user).is_ok() || self.odd.contains_key(&user)
    }

    /// Of `served` (ascending), those who are neither live nor among `allowed` (ascending).
    pub fn missing(&self, served: &[UserId], allowed: &[UserId]) -> Vec<UserId> {
        let is_missing = |user: &UserId| allowed.binary_search(user).is_err() && !self.has(*user);
        served.iter().copied().filter(is_missing).collect()
    }

    /// Whether this user has an entry that must not be touched.
    pub fn is_stuck(&self, user: UserId) -> bool {
        let entries = self.odd.get(&user);
        entries.is_some_and(|entries| entries.iter().any(|entry| entry.alien))
    }

    /// How many entries must not be touched.
    pub fn aliens(&self) -> usize {
        let odd = self.odd.values().flatten();
        odd.chain(&self.foreign).filter(|entry| entry.alien).count()
    }

    /// Users of ours, ascending within each of the two kinds.
    pub fn ours(&self) -> impl Iterator<Item = UserId> + '_ {
        self.fit.iter().copied().chain(self.odd.keys().copied())
    }

    /// Those of `fit` that could have this secret: in every protocol it begins with the user's
    /// first 6 bytes.
    pub fn neighbours(&self, secret: SecretKey) -> &[UserId] {
        let prefix = secret.prefix();
        let from = self
            .fit
            .partition_point(|other| &other.bytes()[..6] < prefix);
        let length = self.fit[from..].partition_point(|other| &other.bytes()[..6] == prefix);
        &self.fit[from..from + length]
    }

    /// Takes in what an apply has done: `gone` and `added` are ascending, and whoever was added is
    /// as we write it now.
    pub fn after(&mut self, gone: &[UserId], added: &[UserId], foreign_gone: &[String]) {
        for user in gone.iter().chain(added) {
            self.odd.remove(user);
        }
        self.fit.retain(|user| gone.binary_search(user).is_err());
        self.fit.extend_from_slice(added);
        self.fit.sort_unstable();
        self.fit.dedup();
        if !foreign_gone.is_empty() {
            let gone: HashSet<_> = foreign_gone.iter().collect();
            self.foreign.retain(|entry| !gone.contains(&entry.email));
        }
    }
}
