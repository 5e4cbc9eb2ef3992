//! How a mutation gets from a user as he was pushed to the disk and into memory. Only the one writer is
//! here at a time.

use tracing::warn;

use super::error::PushError;
use super::identity::unfit;
use super::journal::{Image, Journal};
use super::quota::{Room, Untold, used_in_force};
use super::record::Stored;
use super::set::{Change, Set};
use super::{Pushed, Scope, lock, read, write};
use crate::model::credentials::CredentialForm;
use crate::model::pushed::PushedUser;

impl Pushed {
    /// The user as he is kept, if one of the inbounds that are meant can let him in.
    pub(super) fn checked(&self, scope: &Scope, user: &PushedUser) -> Result<Stored, PushError> {
        let stored = Stored::new(user, &self.key);
        match unfit(user, &stored.ids, &self.forms_of(scope)) {
            None => Ok(stored),
            Some(why) => Err(PushError::NoCredential {
                id: user.id.clone(),
                why,
            }),
        }
    }

    /// What the users of the inbounds that are meant show; nothing as long as one was never observed.
    fn forms_of(&self, scope: &Scope) -> Vec<CredentialForm> {
        let (sets, forms) = (read(&self.sets), read(&self.forms));
        let meant = sets.keys().filter_map(|of| match (of, scope) {
            (Scope::Inbound(key), Scope::Everywhere) => Some(forms.get(key).copied()),
            (Scope::Inbound(key), own) if of == own => Some(forms.get(key).copied()),
            _ => None,
        });
        meant.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// How a user stands now.
    pub(super) fn room(&self, user: &Stored) -> Room {
        let counted = lock(&self.counts).counted(user);
        Room::of(
            user.quota,
            used_in_force(user.quota.used, counted, user.base),
        )
    }

    /// The user with what is kept of his quota, and with what is to be told of it. `renews`: what the
    /// panel knows of was pushed, too.
    pub(super) fn with_quota(&self, user: Stored, before: Option<&Stored>, renews: bool) -> Stored {
        let mut user = match before {
            Some(before) => user.after(before),
            None => user,
        };
        user.base = match before {
            Some(before) if !renews => before.base,
            _ => lock(&self.counts).settled(&user),
        };
        let current = self.room(&user);
        let was_exhausted = before.is_some_and(|before| before.exhausted);
        user.exhausted = current.is_exhausted();
        let has_other = before.is_some_and(|before| {
            before.quota.allocated != user.quota.allocated || before.quota.used > user.quota.used
        });
        let is_news = has_other || was_exhausted != user.exhausted;
        let previous = before.map_or(current, |before| self.room(before));
        user.has_to_tell(is_news.then_some(Untold { previous, current }));
        user
    }

    /// Adds changes to a set, on the disk first.
    pub(super) fn commit(&self, scope: &Scope, changes: Vec<Change>) -> Result<(), PushError> {
        let mut journal = self.journal_to_append(scope)?;
        journal.append(&changes)?;
        if let Some(slot) = write(&self.sets).get_mut(scope) {
            for change in changes {
                slot.set.apply(change, &self.key);
            }
            slot.journal = journal;
        }
        self.changed();
        self.compact(scope);
        Ok(())
    }

    fn journal_to_append(&self, scope: &Scope) -> Result<Journal, PushError> {
        let sets = read(&self.sets);
        let slot = sets.get(scope).ok_or_else(|| unmanaged(scope))?;
        let mut journal = slot.journal.clone();
        let damage = slot.damage.clone();
        drop(sets);
        match damage {
            _ if journal.is_there() => {}
            Some(why) => return Err(PushError::Unreadable(why.to_string())),
            None => journal.rewrite(&Image::of(&Set::default()))?,
        }
        Ok(journal)
    }

    /// Writes a file anew that has grown long. That it fails does no harm. What is damaged stays as it
    /// is: a person may want to look at it.
    fn compact(&self, scope: &Scope) {
        let sets = read(&self.sets);
        let slot = sets.get(scope);
        let long = slot.filter(|slot| slot.damage.is_none() && slot.journal.is_long(&slot.set));
        let Some((mut journal, image)) =
            long.map(|slot| (slot.journal.clone(), Image::of(&slot.set)))
        else {
            return;
        };
        drop(sets);
        if let Err(error) = journal.rewrite(&image) {
            warn!("{error}; the file of pushed users stays long");
        } else if let Some(slot) = write(&self.sets).get_mut(scope) {
            slot.journal = journal;
        }
    }
}

pub(super) fn unmanaged(scope: &Scope) -> PushError {
    match scope {
        Scope::Inbound(key) => PushError::Unmanaged(key.clone()),
        Scope::Everywhere => PushError::Unreadable("the sets are not open".to_owned()),
    }
}
