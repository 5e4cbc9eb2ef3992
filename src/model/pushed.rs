//! Users whom a panel pushes, as `kernel.md` has them: what it knows of each, and by which numbers it
//! wants to hear of his bytes. Plain data, and the traits by which users' part and traffic's meet.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer};

use super::desired::InboundKey;
use super::ids::UserId;
use crate::base::secret::Secret;

/// A pushed user's id: the panel's own, any text that is not empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PushedId(pub Box<str>);

impl fmt::Display for PushedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user as a panel pushes him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedUser {
    /// The panel's id of him.
    pub id: PushedId,
    /// His name; the real panel sends the UUID here.
    pub username: String,
    /// His password. Never shown.
    pub password: Secret,
    /// His quota.
    pub quota: Quota,
    /// His limits of speed, kept for the panel: Xray has none for a user.
    pub rate: Rate,
    /// Further facts by name: texts, numbers and booleans.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Words that the panel sorts him by.
    pub tags: Vec<String>,
}

/// Bytes that a user may have, and those that he had when he was pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in all; 0: as many as he likes.
    pub allocated: u64,
    /// Bytes that the panel knew of when it pushed him.
    pub used: u64,
}

/// Limits of speed in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// From the user.
    pub up: Option<u64>,
    /// To the user.
    pub down: Option<u64>,
}

/// What becomes of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is this, or none.
    Set(Option<u64>),
}

impl Change {
    /// What it is then.
    pub fn on(self, before: Option<u64>) -> Option<u64> {
        match self {
            Self::Keep => before,
            Self::Set(limit) => limit,
        }
    }
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Option::deserialize(source).map(Self::Set)
    }
}

/// What is changed of a pushed user; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushedPatch {
    /// His password.
    pub password: Option<Secret>,
    /// Bytes that he may have in all.
    pub allocated: Option<u64>,
    /// Bytes that the panel knows of now.
    pub used: Option<u64>,
    /// His limit of speed.
    pub up: Change,
    /// The limit of what he is sent.
    pub down: Change,
    /// Facts by name, each by itself; null takes one away.
    pub metadata: Option<BTreeMap<String, serde_json::Value>>,
    /// All his words.
    pub tags: Option<Vec<String>>,
}

impl PushedPatch {
    /// The user as he is with this changed.
    #[must_use]
    pub fn applied_to(self, mut user: PushedUser) -> PushedUser {
        user.password = self.password.unwrap_or(user.password);
        user.quota.allocated = self.allocated.unwrap_or(user.quota.allocated);
        user.quota.used = self.used.unwrap_or(user.quota.used);
        user.rate.up = self.up.on(user.rate.up);
        user.rate.down = self.down.on(user.rate.down);
        user.tags = self.tags.unwrap_or(user.tags);
        user.metadata.extend(self.metadata.unwrap_or_default());
        user.metadata.retain(|_, value| !value.is_null());
        user
    }
}

/// The numbers by which the pushing panel knows a user in records of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its user.
    pub user_id: u64,
    /// His subscription, where it named one.
    pub subscription_id: Option<u64>,
}

/// For which panels a user's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// For the one that is polled.
    pub polled: bool,
    /// For the one that pushes.
    pub pushed: bool,
}

impl Wants {
    /// Where nothing is pushed.
    pub const POLLED: Self = Self {
        polled: true,
        pushed: false,
    };
}

/// Tells whose a user is. Answers from memory: it is asked for each user at each read of counters.
pub trait Owners: Send + Sync {
    /// Which panels want, or last wanted, this user in this inbound.
    fn wants(&self, inbound: &InboundKey, user: UserId) -> Wants;

    /// By which numbers the pushing panel knows him, also some time after it took him away; `None`:
    /// it does not, or its id of him is no number.
    fn owner(&self, user: UserId) -> Option<Owner>;
}

/// Where nobody pushes: all bytes are for the panel that is polled.
#[derive(Clone, Copy, Debug)]
pub struct NobodyPushes;

impl Owners for NobodyPushes {
    fn wants(&self, _inbound: &InboundKey, _user: UserId) -> Wants {
        Wants::POLLED
    }

    fn owner(&self, _user: UserId) -> Option<Owner> {
        None
    }
}

/// Hears what the ledger counted for pushed users: by that quotas run out. Must not block. At the start
/// it is told all sums there are, the settled ones first, also where there are none.
pub trait PushedBytes: Send + Sync {
    /// Bytes in both directions since the ledger began that were counted for the pushing panel, of
    /// these users; each sum takes the place of the one told before.
    fn counted(&self, sums: &[(UserId, u64)]);

    /// The same of bytes that the pushing panel has taken.
    fn settled(&self, sums: &[(UserId, u64)]);
}
