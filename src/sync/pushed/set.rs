//! One set of pushed users in memory, and the changes by which it comes about: replayed in their order,
//! those of the journal make the set. Whoever left is remembered for a while. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::quota::{Room, Untold};
use super::record::{Record, Stored};
use crate::model::credentials::DerivingKey;
use crate::model::ids::UserId;
use crate::model::pushed::Owner;

/// Who left is remembered for so many seconds: twice the longest month, so that a last report still
/// finds him.
pub(super) const GONE_SECONDS_MAX: i64 = 62 * 24 * 3600;
/// So many of them are remembered of a set (some 10 MB); of more, the oldest are forgotten.
pub(super) const GONE_MAX: usize = 100_000;

/// What can be done to a set.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// A user comes, or is other than before.
    Put(Box<Put>),
    /// A user goes.
    Drop(Gone),
    /// An id that somebody had.
    Gone(Former),
    /// A user has used up what he may have, or has room again.
    Exhausted(Exhausted),
    /// Somebody took note of how a user's quota changed.
    Told(Told),
}

/// A user, and when he was put so.
#[derive(Serialize, Deserialize)]
pub(super) struct Put {
    pub(super) user: Record,
    /// Unix seconds.
    pub(super) at: i64,
    /// Which of the ids that he has no more the polled panel wanted then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) polled: Vec<UserId>,
}

/// Who goes, and when.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Gone {
    pub(super) id: Box<str>,
    /// Unix seconds.
    pub(super) at: i64,
    /// Which of his ids the polled panel wanted then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) polled: Vec<UserId>,
}

/// An id that nobody has any more.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Former {
    user: UserId,
    at: i64,
    polled: bool,
    owner: Option<(u64, Option<u64>)>,
}

/// Whether a user has used up what he may have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exhausted {
    pub(super) id: Box<str>,
    pub(super) is: bool,
    /// What is to be told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) untold: Option<Untold>,
}

/// Of what somebody took note.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) id: Box<str>,
    /// How the user stood by it.
    pub(super) current: Room,
}

/// What is remembered of an id that nobody has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) owner: Option<Owner>,
    /// Unix seconds.
    at: i64,
    /// The polled panel wanted him when he was taken away.
    pub(super) polled: bool,
}

/// A set.
#[derive(Debug, Default)]
pub(super) struct Set {
    users: BTreeMap<Arc<str>, Stored>,
    gone: HashMap<UserId, Tombstone>,
    /// Every id of every user, ascending. Made when it is asked for.
    index: OnceLock<Index>,
}

/// Ids towards Xray with those at the panel.
type Index = Box<[(UserId, Arc<str>)]>;

impl Set {
    /// The users, by their ids at the panel.
    pub(super) fn users(&self) -> impl ExactSizeIterator<Item = &Stored> {
        self.users.values()
    }

    /// The user of this id.
    pub(super) fn get(&self, id: &str) -> Option<&Stored> {
        self.users.get(id)
    }

    /// The users whose id towards Xray this is, or was since their quotas were pushed.
    pub(super) fn owning(&self, user: UserId) -> impl Iterator<Item = &Stored> {
        let index = self.index.get_or_init(|| {
            let ids = self
                .users
                .values()
                .flat_map(|stored| stored.all_ids().map(|user| (user, stored.id.clone())));
            let mut index: Vec<_> = ids.collect();
            index.sort_unstable();
            index.into()
        });
        let from = index.partition_point(|(other, _)| *other < user);
        let own = index[from..]
            .iter()
            .take_while(move |(other, _)| *other == user);
        own.filter_map(|(_, id)| self.users.get(id))
    }

    /// What is remembered of an id that somebody had.
    pub(super) fn gone(&self, user: UserId) -> Option<Tombstone> {
        self.gone.get(&user).copied()
    }

    /// How many changes make this set at least.
    pub(super) fn len(&self) -> usize {
        self.users.len() + self.gone.len()
    }

    /// Does what a change says.
    pub(super) fn apply(&mut self, change: Change, key: &DerivingKey) {
        match change {
            Change::Put(put) => {
                let stored = Stored::from_record(put.user, key);
                self.put(stored, put.at, &put.polled);
            }
            Change::Drop(gone) => {
                if let Some(old) = self.users.remove(&*gone.id) {
                    self.index.take();
                    self.bury(&old, gone.at, &gone.polled);
                }
            }
            Change::Gone(former) => {
                let owner = former.owner.map(|(user_id, subscription_id)| Owner {
                    user_id,
                    subscription_id,
                });
                let tombstone = Tombstone {
                    owner,
                    at: former.at,
                    polled: former.polled,
                };
                self.gone.insert(former.user, tombstone);
            }
            Change::Exhausted(now) => self.set_exhausted(&now),
            Change::Told(told) => self.set_told(&told),
        }
    }

    /// Puts a user in his place.
    pub(super) fn put(&mut self, stored: Stored, at: i64, polled: &[UserId]) {
        self.index.take();
        for user in stored.ids.all() {
            self.gone.remove(&user);
        }
        let ids = stored.ids;
        let old = self.users.insert(stored.id.clone(), stored);
        if let Some(old) = old.filter(|old| old.ids != ids) {
            self.bury(&old, at, polled);
            for user in ids.all() {
                self.gone.remove(&user);
            }
        }
    }

    /// Whether a user has used up what he may have.
    pub(super) fn set_exhausted(&mut self, now: &Exhausted) {
        if let Some(user) = self.users.get_mut(&*now.id) {
            user.exhausted = now.is;
            user.has_to_tell(now.untold);
        }
    }

    /// Somebody took note; what came since then is still to be told.
    fn set_told(&mut self, told: &Told) {
        if let Some(user) = self.users.get_mut(&*told.id) {
            user.untold = user
                .untold
                .take_if(|untold| untold.current != told.current)
                .map(|untold| {
                    Box::new(Untold {
                        previous: told.current,
                        ..*untold
                    })
                });
        }
    }

    fn bury(&mut self, old: &Stored, at: i64, polled: &[UserId]) {
        for user in old.ids.all() {
            let tombstone = Tombstone {
                owner: old.owner,
                at,
                polled: polled.contains(&user),
            };
            self.gone.insert(user, tombstone);
        }
        if self.gone.len() > GONE_MAX + GONE_MAX / 10 {
            self.forget(i64::MIN);
        }
    }

    /// Forgets who left before this moment (Unix seconds), and the oldest where there are too many.
    pub(super) fn forget(&mut self, before: i64) {
        self.gone.retain(|_, gone| gone.at >= before);
        let Some(over) = self.gone.len().checked_sub(GONE_MAX + 1) else {
            return;
        };
        let mut times: Vec<i64> = self.gone.values().map(|gone| gone.at).collect();
        let (_, last, _) = times.select_nth_unstable(over);
        let last = *last;
        self.gone.retain(|_, gone| gone.at > last);
    }

    /// The set that `users` make in the place of this one: whoever is not among them left at this
    /// moment. `is_polled`: who is wanted by the polled panel.
    pub(super) fn replaced(
        &self,
        users: Vec<Stored>,
        at: i64,
        is_polled: &dyn Fn(UserId) -> bool,
    ) -> Self {
        let mut next = Self {
            gone: self.gone.clone(),
            ..Self::default()
        };
        for old in self.users.values() {
            let polled: Vec<UserId> = old.ids.all().filter(|user| is_polled(*user)).collect();
            next.bury(old, at, &polled);
        }
        for user in users {
            next.put(user, at, &[]);
        }
        next
    }

    /// The changes that make this set of an empty one.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let gone = self.gone.iter().map(|(user, gone)| {
            Change::Gone(Former {
                user: *user,
                at: gone.at,
                polled: gone.polled,
                owner: gone
                    .owner
                    .map(|owner| (owner.user_id, owner.subscription_id)),
            })
        });
        let users = self.users.values().map(|stored| {
            Change::Put(Box::new(Put {
                user: stored.to_record(),
                at: 0,
                polled: Vec::new(),
            }))
        });
        gone.chain(users)
    }
}
