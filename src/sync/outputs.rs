//! The files for other programs: `OUTPUT_DIR/node-<id>/…` (`panel-internal.md`). Written whole or not
//! at all, and not touched while the list stays the same.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::polled::{as_lines, read_list};
use crate::base::files::{
    FileError, create_folder, read_if_there, write_atomically, write_if_changed,
};
use crate::config::Output;
use crate::model::ids::{NodeId, UserId};
use crate::model::user_list::Users;

/// Mode of the folders; the files in them are live credentials.
const FOLDER_MODE: u32 = 0o750;

/// The files of one node.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    node: NodeId,
    folder: PathBuf,
    mode: u32,
}

#[derive(Serialize)]
struct AllowedJson<'a> {
    node_id: NodeId,
    generated: Timestamp,
    uuids: &'a [UserId],
    uuids_count: usize,
}

#[derive(Serialize)]
struct AppliedJson<'a> {
    node_id: NodeId,
    updated_at: Timestamp,
    uuids: &'a [UserId],
}

/// The part of either JSON file that is read back.
#[derive(Deserialize)]
struct Uuids {
    uuids: Vec<UserId>,
}

impl NodeFiles {
    /// Those of `node`; nothing is touched yet.
    pub fn new(output: &Output, node: NodeId) -> Self {
        let folder = output.dir.join(format!("node-{node}"));
        Self {
            node,
            folder,
            mode: output.mode,
        }
    }

    /// `allowed-uuids.txt`: one UUID a line.
    pub fn text_file(&self) -> PathBuf {
        self.folder.join("allowed-uuids.txt")
    }

    /// `allowed-uuids.json`.
    pub fn json_file(&self) -> PathBuf {
        self.folder.join("allowed-uuids.json")
    }

    fn applied_file(&self) -> PathBuf {
        self.folder.join("applied.json")
    }

    /// Writes both lists of the allowed users, unless they are there already. `generated` moves only
    /// when the list does. Tells whether it did. Blocks on the disk.
    pub fn write_allowed(&self, users: &[UserId], now: Timestamp) -> Result<bool, FileError> {
        create_folder(&self.folder, FOLDER_MODE)?;
        write_if_changed(&self.text_file(), &as_lines(users), self.mode)?;
        if uuids_of(&self.json_file())?.is_some_and(|old| old == users) {
            return Ok(false);
        }
        let json = AllowedJson {
            node_id: self.node,
            generated: now,
            uuids: users,
            uuids_count: users.len(),
        };
        write_atomically(&self.json_file(), &to_json(&json), self.mode)?;
        Ok(true)
    }

    /// Writes `applied.json`, unless it says the same already. Blocks on the disk.
    pub fn write_applied(&self, users: &[UserId], now: Timestamp) -> Result<(), FileError> {
        create_folder(&self.folder, FOLDER_MODE)?;
        if uuids_of(&self.applied_file())?.is_some_and(|old| old == users) {
            return Ok(());
        }
        let json = AppliedJson {
            node_id: self.node,
            updated_at: now,
            uuids: users,
        };
        write_atomically(&self.applied_file(), &to_json(&json), self.mode)
    }

    /// Who is listed as allowed, if the file is there and makes sense. Blocks on the disk.
    pub fn allowed(&self) -> Result<Option<Users>, FileError> {
        read_list(&self.text_file())
    }

    /// Who was last applied with success. Blocks on the disk.
    pub fn applied(&self) -> Result<Option<Users>, FileError> {
        Ok(uuids_of(&self.applied_file())?.map(Into::into))
    }

    /// Whether the lists are still there: somebody may have removed them.
    pub fn are_there(&self) -> bool {
        self.text_file().is_file() && self.json_file().is_file()
    }
}

/// A file that makes no sense counts as not there: it is written anew.
fn uuids_of(path: &std::path::Path) -> Result<Option<Vec<UserId>>, FileError> {
    let bytes = read_if_there(path)?;
    let mut uuids = bytes
        .and_then(|b| serde_json::from_slice::<Uuids>(&b).ok())
        .map(|f| f.uuids);
    if let Some(users) = &mut uuids {
        users.sort_unstable();
    }
    Ok(uuids)
}

fn to_json<T: Serialize>(content: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(content).expect("invariant: plain data has a JSON form");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn files_are_as_the_contract_says_and_stay_while_the_list_does() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output {
            dir: dir.path().join("out"),
            mode: 0o640,
        };
        let files = NodeFiles::new(&output, NodeId(7));
        let users = [UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16])];
        files.write_allowed(&users, at(1)).unwrap();
        let text = std::fs::read_to_string(files.text_file()).unwrap();
        assert_eq!(text, format!("{}\n{}\n", users[0].text(), users[1].text()));
        let json = std::fs::read(files.json_file()).unwrap();
        let parsed: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(parsed["node_id"], 7);
        assert_eq!(parsed["uuids_count"], 2);
        assert_eq!(parsed["generated"], "1970-01-01T00:00:01Z");
        assert_eq!(parsed["uuids"][1], users[1].text());
        let mode = std::fs::metadata(files.text_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);

        files.write_allowed(&users, at(2)).unwrap();
        assert_eq!(std::fs::read(files.json_file()).unwrap(), json);
        files.write_allowed(&[], at(3)).unwrap();
        assert_eq!(std::fs::read(files.text_file()).unwrap(), b"");
        assert_eq!(files.allowed().unwrap().unwrap().len(), 0);
    }

    #[test]
    fn a_damaged_applied_file_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output {
            dir: dir.path().to_owned(),
            mode: 0o640,
        };
        let files = NodeFiles::new(&output, NodeId(1));
        assert_eq!(files.applied().unwrap(), None);
        files
            .write_applied(&[UserId::from_bytes([1; 16])], at(1))
            .unwrap();
        assert_eq!(files.applied().unwrap().unwrap().len(), 1);
        std::fs::write(dir.path().join("node-1/applied.json"), "{\"uuids\":[").unwrap();
        assert_eq!(files.applied().unwrap(), None);
    }
}
