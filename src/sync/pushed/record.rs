//! A pushed user as he is kept, in memory and in the journal: small, for there may be many. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::identity::{Identities, uuid_of};
use super::quota::{QuotaChanged, Untold};
use crate::base::secret::Secret;
use crate::model::credentials::DerivingKey;
use crate::model::ids::UserId;
use crate::model::pushed::{Owner, PushedId, PushedUser, Quota, Rate};

/// Ids that a user had before which are counted to his quota; of more, the oldest are not.
const FORMER_MAX: usize = 16;

/// A user of a set.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) id: Arc<str>,
    pub(super) username: Box<str>,
    pub(super) password: Arc<Secret>,
    pub(super) quota: Quota,
    pub(super) rate: Rate,
    /// Metadata and tags as JSON, unless there are none.
    facts: Option<Box<RawValue>>,
    /// His numbers at the pushing panel.
    pub(super) owner: Option<Owner>,
    pub(super) ids: Identities,
    /// Bytes of his that the pushing panel had taken when his quota was pushed.
    pub(super) base: u64,
    /// Ids that he had since then.
    pub(super) former: Box<[UserId]>,
    /// He has used up what he may have.
    pub(super) exhausted: bool,
    /// What is still to be told of his quota.
    pub(super) untold: Option<Box<Untold>>,
}

/// As a line of the journal has him, password and all: it is never printed.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    id: Box<str>,
    #[serde(rename = "name")]
    username: Box<str>,
    password: Box<str>,
    #[serde(default, skip_serializing_if = "is_default")]
    allocated: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    used: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    up: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "is_default")]
    base: u64,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    former: Box<[UserId]>,
    #[serde(default, skip_serializing_if = "is_default")]
    exhausted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    untold: Option<Box<Untold>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Facts {
    metadata: BTreeMap<String, serde_json::Value>,
    tags: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Stored {
    /// As he was pushed, with nothing behind him.
    pub(super) fn new(user: &PushedUser, key: &DerivingKey) -> Self {
        let facts = Facts {
            metadata: user.metadata.clone(),
            tags: user.tags.clone(),
        };
        let is_empty = facts.metadata.is_empty() && facts.tags.is_empty();
        let facts = (!is_empty).then(|| serde_json::value::to_raw_value(&facts));
        Self {
            id: Arc::from(&*user.id.0),
            username: user.username.as_str().into(),
            password: Arc::new(user.password.clone()),
            quota: user.quota,
            rate: user.rate,
            facts: facts.map(|facts| facts.expect("invariant: plain data has a JSON form")),
            owner: owner_of(user),
            ids: Identities::new(uuid_of(user), user.password.expose(), key),
            base: 0,
            former: Box::default(),
            exhausted: false,
            untold: None,
        }
    }

    /// As the panel pushed him.
    pub(super) fn user(&self) -> PushedUser {
        let facts = self.facts.as_ref();
        let facts = facts.and_then(|facts| serde_json::from_str(facts.get()).ok());
        let Facts { metadata, tags } = facts.unwrap_or_default();
        PushedUser {
            id: PushedId(Box::from(&*self.id)),
            username: self.username.clone().into(),
            password: Secret::clone(&self.password),
            quota: self.quota,
            rate: self.rate,
            metadata,
            tags,
        }
    }

    /// The ids that count to his quota: those of now, and those since it was pushed.
    pub(super) fn all_ids(&self) -> impl Iterator<Item = UserId> + '_ {
        let former = self.former.iter().copied();
        self.ids
            .all()
            .chain(former.filter(|user| !self.ids.has(*user)))
    }

    /// The same user after `before`, with the ids that he had.
    pub(super) fn after(mut self, before: &Self) -> Self {
        let had = before.all_ids().filter(|user| !self.ids.has(*user));
        let mut former: Vec<UserId> = had.collect();
        former.truncate(FORMER_MAX);
        self.former = former.into();
        self.exhausted = before.exhausted;
        self.untold.clone_from(&before.untold);
        self
    }

    /// Has this told of his quota, too.
    pub(super) fn has_to_tell(&mut self, news: Option<Untold>) {
        let before = self.untold.as_deref().copied();
        self.untold = Untold::merged(before, news).map(Box::new);
    }

    /// What is still to be told of his quota.
    pub(super) fn news(&self) -> Option<QuotaChanged> {
        let Untold { previous, current } = *self.untold.as_deref()?;
        Some(QuotaChanged {
            id: PushedId(Box::from(&*self.id)),
            user_id: self.owner.map(|owner| owner.user_id),
            subscription_id: self.owner.and_then(|owner| owner.subscription_id),
            previous,
            current,
            exhausted: current.is_exhausted(),
        })
    }

    pub(super) fn to_record(&self) -> Record {
        Record {
            id: Box::from(&*self.id),
            username: self.username.clone(),
            password: self.password.expose().into(),
            allocated: self.quota.allocated,
            used: self.quota.used,
            up: self.rate.up,
            down: self.rate.down,
            facts: self.facts.clone(),
            base: self.base,
            former: self.former.clone(),
            exhausted: self.exhausted,
            untold: self.untold.clone(),
        }
    }

    /// As he was kept.
    pub(super) fn from_record(record: Record, key: &DerivingKey) -> Self {
        let kept = Self {
            id: Arc::from(record.id),
            username: record.username,
            password: Arc::new(Secret::new(record.password)),
            quota: Quota {
                allocated: record.allocated,
                used: record.used,
            },
            rate: Rate {
                up: record.up,
                down: record.down,
            },
            facts: record.facts,
            owner: None,
            ids: Identities::default(),
            base: record.base,
            former: record.former,
            exhausted: record.exhausted,
            untold: record.untold,
        };
        let user = kept.user();
        Self {
            owner: owner_of(&user),
            ids: Identities::new(uuid_of(&user), user.password.expose(), key),
            ..kept
        }
    }
}

/// A panel that knows its users by other ids than numbers hears nothing of their traffic.
fn owner_of(user: &PushedUser) -> Option<Owner> {
    let number = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    Some(Owner {
        user_id: user.id.0.parse().ok()?,
        subscription_id: user.metadata.get("subscription_id").and_then(number),
    })
}
