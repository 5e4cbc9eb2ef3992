//! Counters as they were last counted, for one boot of one Xray: 40 bytes for each usual one. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::forms::{Forms, UsualName};
use crate::model::ids::{NodeId, UserId};
use crate::xray::counters::Direction;

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From the user.
    pub up: u64,
    /// To the user.
    pub down: u64,
}

impl Bytes {
    /// Whether there are none.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Both ways together.
    pub fn total(self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// Adds what another amount holds.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            up: self.up.saturating_add(other.up),
            down: self.down.saturating_add(other.down),
        }
    }

    pub(super) fn of(self, direction: Direction) -> u64 {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        }
    }

    pub(super) fn of_mut(&mut self, direction: Direction) -> &mut u64 {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// A counter of ours whose name is not as we write it, or no longer: it is kept by its whole name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd {
    /// The node that it counts for.
    pub node: NodeId,
    /// Whose it is.
    pub user: UserId,
    /// As last counted.
    pub bytes: Bytes,
}

/// The counters of one boot as last counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baselines {
    pub(super) usual: HashMap<UsualName, Bytes>,
    pub(super) odd: HashMap<Box<str>, Odd>,
}

/// Which counter a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Named as we write it.
    Usual(UsualName),
    /// Otherwise named.
    Odd(Box<str>),
}

/// A counter whose baseline moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which counter.
    pub name: Name,
    /// The node that it counts for.
    pub node: NodeId,
    /// Whose it is.
    pub user: UserId,
    /// Its new baseline.
    pub bytes: Bytes,
}

impl Baselines {
    /// Takes a row that was kept under its e-mail. `node` holds where the e-mail is none of the
    /// present forms, which it was when it was counted.
    pub fn restore(&mut self, forms: &Forms, email: &str, node: NodeId, bytes: Bytes) {
        let owner = forms.read(email);
        if let Some(name) = owner.and_then(|owner| owner.usual) {
            self.usual.insert(name, bytes);
            return;
        }
        let user = email.rsplit_once('.').map_or(email, |(_, uuid)| uuid);
        let Some(user) = UserId::parse(user) else {
            return;
        };
        let node = owner.map_or(node, |owner| owner.node);
        self.odd.insert(email.into(), Odd { node, user, bytes });
    }

    /// Takes in what was counted.
    pub fn absorb(&mut self, moved: &[Moved]) {
        for moved in moved {
            let Moved {
                node, user, bytes, ..
            } = *moved;
            match &moved.name {
                Name::Usual(name) => drop(self.usual.insert(*name, bytes)),
                Name::Odd(name) => drop(self.odd.insert(name.clone(), Odd { node, user, bytes })),
            }
        }
    }

    /// How many counters.
    pub fn len(&self) -> usize {
        self.usual.len() + self.odd.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Name {
    /// The e-mail that it is kept under.
    pub fn email(&self, forms: &Forms) -> String {
        match self {
            Self::Usual(name) => forms.write(*name),
            Self::Odd(name) => name.to_string(),
        }
    }
}
