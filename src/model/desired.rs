//! Who may use an inbound, by each source that says so. A source that cannot be read is *unknown*,
//! never empty.

use std::sync::Arc;

use super::credentials::{CredentialForm, Credentials};
use super::ids::{InboundTag, NodeId, UserId};
use super::user_list::Users;

/// One managed inbound: of which node, in which Xray, under which tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundKey {
    /// The panel's node that it serves.
    pub node: NodeId,
    /// The configured name of the Xray that it is in.
    pub xray: String,
    /// Xray's tag of it.
    pub tag: InboundTag,
}

impl InboundKey {
    /// The inbound `tag` of `xray`, serving `node`.
    pub fn of(node: NodeId, xray: &str, tag: &str) -> Self {
        Self {
            node,
            xray: xray.to_owned(),
            tag: InboundTag(tag.to_owned()),
        }
    }
}

impl std::fmt::Display for InboundKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (node {}, xray {})", self.tag, self.node, self.xray)
    }
}

/// What one source says of one inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// These users and no others.
    Known(Users),
    /// It cannot be read now. Those of its last good answer are still added, and nobody is removed.
    Unknown {
        /// The users of the last good answer, if there was one.
        last_good: Option<Users>,
        /// Why it cannot be read, for people.
        why: Arc<str>,
    },
}

/// What a source says, with what users are let in by whose ids are derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who may use the inbound.
    pub desired: Desired,
    /// For all of these whose ids are derived.
    pub credentials: Credentials,
}

impl Claim {
    /// The users that it names, be it by its last good answer.
    pub fn users(&self) -> Option<&Users> {
        match &self.desired {
            Desired::Known(users) => Some(users),
            Desired::Unknown { last_good, .. } => last_good.as_ref(),
        }
    }
}

impl From<Desired> for Claim {
    fn from(desired: Desired) -> Self {
        Self {
            desired,
            credentials: Credentials::default(),
        }
    }
}

/// A source of desired users: the polled panel, the pushed sets, or a file.
pub trait DesiredSource: Send + Sync {
    /// Its name in status and log.
    fn name(&self) -> &'static str;

    /// What it says of `inbound` now, whose users show credentials of this form (`None`: Xray has not
    /// told yet). Must not block: what has to be read was read before.
    fn desired(&self, inbound: &InboundKey, form: Option<CredentialForm>) -> Claim;

    /// Whether it took this user away by a word of its own that needs no second one, so that his
    /// removal is not held up.
    fn let_go(&self, _inbound: &InboundKey, _user: UserId) -> bool {
        false
    }
}

/// A source that says the same for every inbound, such as a file given on the command line.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub desired: Desired,
}

impl DesiredSource for Fixed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn desired(&self, _inbound: &InboundKey, _form: Option<CredentialForm>) -> Claim {
        self.desired.clone().into()
    }
}
