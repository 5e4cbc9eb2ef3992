//! Whose a user is: wanted by the polled panel, by the pushing one, or by which of them last.

use super::claims::slots;
use super::{Pushed, Scope, read};
use crate::model::desired::InboundKey;
use crate::model::ids::UserId;
use crate::model::pushed::{Owner, Owners, Wants};

impl Owners for Pushed {
    fn wants(&self, inbound: &InboundKey, user: UserId) -> Wants {
        if read(&self.polled).is_none() {
            return Wants {
                polled: false,
                pushed: true,
            };
        }
        let scope = Scope::Inbound(inbound.clone());
        let polled = self.is_polled(&scope, user);
        let sets = read(&self.sets);
        let mut gone = None;
        for slot in slots(&sets, inbound) {
            if slot.set.owning(user).any(|stored| stored.ids.has(user)) {
                return Wants {
                    polled,
                    pushed: true,
                };
            }
            gone = slot.set.gone(user).or(gone);
        }
        if !polled && gone.is_some_and(|gone| !gone.polled) {
            return Wants {
                polled: false,
                pushed: true,
            };
        }
        Wants::POLLED
    }

    fn owner(&self, user: UserId) -> Option<Owner> {
        let sets = read(&self.sets);
        let now = sets.values().flat_map(|slot| slot.set.owning(user));
        let now = now.filter_map(|stored| stored.owner);
        let gone = sets.values().filter_map(|slot| slot.set.gone(user)?.owner);
        now.chain(gone).next()
    }
}
