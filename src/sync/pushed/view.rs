//! The pushed users as they are shown.

use super::quota::Room;
use super::record::Stored;
use super::set::Set;
use super::{Pushed, Scope, read};
use crate::model::ids::UserId;
use crate::model::pushed::{PushedId, PushedUser};

/// A pushed user as he is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedView {
    /// To whom he was pushed.
    pub scope: Scope,
    /// As he was pushed.
    pub user: PushedUser,
    /// His quota as it is in force now.
    pub room: Room,
    /// Nothing is left, and he is taken off.
    pub exhausted: bool,
    /// His ids towards Xray, which are those of his e-mails and of the ledger.
    pub identities: Vec<UserId>,
}

impl Pushed {
    /// The users of one set, or of all of them.
    pub fn list(&self, scope: Option<&Scope>) -> Vec<PushedView> {
        self.views(scope, |set| Box::new(set.users()))
    }

    /// The user of this id, once for each set that has him.
    pub fn get(&self, id: &PushedId) -> Vec<PushedView> {
        self.views(None, |set| Box::new(set.get(&id.0).into_iter()))
    }

    fn views(
        &self,
        scope: Option<&Scope>,
        of: impl for<'a> Fn(&'a Set) -> Box<dyn Iterator<Item = &'a Stored> + 'a>,
    ) -> Vec<PushedView> {
        let sets = read(&self.sets);
        let meant = sets
            .iter()
            .filter(|(of, _)| scope.is_none_or(|scope| scope == *of));
        let views = meant.flat_map(|(scope, slot)| {
            of(&slot.set).map(|stored| PushedView {
                scope: scope.clone(),
                user: stored.user(),
                room: self.room(stored),
                exhausted: stored.exhausted,
                identities: stored.ids.all().collect(),
            })
        });
        views.collect()
    }
}
