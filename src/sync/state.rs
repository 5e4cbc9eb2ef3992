//! What is kept of one inbound from one run to the next, in a folder of its own under the state
//! folder: its e-mail form, the counts of absence, and what was last applied. A file that makes no
//! sense is set aside and told; losing it removes nobody.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::brake::Absences;
use crate::base::clock::Clock;
use crate::base::files::{
    FileError, PRIVATE_FILE, PRIVATE_FOLDER, create_folder, read_if_there, set_aside,
    write_if_changed,
};
use crate::model::credentials::CredentialForm;
use crate::model::desired::InboundKey;
use crate::model::email::Emails;
use crate::model::ids::UserId;
use crate::xray::boot::Boot;

/// Kept in `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundState {
    /// `None` until the inbound is managed for the first time.
    pub emails: Option<Emails>,
    /// Counts of absence of those whose removal is held.
    #[serde(default)]
    pub absences: Absences,
    /// How many users were wanted when last all of them were applied.
    #[serde(default)]
    pub applied_count: usize,
    /// E-mails of users who are being removed and are connected: their sessions are to be cut, also by
    /// the next process.
    #[serde(default)]
    pub cutting: Vec<String>,
    /// What its users show to be let in, as last observed.
    #[serde(default)]
    pub form: Option<CredentialForm>,
}

impl InboundState {
    /// The e-mails of the inbound under the kernel id of now; where none were chosen yet, the form
    /// that an inbound gets which is the only managed one of its Xray (`alone`), or not.
    pub fn emails_of(&self, kernel_id: &str, alone: bool) -> Emails {
        match &self.emails {
            Some(emails) => emails.clone().renamed(kernel_id),
            None => Emails::first(kernel_id, alone),
        }
    }
}

/// Kept in `applied.json`, for cores whose users cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedUsers {
    /// The run of Xray to which they were applied.
    pub boot: Option<Boot>,
    /// Ascending.
    pub uuids: Vec<UserId>,
    /// Who may be live there or not: calls whose outcome nobody knows, and what another run had.
    #[serde(default)]
    pub unsure: BTreeSet<UserId>,
}

/// The folder of one inbound.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Names what is set aside; `None`: nothing is.
    clock: Option<Clock>,
}

impl StateFolder {
    /// The folder of `key` under `state_dir`, created if need be.
    pub fn open(state_dir: &Path, key: &InboundKey, clock: Clock) -> Result<Self, FileError> {
        create_folder(state_dir, PRIVATE_FOLDER)?;
        create_folder(&state_dir.join("inbounds"), PRIVATE_FOLDER)?;
        let path = Self::path(state_dir, key);
        create_folder(&path, PRIVATE_FOLDER)?;
        let clock = Some(clock);
        Ok(Self { path, clock })
    }

    /// The folder of `key` for whoever only looks: it is not created, and a file in it that makes no
    /// sense counts as not there and stays.
    pub fn to_look_at(state_dir: &Path, key: &InboundKey) -> Self {
        let path = Self::path(state_dir, key);
        Self { path, clock: None }
    }

    /// Where the folder of `key` is.
    pub fn path(state_dir: &Path, key: &InboundKey) -> PathBuf {
        let name = format!("{}@{}", escaped(&key.xray), escaped(&key.tag.0));
        state_dir.join("inbounds").join(name)
    }

    /// The file whose lock is held by whoever changes this inbound's users.
    pub fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Reads `state.json`.
    pub fn state(&self) -> Result<InboundState, FileError> {
        Ok(self.read("state.json")?.unwrap_or_default())
    }

    /// Writes `state.json` if it changes.
    pub fn save_state(&self, state: &InboundState) -> Result<(), FileError> {
        self.write("state.json", state)
    }

    /// Reads `applied.json`.
    pub fn applied(&self) -> Result<Option<AppliedUsers>, FileError> {
        self.read("applied.json")
    }

    /// Writes `applied.json` if it changes.
    pub fn save_applied(&self, applied: &AppliedUsers) -> Result<(), FileError> {
        self.write("applied.json", applied)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, FileError> {
        let path = self.path.join(name);
        match self.clock {
            Some(clock) => read_json(&path, clock),
            None => look_at_json(&path),
        }
    }

    fn write<T: Serialize>(&self, name: &str, content: &T) -> Result<(), FileError> {
        write_json(&self.path.join(name), content)
    }
}

/// Reads a JSON file of ours; one that makes no sense is set aside and counts as not there.
pub fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    clock: Clock,
) -> Result<Option<T>, FileError> {
    let Some(bytes) = read_if_there(path)? else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(content) => Ok(Some(content)),
        Err(error) => {
            let aside = set_aside(path, clock.now().as_second())?;
            warn!(file = %path.display(), kept_as = %aside.display(), %error,
                "a state file makes no sense; it was set aside and starts anew");
            Ok(None)
        }
    }
}

/// Reads a JSON file of ours; one that makes no sense counts as not there, and stays.
pub(super) fn look_at_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
) -> Result<Option<T>, FileError> {
    let bytes = read_if_there(path)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes a JSON file of ours if its content changes.
pub fn write_json<T: Serialize>(path: &Path, content: &T) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(content).expect("invariant: plain data has a JSON form");
    write_if_changed(path, &bytes, PRIVATE_FILE).map(drop)
}

/// A name as part of a file name: other than `[A-Za-z0-9_-]` as `%XX`.
pub fn escaped(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{InboundTag, NodeId};

    fn folder(dir: &Path) -> StateFolder {
        let key = InboundKey {
            node: NodeId(1),
            xray: "x".into(),
            tag: InboundTag("in/../a".into()),
        };
        StateFolder::open(dir, &key, Clock::system()).unwrap()
    }

    #[test]
    fn state_is_kept_in_a_folder_whose_name_cannot_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let state = InboundState {
            emails: Some(Emails::first("in", true)),
            ..InboundState::default()
        };
        folder(dir.path()).save_state(&state).unwrap();
        assert_eq!(folder(dir.path()).state().unwrap(), state);
        assert!(
            dir.path()
                .join("inbounds/x@in%2F%2E%2E%2Fa/state.json")
                .is_file()
        );
    }

    #[test]
    fn who_only_looks_creates_nothing_and_leaves_nonsense_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let key = folder(&dir.path().join("other")).path;
        let key_of = InboundKey {
            node: NodeId(1),
            xray: "x".into(),
            tag: InboundTag("in/../a".into()),
        };
        let state_dir = dir.path().join("state");
        let looked = StateFolder::to_look_at(&state_dir, &key_of);
        assert_eq!(looked.state().unwrap(), InboundState::default());
        assert!(!state_dir.exists());
        std::fs::write(key.join("state.json"), b"{\"emails\":").unwrap();
        let looked = StateFolder::to_look_at(&dir.path().join("other"), &key_of);
        assert_eq!(looked.state().unwrap(), InboundState::default());
        assert_eq!(std::fs::read_dir(&key).unwrap().count(), 1);
    }

    #[test]
    fn nonsense_is_set_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        std::fs::write(folder.path.join("state.json"), b"{\"emails\":").unwrap();
        assert_eq!(folder.state().unwrap(), InboundState::default());
        let kept = std::fs::read_dir(&folder.path)
            .unwrap()
            .flatten()
            .any(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("state.json.corrupt-")
            });
        assert!(kept);
    }
}
