//! The pushed users: a second source, for surfaces to which a panel pushes. Each inbound's set is a
//! file in the state folder. A file that cannot be read makes the source *unknown* there: nobody is
//! removed for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use tracing::warn;

use super::polled::as_lines;
use super::state::escaped;
use crate::base::files::{
    FileError, PRIVATE_FILE, PRIVATE_FOLDER, create_folder, read_if_there, write_if_changed,
};
use crate::model::desired::{Desired, DesiredSource, InboundKey};
use crate::model::user_list::{self, Users};

/// The pushed source.
#[derive(Debug)]
pub struct Pushed {
    folder: PathBuf,
    sets: RwLock<BTreeMap<InboundKey, Desired>>,
}

impl Pushed {
    /// Reads the sets of `inbounds` from the state folder.
    pub fn open<'a>(
        state_dir: &Path,
        inbounds: impl Iterator<Item = &'a InboundKey>,
    ) -> Result<Self, FileError> {
        let folder = state_dir.join("pushed");
        create_folder(state_dir, PRIVATE_FOLDER)?;
        create_folder(&folder, PRIVATE_FOLDER)?;
        let pushed = Self {
            folder,
            sets: RwLock::default(),
        };
        pushed.add(inbounds);
        Ok(pushed)
    }

    /// Reads those of further `inbounds`; what is known of an inbound stays.
    pub fn add<'a>(&self, inbounds: impl Iterator<Item = &'a InboundKey>) {
        for key in inbounds {
            let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
            let set = || read(&file(&self.folder, key));
            sets.entry(key.clone()).or_insert_with(set);
        }
    }

    /// Replaces the set of one inbound, durably. Blocks on the disk.
    pub fn replace(&self, inbound: &InboundKey, users: Users) -> Result<(), FileError> {
        write_if_changed(
            &file(&self.folder, inbound),
            &as_lines(&users),
            PRIVATE_FILE,
        )?;
        self.sets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(inbound.clone(), Desired::Known(users));
        Ok(())
    }
}

impl DesiredSource for Pushed {
    fn name(&self) -> &'static str {
        "pushed"
    }

    fn desired(&self, inbound: &InboundKey) -> Desired {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        sets.get(inbound)
            .cloned()
            .unwrap_or_else(|| Desired::Known(Users::from([])))
    }
}

/// The set of one inbound, for whoever only looks at the state folder.
pub(super) fn kept(state_dir: &Path, inbound: &InboundKey) -> Desired {
    look(&file(&state_dir.join("pushed"), inbound))
}

fn file(folder: &Path, inbound: &InboundKey) -> PathBuf {
    folder.join(format!(
        "{}@{}",
        escaped(&inbound.xray),
        escaped(&inbound.tag.0)
    ))
}

fn read(path: &Path) -> Desired {
    let set = look(path);
    if let Desired::Unknown { why, .. } = &set {
        warn!(file = %path.display(), "pushed users are unknown, nobody is removed: {why}");
    }
    set
}

/// No file is an empty set; one that holds anything but whole UUIDs is unknown.
fn look(path: &Path) -> Desired {
    let unknown = |last_good, why: String| Desired::Unknown {
        last_good,
        why: why.into(),
    };
    let bytes = match read_if_there(path) {
        Ok(None) => return Desired::Known(Users::from([])),
        Ok(Some(bytes)) => bytes,
        Err(error) => return unknown(None, error.to_string()),
    };
    match user_list::read(String::from_utf8_lossy(&bytes).lines()) {
        Ok(list) if list.malformed == 0 => Desired::Known(list.users),
        Ok(list) => {
            let why = format!("{} of its lines are no UUIDs", list.malformed);
            unknown(Some(list.users), why)
        }
        Err(error) => unknown(None, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{InboundTag, NodeId, UserId};

    fn key() -> InboundKey {
        InboundKey {
            node: NodeId(1),
            xray: "x".into(),
            tag: InboundTag("in".into()),
        }
    }

    #[test]
    fn a_pushed_set_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::from([UserId::from_bytes([7; 16])]);
        let open = || Pushed::open(dir.path(), [&key()].into_iter()).unwrap();
        assert_eq!(open().desired(&key()), Desired::Known(Users::from([])));
        open().replace(&key(), users.clone()).unwrap();
        assert_eq!(open().desired(&key()), Desired::Known(users));
    }

    #[test]
    fn a_damaged_file_is_unknown_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Pushed::open(dir.path(), [&key()].into_iter()).unwrap();
        open()
            .replace(&key(), Users::from([UserId::from_bytes([7; 16])]))
            .unwrap();
        for damage in ["nonsense", "07070707-0707-0707-0707-070707070707\nnonsen"] {
            std::fs::write(dir.path().join("pushed/x@in"), damage).unwrap();
            assert!(
                matches!(open().desired(&key()), Desired::Unknown { .. }),
                "{damage}"
            );
        }
    }
}
