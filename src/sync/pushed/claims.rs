//! What the pushed sets say of an inbound, made once for each change of theirs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Pushed, Scope, Slot, lock, read, write};
use crate::base::secret::Secret;
use crate::model::credentials::{CredentialForm, Credentials, may_be_derived};
use crate::model::desired::{Claim, Desired, DesiredSource, InboundKey};
use crate::model::ids::UserId;
use crate::model::user_list::Users;

/// Its name as a source.
pub(in crate::sync) const SOURCE: &str = "pushed";

/// What was said of an inbound.
pub(super) struct Cached {
    version: u64,
    form: Option<CredentialForm>,
    claim: Claim,
}

impl DesiredSource for Pushed {
    fn name(&self) -> &'static str {
        SOURCE
    }

    fn desired(&self, inbound: &InboundKey, form: Option<CredentialForm>) -> Claim {
        if let Some(form) = form {
            self.learn(inbound, form);
        }
        // Before the sets are read: what is changed meanwhile is a newer version.
        let version = self.version.load(Ordering::Acquire);
        let known = lock(&self.claims);
        if let Some(known) = known.get(inbound)
            && known.version == version
            && known.form == form
        {
            return known.claim.clone();
        }
        drop(known);
        let claim = self.claim(inbound, form);
        let cached = Cached {
            version,
            form,
            claim: claim.clone(),
        };
        lock(&self.claims).insert(inbound.clone(), cached);
        claim
    }

    /// By a push, or by a quota: nobody but the polled panel can want him still, and it did not when he
    /// was taken away.
    fn let_go(&self, inbound: &InboundKey, user: UserId) -> bool {
        let sets = read(&self.sets);
        let (mut exhausted, mut gone) = (false, None);
        for slot in slots(&sets, inbound) {
            exhausted |= slot.set.owning(user).any(|stored| stored.exhausted);
            gone = slot.set.gone(user).or(gone);
        }
        exhausted || gone.is_some_and(|gone| !gone.polled)
    }
}

impl Pushed {
    fn learn(&self, inbound: &InboundKey, form: CredentialForm) {
        if read(&self.forms).get(inbound) != Some(&form) {
            write(&self.forms).insert(inbound.clone(), form);
        }
    }

    /// What is said of `inbound` now.
    pub(super) fn claim(&self, inbound: &InboundKey, form: Option<CredentialForm>) -> Claim {
        let sets = read(&self.sets);
        let slots: Vec<&Slot> = slots(&sets, inbound).collect();
        let damage = slots.iter().find_map(|slot| slot.damage.clone());
        let Some(form) = form else {
            return Claim::from(unobserved(&slots, damage));
        };
        let mut users = Vec::new();
        let mut table = HashMap::new();
        let all = slots.iter().flat_map(|slot| slot.set.users());
        for stored in all.filter(|stored| !stored.exhausted) {
            let Some(user) = stored.ids.in_form(form) else {
                continue;
            };
            users.push(user);
            if form != CredentialForm::Uuid && may_be_derived(user) {
                table.insert(user, Arc::<Secret>::clone(&stored.password));
            }
        }
        users.sort_unstable();
        users.dedup();
        let users = Users::from(users);
        Claim {
            desired: match damage {
                None => Desired::Known(users),
                Some(why) => Desired::Unknown {
                    last_good: Some(users),
                    why,
                },
            },
            credentials: Credentials::new(table),
        }
    }
}

/// The sets of `inbound`: its own, and that of users for all.
pub(super) fn slots<'a>(
    sets: &'a std::collections::BTreeMap<Scope, Slot>,
    inbound: &InboundKey,
) -> impl Iterator<Item = &'a Slot> + use<'a> {
    let own = sets.get(&Scope::Inbound(inbound.clone()));
    own.into_iter().chain(sets.get(&Scope::Everywhere))
}

/// Of an inbound that was never observed nobody knows by what its users are told.
fn unobserved(slots: &[&Slot], damage: Option<Arc<str>>) -> Desired {
    let is_empty = slots.iter().all(|slot| slot.set.users().len() == 0);
    if is_empty && damage.is_none() {
        return Desired::Known(Users::from([]));
    }
    Desired::Unknown {
        last_good: None,
        why: damage.unwrap_or_else(|| "the inbound's protocol is not known yet".into()),
    }
}
