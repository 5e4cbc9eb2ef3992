//! The pushed users: a second source, for surfaces to which a panel pushes. A set for each managed
//! inbound, and one of users who go to all of them; each is a journal in the state folder. What was
//! answered to a push is on the disk. A set that cannot be read is *unknown*: nobody is removed for it.

mod claims;
mod commit;
mod counts;
pub mod error;
pub mod identity;
mod journal;
mod key;
mod owners;
mod push;
pub mod quota;
mod record;
mod set;
mod view;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;
use tracing::warn;

use self::claims::Cached;
use self::counts::Counts;
use self::journal::Journal;
use self::record::Stored;
use self::set::{GONE_SECONDS_MAX, Set};
use super::polled::Polled;
use super::state::escaped;
use crate::base::clock::Clock;
use crate::base::files::{FileError, PRIVATE_FOLDER, create_folder};
use crate::model::credentials::{CredentialForm, DerivingKey};
use crate::model::desired::{Claim, InboundKey};
use crate::model::ids::UserId;

pub(super) use self::claims::SOURCE;
pub use self::error::PushError;
pub use self::key::kept as kept_key;
pub use self::view::PushedView;
pub(super) use self::watch::run;

/// To whom users are pushed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// To every managed inbound.
    Everywhere,
    /// To this one.
    Inbound(InboundKey),
}

/// A user of a set, by his id at the panel.
type Whose = (Scope, Arc<str>);

/// The pushed source.
pub struct Pushed {
    folder: PathBuf,
    key: DerivingKey,
    clock: Clock,
    sets: RwLock<BTreeMap<Scope, Slot>>,
    /// What the users of inbounds show, as last observed.
    forms: RwLock<BTreeMap<InboundKey, CredentialForm>>,
    /// What the polls say; `None` where no panel is polled.
    polled: RwLock<Option<Arc<Polled>>>,
    counts: Mutex<Counts>,
    /// Counts up with whatever may change who is wanted.
    version: AtomicU64,
    claims: Mutex<HashMap<InboundKey, Cached>>,
    /// One mutation after the other.
    writer: Mutex<()>,
    /// Whose quotas changed and are still to be told of; what, is kept with them.
    news: Mutex<BTreeSet<Whose>>,
    /// Rung when there are news, or bytes were counted.
    bell: Notify,
}

/// One set with its file.
#[derive(Debug)]
struct Slot {
    set: Set,
    journal: Journal,
    /// Why it is not known, if it is not.
    damage: Option<Arc<str>>,
}

impl std::fmt::Debug for Pushed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushed")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Pushed {
    /// Reads the sets of `inbounds`, and that of users for all, from the state folder.
    pub fn open<'a>(
        state_dir: &Path,
        inbounds: impl Iterator<Item = &'a InboundKey>,
        clock: Clock,
    ) -> Result<Self, FileError> {
        let folder = state_dir.join("pushed");
        create_folder(state_dir, PRIVATE_FOLDER)?;
        create_folder(&folder, PRIVATE_FOLDER)?;
        let pushed = Self::of(folder, key::open(state_dir, clock)?, clock);
        pushed.add_set(Scope::Everywhere);
        pushed.add(inbounds);
        Ok(pushed)
    }

    fn of(folder: PathBuf, key: DerivingKey, clock: Clock) -> Self {
        Self {
            folder,
            key,
            clock,
            sets: RwLock::default(),
            forms: RwLock::default(),
            polled: RwLock::default(),
            counts: Mutex::default(),
            version: AtomicU64::new(0),
            claims: Mutex::default(),
            writer: Mutex::default(),
            news: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Reads those of further `inbounds`; what is known of an inbound stays.
    pub fn add<'a>(&self, inbounds: impl Iterator<Item = &'a InboundKey>) {
        for key in inbounds {
            self.add_set(Scope::Inbound(key.clone()));
        }
    }

    fn add_set(&self, scope: Scope) {
        let mut sets = write(&self.sets);
        if sets.contains_key(&scope) {
            return;
        }
        let slot = self.read(&scope);
        if let Some(why) = &slot.damage {
            warn!(file = %slot.journal.path().display(),
                "pushed users are unknown, nobody is removed: {why}");
        }
        // What the last run could not tell any more.
        let untold = slot.set.users().filter_map(|user| whose(&scope, user));
        lock(&self.news).extend(untold);
        sets.insert(scope, slot);
        self.changed();
    }

    fn read(&self, scope: &Scope) -> Slot {
        let (journal, loaded) = Journal::open(file(&self.folder, scope), &self.key);
        let mut set = loaded.set;
        set.forget(self.now() - GONE_SECONDS_MAX);
        Slot {
            set,
            journal,
            damage: loaded.damage.map(Into::into),
        }
    }

    /// By what the ids of users with passwords are derived.
    pub fn key(&self) -> &DerivingKey {
        &self.key
    }

    /// From now on these polls say whom the polled panel wants; `None`: there is none.
    pub(super) fn polled_by(&self, polled: Option<Arc<Polled>>) {
        *write(&self.polled) = polled;
    }

    /// Whether the polled panel wants, by its last good answer, this user in one of the inbounds that
    /// are meant.
    fn is_polled(&self, scope: &Scope, user: UserId) -> bool {
        let polled = read(&self.polled).clone();
        let Some(polled) = polled else { return false };
        match scope {
            Scope::Everywhere => polled.wants_anywhere(user),
            Scope::Inbound(key) => polled.wants(key.node, user),
        }
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Unix seconds.
    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }
}

/// What is kept for one inbound, for whoever only looks at the state folder.
pub(super) fn kept(
    state_dir: &Path,
    inbound: &InboundKey,
    form: Option<CredentialForm>,
) -> Result<Claim, FileError> {
    let pushed = Pushed::of(
        state_dir.join("pushed"),
        kept_key(state_dir)?,
        Clock::system(),
    );
    let scopes = [Scope::Everywhere, Scope::Inbound(inbound.clone())];
    let sets = scopes.map(|scope| {
        let slot = pushed.read(&scope);
        (scope, slot)
    });
    *write(&pushed.sets) = sets.into();
    Ok(pushed.claim(inbound, form))
}

/// The user, if something is to be told of him.
fn whose(scope: &Scope, user: &Stored) -> Option<Whose> {
    user.untold
        .is_some()
        .then(|| (scope.clone(), user.id.clone()))
}

fn file(folder: &Path, scope: &Scope) -> PathBuf {
    match scope {
        // No name of an inbound's file has no @.
        Scope::Everywhere => folder.join("everywhere"),
        Scope::Inbound(key) => {
            let name = format!("{}@{}", escaped(&key.xray), escaped(&key.tag.0));
            folder.join(name)
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
