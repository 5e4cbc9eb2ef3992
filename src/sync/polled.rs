//! What the panel's polls say: the last good answer of each node, kept as a file too, so that a
//! start without the panel can repair Xray from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::base::files::{
    FileError, PRIVATE_FILE, PRIVATE_FOLDER, create_folder, write_if_changed,
};
use crate::model::credentials::CredentialForm;
use crate::model::desired::{Claim, Desired, DesiredSource, InboundKey};
use crate::model::ids::{NodeId, UserId};
use crate::model::user_list::{self, Users};

/// The polled source. Unknown for a node until its first good answer, and after a failed poll.
#[derive(Debug)]
pub struct Polled {
    folder: PathBuf,
    nodes: RwLock<BTreeMap<NodeId, Desired>>,
}

impl Polled {
    /// Reads the last good answers of `nodes` from the state folder.
    pub fn open(state_dir: &Path, nodes: impl Iterator<Item = NodeId>) -> Result<Self, FileError> {
        let folder = state_dir.join("nodes");
        create_folder(state_dir, PRIVATE_FOLDER)?;
        create_folder(&folder, PRIVATE_FOLDER)?;
        let polled = Self {
            folder,
            nodes: RwLock::default(),
        };
        polled.add(nodes)?;
        Ok(polled)
    }

    /// Reads those of further `nodes`; what is known of a node stays.
    pub fn add(&self, nodes: impl Iterator<Item = NodeId>) -> Result<(), FileError> {
        for node in nodes {
            if self.get(node).is_some() {
                continue;
            }
            let last_good = read_list(&file(&self.folder, node))?;
            let why: Arc<str> = "not asked yet".into();
            self.put(node, Desired::Unknown { last_good, why });
        }
        Ok(())
    }

    /// A good answer.
    pub fn answered(&self, node: NodeId, users: Users) {
        self.put(node, Desired::Known(users));
    }

    /// No good answer. What the last good one said stays.
    pub fn failed(&self, node: NodeId, why: &str) {
        let last_good = self.last_good(node);
        self.put(
            node,
            Desired::Unknown {
                last_good,
                why: why.into(),
            },
        );
    }

    /// The users of the last good answer.
    pub fn last_good(&self, node: NodeId) -> Option<Users> {
        match self.get(node)? {
            Desired::Known(users) => Some(users),
            Desired::Unknown { last_good, .. } => last_good,
        }
    }

    /// Whether the last good answer for `node` names this user.
    pub fn wants(&self, node: NodeId, user: UserId) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).is_some_and(|said| names(said, user))
    }

    /// Whether one of the last good answers names him.
    pub fn wants_anywhere(&self, user: UserId) -> bool {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.values().any(|said| names(said, user))
    }

    /// Keeps a good answer for a start without the panel. Blocks on the disk.
    pub fn keep(&self, node: NodeId, users: &[UserId]) -> Result<(), FileError> {
        write_if_changed(&file(&self.folder, node), &as_lines(users), PRIVATE_FILE).map(drop)
    }

    fn get(&self, node: NodeId) -> Option<Desired> {
        self.nodes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    fn put(&self, node: NodeId, desired: Desired) {
        self.nodes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, desired);
    }
}

impl DesiredSource for Polled {
    fn name(&self) -> &'static str {
        "panel"
    }

    fn desired(&self, inbound: &InboundKey, _form: Option<CredentialForm>) -> Claim {
        let said = self.get(inbound.node).unwrap_or_else(|| Desired::Unknown {
            last_good: None,
            why: "this node is not polled".into(),
        });
        said.into()
    }
}

fn names(said: &Desired, user: UserId) -> bool {
    let users = match said {
        Desired::Known(users) => Some(users),
        Desired::Unknown { last_good, .. } => last_good.as_ref(),
    };
    users.is_some_and(|users| users.binary_search(&user).is_ok())
}

/// The last good answer for `node`, for whoever only looks at the state folder.
pub(super) fn kept(state_dir: &Path, node: NodeId) -> Result<Option<Users>, FileError> {
    read_list(&file(&state_dir.join("nodes"), node))
}

fn file(folder: &Path, node: NodeId) -> PathBuf {
    folder.join(format!("node-{node}.last-answer"))
}

/// One UUID a line, with a newline at the end; an empty list is an empty file.
pub fn as_lines(users: &[UserId]) -> Vec<u8> {
    let mut text = Vec::with_capacity(users.len() * 37);
    for user in users {
        text.extend_from_slice(user.text().as_bytes());
        text.push(b'\n');
    }
    text
}

/// Reads a file of one UUID a line; `None` where there is no such file, or nothing but nonsense in
/// it.
pub fn read_list(path: &Path) -> Result<Option<Users>, FileError> {
    let Some(bytes) = crate::base::files::read_if_there(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes);
    Ok(user_list::read(text.lines()).ok().map(|list| list.users))
}
