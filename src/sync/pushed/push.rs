//! What a panel may do to the pushed users. Each push is one mutation after the other, is done wholly
//! or not at all, and is on the disk when it is answered; a patch or deletion of a user whom several
//! inbounds' sets have is so for each of them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::commit::unmanaged;
use super::error::PushError;
use super::journal::Image;
use super::record::Stored;
use super::set::{Change, GONE_SECONDS_MAX, Gone, Put};
use super::{Pushed, Scope, lock, read, whose, write};
use crate::base::files::FileError;
use crate::model::desired::InboundKey;
use crate::model::ids::UserId;
use crate::model::pushed::{PushedId, PushedPatch, PushedUser};

/// An import may take away so many users, or half of them, without being asked whether it means it.
const REMOVED_MAX: usize = 20;

impl Pushed {
    /// Makes `users` the whole set of one inbound; how many they are.
    pub async fn replace_inbound(
        self: &Arc<Self>,
        inbound: &InboundKey,
        users: Vec<PushedUser>,
    ) -> Result<usize, PushError> {
        let scope = Scope::Inbound(inbound.clone());
        self.mutate(move |pushed| pushed.replace(&scope, &users, true))
            .await
    }

    /// Takes all users of one inbound's set away.
    pub async fn drop_inbound(self: &Arc<Self>, inbound: &InboundKey) -> Result<(), PushError> {
        self.replace_inbound(inbound, Vec::new()).await.map(drop)
    }

    /// Makes `users` the whole set of users for every inbound; how many they are. One that would take
    /// away over half of the pushed users and over 20 needs `force`.
    pub async fn import(
        self: &Arc<Self>,
        users: Vec<PushedUser>,
        force: bool,
    ) -> Result<usize, PushError> {
        self.mutate(move |pushed| pushed.replace(&Scope::Everywhere, &users, force))
            .await
    }

    /// Adds a user for every inbound. No set may have his id yet.
    pub async fn create(self: &Arc<Self>, user: PushedUser) -> Result<(), PushError> {
        let work = move |pushed: &Self| {
            if pushed.scopes_of(&user.id).next().is_some() {
                return Err(PushError::Exists(user.id));
            }
            pushed.put(&Scope::Everywhere, &user, true)
        };
        self.mutate(work).await
    }

    /// Changes a user: the one for every inbound, or else the one of each inbound whose set has him.
    pub async fn patch(
        self: &Arc<Self>,
        id: &PushedId,
        patch: PushedPatch,
    ) -> Result<(), PushError> {
        let id = id.clone();
        let work = move |pushed: &Self| {
            let renews_quota = patch.used.is_some();
            let mut changed = Vec::new();
            for scope in pushed.meant(&id)? {
                let user = pushed.user(&scope, &id)?;
                let user = patch.clone().applied_to(user);
                pushed.checked(&scope, &user)?;
                changed.push((scope, user));
            }
            let mut changed = changed.iter();
            changed.try_for_each(|(scope, user)| pushed.put(scope, user, renews_quota))
        };
        self.mutate(work).await
    }

    /// Takes a user away: the one for every inbound, or else the one of each inbound whose set has him.
    pub async fn delete(self: &Arc<Self>, id: &PushedId) -> Result<(), PushError> {
        let id = id.clone();
        let work = move |pushed: &Self| {
            let scopes = pushed.meant(&id)?;
            scopes
                .iter()
                .try_for_each(|scope| pushed.drop_one(scope, &id))
        };
        self.mutate(work).await
    }

    /// One after the other, on a thread of its own; it is carried through also when nobody waits for it
    /// any more.
    pub(super) async fn mutate<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, PushError> + Send + 'static,
    ) -> Result<T, PushError> {
        let pushed = self.clone();
        let done = spawn_blocking(move || {
            let _turn = lock(&pushed.writer);
            work(&pushed)
        });
        let done = done.await.unwrap_or_else(|panic| {
            let why = io::Error::other(panic);
            Err(FileError::new("cannot finish writing to", &self.folder, why).into())
        });
        self.bell.notify_one();
        done
    }

    fn scopes_of(&self, id: &PushedId) -> impl Iterator<Item = Scope> {
        let sets = read(&self.sets);
        let with_him = sets
            .iter()
            .filter(|(_, slot)| slot.set.get(&id.0).is_some());
        let scopes: Vec<Scope> = with_him.map(|(scope, _)| scope.clone()).collect();
        scopes.into_iter()
    }

    /// The sets in which a call means the user of this id.
    fn meant(&self, id: &PushedId) -> Result<Vec<Scope>, PushError> {
        let mut scopes: Vec<Scope> = self.scopes_of(id).collect();
        if scopes.contains(&Scope::Everywhere) {
            scopes = vec![Scope::Everywhere];
        }
        if scopes.is_empty() {
            return Err(PushError::Unknown(id.clone()));
        }
        Ok(scopes)
    }

    fn user(&self, scope: &Scope, id: &PushedId) -> Result<PushedUser, PushError> {
        let sets = read(&self.sets);
        let stored = sets.get(scope).and_then(|slot| slot.set.get(&id.0));
        stored
            .map(Stored::user)
            .ok_or_else(|| PushError::Unknown(id.clone()))
    }

    fn put(&self, scope: &Scope, user: &PushedUser, renews_quota: bool) -> Result<(), PushError> {
        let stored = self.checked(scope, user)?;
        let sets = read(&self.sets);
        let old = sets.get(scope).and_then(|slot| slot.set.get(&stored.id));
        let polled = old
            .map(|old| self.polled_of(scope, old))
            .unwrap_or_default();
        let stored = self.with_quota(stored, old, renews_quota);
        let news = whose(scope, &stored);
        drop(sets);
        let put = Put {
            user: stored.to_record(),
            at: self.now(),
            polled,
        };
        self.commit(scope, vec![Change::Put(Box::new(put))])?;
        lock(&self.news).extend(news);
        Ok(())
    }

    fn drop_one(&self, scope: &Scope, id: &PushedId) -> Result<(), PushError> {
        let sets = read(&self.sets);
        let old = sets.get(scope).and_then(|slot| slot.set.get(&id.0));
        let polled = old
            .map(|old| self.polled_of(scope, old))
            .unwrap_or_default();
        drop(sets);
        let gone = Gone {
            id: id.0.clone(),
            at: self.now(),
            polled,
        };
        self.commit(scope, vec![Change::Drop(gone)])
    }

    fn polled_of(&self, scope: &Scope, user: &Stored) -> Vec<UserId> {
        let ids = user.ids.all();
        ids.filter(|user| self.is_polled(scope, *user)).collect()
    }

    pub(super) fn replace(
        &self,
        scope: &Scope,
        users: &[PushedUser],
        force: bool,
    ) -> Result<usize, PushError> {
        let mut named = BTreeSet::new();
        if let Some(twice) = users.iter().find(|user| !named.insert(&*user.id.0)) {
            return Err(PushError::Duplicate(twice.id.clone()));
        }
        let checked = users.iter().map(|user| self.checked(scope, user));
        let checked = checked.collect::<Result<Vec<_>, _>>()?;
        let sets = read(&self.sets);
        let slot = sets.get(scope).ok_or_else(|| unmanaged(scope))?;
        let old = &slot.set;
        let removed = old
            .users()
            .filter(|user| !named.contains(&*user.id))
            .count();
        let of = old.users().len();
        if !force && removed > REMOVED_MAX && removed * 2 > of {
            return Err(PushError::TooManyRemoved { removed, of });
        }
        let mut news = Vec::new();
        let checked = checked.into_iter().map(|stored| {
            let before = old.get(&stored.id);
            let stored = self.with_quota(stored, before, true);
            news.extend(whose(scope, &stored));
            stored
        });
        let checked = checked.collect();
        let is_polled = |user| self.is_polled(scope, user);
        let mut next = old.replaced(checked, self.now(), &is_polled);
        next.forget(self.now() - GONE_SECONDS_MAX);
        let mut journal = slot.journal.clone();
        drop(sets);
        journal.rewrite(&Image::of(&next))?;
        if let Some(slot) = write(&self.sets).get_mut(scope) {
            slot.set = next;
            slot.journal = journal;
            slot.damage = None;
        }
        self.changed();
        lock(&self.news).extend(news);
        Ok(users.len())
    }
}
