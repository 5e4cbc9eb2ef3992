//! Carries a plan out: many users at once, but for one user one call after the other (Xray does not
//! keep the order of calls that are under way together). One bad user stops no other; an Xray that
//! goes away stops all, and whoever's call it answered that way is suspected of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join;
use futures_util::{StreamExt, stream};

use super::plan::Plan;
use crate::model::email::Emails;
use crate::model::ids::{InboundTag, UserId};
use crate::model::progress::Progress;
use crate::xray::account::AccountSpec;
use crate::xray::client::XrayClient;
use crate::xray::error::XrayError;
use crate::xray::proto::xray::common::protocol::User;

/// So many calls in a row without an answer, and the rest waits for the next tick.
const SILENT_CALLS_MAX: usize = 64;

/// Everything that is needed to change users of one inbound.
#[derive(Clone, Copy)]
pub struct Executor<'a> {
    /// The Xray.
    pub client: &'a XrayClient,
    /// The inbound.
    pub tag: &'a InboundTag,
    /// How its users are written.
    pub spec: &'a AccountSpec,
    /// Under which e-mails.
    pub emails: &'a Emails,
    /// Whether this core lets us read users back.
    pub read_back: bool,
    /// Who is told how far it has come.
    pub progress: &'a dyn Progress,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Applied {
    /// Users with no entry any more, ascending.
    pub removed: Vec<UserId>,
    /// Users who are as we write them, ascending.
    pub added: Vec<UserId>,
    /// Foreign entries that are gone.
    pub foreign_removed: Vec<String>,
    /// Users for whom it did not work, and why.
    pub failed: Vec<(UserId, XrayError)>,
    /// Whether the outcome of some call is not known.
    pub uncertain: bool,
    /// Users whose calls were under way when the connection broke.
    pub suspects: BTreeSet<UserId>,
    /// Why the rest was left.
    pub stopped: Option<XrayError>,
}

/// How removals went.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Users with no entry any more.
    pub users: Vec<UserId>,
    /// Whether all calls were made: Xray did not go away.
    pub is_over: bool,
}

/// What is to be done for one user or foreign entry.
struct Work {
    user: Option<UserId>,
    remove: Vec<String>,
    add: bool,
}

struct Done {
    work: Work,
    /// `None`: left, because Xray went away.
    result: Option<Result<(), XrayError>>,
}

impl Executor<'_> {
    /// Carries `plan` out. Those of `suspects` come last, each alone. What is to follow the removals is
    /// done while the rest is under way.
    pub async fn carry_out<F: Future>(
        &self,
        plan: Plan,
        suspects: &BTreeSet<UserId>,
        after_removals: impl FnOnce(Removal) -> F,
    ) -> (Applied, F::Output) {
        let mut applied = Applied::default();
        self.progress.begin(self.tag.as_str(), plan.len());
        let removals = plan.removals.into_iter().map(|r| Work {
            user: r.user,
            remove: r.emails,
            add: false,
        });
        self.phase(removals, suspects, &mut applied).await;
        let repairs = plan.repairs.into_iter().map(|r| Work {
            user: Some(r.user),
            remove: r.emails,
            add: true,
        });
        let additions = plan.additions.into_iter().map(|user| Work {
            user: Some(user),
            remove: Vec::new(),
            add: true,
        });
        let removal = Removal {
            users: applied.removed.clone(),
            is_over: applied.stopped.is_none(),
        };
        let mut written = Applied {
            stopped: applied.stopped.clone(),
            ..Applied::default()
        };
        let write = self.phase(repairs.chain(additions), suspects, &mut written);
        let (followed, ()) = join(after_removals(removal), write).await;
        self.progress.end();
        applied.absorb(written);
        applied.added.sort_unstable();
        applied
            .removed
            .retain(|user| applied.added.binary_search(user).is_err());
        applied.removed.sort_unstable();
        (applied, followed)
    }

    async fn phase(
        &self,
        works: impl Iterator<Item = Work>,
        suspects: &BTreeSet<UserId>,
        applied: &mut Applied,
    ) {
        let mut alone = Vec::new();
        let ordinary = works.filter_map(|work| {
            if work.user.is_some_and(|user| suspects.contains(&user)) {
                alone.push(work);
                return None;
            }
            Some(work)
        });
        self.run(ordinary, self.client.in_flight(), applied).await;
        self.run(alone.into_iter(), 1, applied).await;
    }

    async fn run(&self, works: impl Iterator<Item = Work>, at_once: usize, applied: &mut Applied) {
        let stop = AtomicBool::new(applied.stopped.is_some());
        let silent = AtomicUsize::new(0);
        let mut done = stream::iter(works)
            .map(|work| async {
                if stop.load(Ordering::Relaxed) {
                    return Done { work, result: None };
                }
                let result = self.work(&work).await;
                match &result {
                    Err(error) if error.is_down() => stop.store(true, Ordering::Relaxed),
                    Err(XrayError::Timeout(_)) => {
                        if silent.fetch_add(1, Ordering::Relaxed) >= SILENT_CALLS_MAX {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    _ => silent.store(0, Ordering::Relaxed),
                }
                self.progress.step();
                Done {
                    work,
                    result: Some(result),
                }
            })
            .buffer_unordered(at_once);
        while let Some(done) = done.next().await {
            applied.take(done);
        }
    }

    async fn work(&self, work: &Work) -> Result<(), XrayError> {
        let comes = work.user.filter(|_| work.add);
        // Made first: nobody is removed who could not be added again.
        let entry = comes.map(|user| self.entry(user)).transpose()?;
        for email in &work.remove {
            self.remove(email).await?;
        }
        match (comes, entry) {
            (Some(user), Some(entry)) => self.add(user, entry).await,
            _ => Ok(()),
        }
    }

    fn entry(&self, user: UserId) -> Result<User, XrayError> {
        let entry = self.spec.user(user, self.emails.write(user));
        entry.ok_or(XrayError::NoCredential)
    }

    async fn remove(&self, email: &str) -> Result<(), XrayError> {
        match self.client.remove_user(self.tag, email).await {
            // Somebody was faster: it is gone, which is what was wanted.
            Err(XrayError::UserNotFound) => Ok(()),
            Err(XrayError::Timeout(limit)) if self.read_back => {
                match self.client.user(self.tag, email).await? {
                    None => Ok(()),
                    Some(_) => Err(XrayError::Timeout(limit)),
                }
            }
            other => other,
        }
    }

    async fn add(&self, user: UserId, entry: User) -> Result<(), XrayError> {
        match self.client.add_user(self.tag, entry.clone()).await {
            Err(XrayError::AlreadyExists) if self.read_back => {
                self.converge(user, entry).await?;
                Ok(())
            }
            // Nothing to compare it with: it is taken for ours.
            Err(XrayError::AlreadyExists) => Ok(()),
            Err(XrayError::Timeout(limit)) if self.read_back => {
                match self.client.user(self.tag, &entry.email).await? {
                    Some(found) if self.spec.is_as_written(user, &found) => Ok(()),
                    _ => Err(XrayError::Timeout(limit)),
                }
            }
            other => other,
        }
    }

    /// The live set was not as we thought: reads the entry that is in the way, and replaces it
    /// unless it is just what we would write, or must not be touched.
    async fn converge(&self, user: UserId, entry: User) -> Result<(), XrayError> {
        if let Some(found) = self.client.user(self.tag, &entry.email).await? {
            if found.email == entry.email && self.spec.is_as_written(user, &found) {
                return Ok(());
            }
            if self.spec.is_alien(&found) {
                return Err(XrayError::AlreadyExists);
            }
            self.remove(&found.email).await?;
        }
        self.client.add_user(self.tag, entry).await
    }
}

impl Applied {
    fn absorb(&mut self, later: Self) {
        self.removed.extend(later.removed);
        self.added.extend(later.added);
        self.foreign_removed.extend(later.foreign_removed);
        self.failed.extend(later.failed);
        self.uncertain |= later.uncertain;
        self.suspects.extend(later.suspects);
        self.stopped = later.stopped;
    }

    fn take(&mut self, Done { work, result }: Done) {
        let Some(result) = result else {
            return;
        };
        match (result, work.user) {
            (Ok(()), Some(user)) if work.add => self.added.push(user),
            (Ok(()), Some(user)) => self.removed.push(user),
            (Ok(()), None) => self.foreign_removed.extend(work.remove),
            (Err(error), user) => {
                self.uncertain |=
                    error.outcome_unknown() || work.remove.len() + usize::from(work.add) > 1;
                if let (XrayError::Broken(_), Some(user)) = (&error, user) {
                    self.suspects.insert(user);
                }
                if error.is_down() {
                    self.stopped.get_or_insert(error);
                } else if let Some(user) = user {
                    self.failed.push((user, error));
                } else {
                    self.uncertain = true;
                }
            }
        }
    }

    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        !(self.removed.is_empty() && self.added.is_empty() && self.foreign_removed.is_empty())
    }
}
