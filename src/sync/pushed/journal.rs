//! The file of one set: lines of a CRC-32 and JSON. First how many lines make the snapshot, then the
//! snapshot, one change a line, then what was changed since, one mutation a line. A last line that a
//! crash tore is dropped: nobody was told that it is there. Any other damage is told, and what can be
//! read all the same is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::set::{Change, Set};
use crate::base::failpoint;
use crate::base::files::{FileError, PRIVATE_FILE, read_if_there, write_atomically};
use crate::model::credentials::DerivingKey;

/// Of this form; a file of another one is unknown.
const VERSION: u32 = 1;
/// Changes beyond twice what lives that are let stand: a small set is not written anew all the time.
const SPARE_CHANGES: usize = 256;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Lines of the snapshot.
    snapshot: usize,
}

/// The file of one set.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Bytes of it that make sense; what lies beyond was torn.
    bytes: u64,
    /// Changes in it.
    changes: usize,
}

/// What was read of a file.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) set: Set,
    /// Why the set is not known, if it is not.
    pub(super) damage: Option<String>,
    bytes: u64,
    changes: usize,
}

impl Journal {
    /// Reads the set of a file; of one that is not there, an empty one.
    pub(super) fn open(path: PathBuf, key: &DerivingKey) -> (Self, Loaded) {
        let loaded = match read_if_there(&path) {
            Ok(bytes) => bytes.map_or_else(Loaded::default, |bytes| load(&bytes, key)),
            Err(error) => Loaded {
                damage: Some(error.to_string()),
                ..Loaded::default()
            },
        };
        let journal = Self {
            path,
            bytes: loaded.bytes,
            changes: loaded.changes,
        };
        (journal, loaded)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file to append to.
    pub(super) fn is_there(&self) -> bool {
        self.bytes > 0
    }

    /// Whether it holds more than twice what lives.
    pub(super) fn is_long(&self, set: &Set) -> bool {
        self.changes > 2 * set.len() + SPARE_CHANGES
    }

    /// Adds a mutation, durably and wholly or not at all.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<(), FileError> {
        let mut line = Vec::new();
        push_line(&mut line, &changes);
        failpoint::reach("pushed.append.before");
        match self.write(&line) {
            Ok(()) => {
                failpoint::reach("pushed.append.after");
                self.bytes += line.len() as u64;
                self.changes += changes.len();
                Ok(())
            }
            Err(error) => {
                // What is left of it is cut off by the next one, or dropped by the next reader.
                let file = OpenOptions::new().write(true).open(&self.path);
                let _ = file.and_then(|file| file.set_len(self.bytes));
                Err(FileError::new("cannot write", &self.path, error))
            }
        }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).mode(PRIVATE_FILE).open(&self.path)?;
        cut(&file, self.bytes)?;
        file.write_all(line)?;
        file.sync_data()
    }

    /// Writes the whole file anew.
    pub(super) fn rewrite(&mut self, image: &Image) -> Result<(), FileError> {
        failpoint::reach("pushed.rewrite.before");
        write_atomically(&self.path, &image.text, PRIVATE_FILE)?;
        failpoint::reach("pushed.rewrite.after");
        self.bytes = image.text.len() as u64;
        self.changes = image.changes;
        Ok(())
    }
}

/// A whole set as a file.
pub(super) struct Image {
    text: Vec<u8>,
    changes: usize,
}

impl Image {
    /// That of `set`.
    pub(super) fn of(set: &Set) -> Self {
        let head = Head {
            version: VERSION,
            snapshot: set.len(),
        };
        let mut text = Vec::new();
        push_line(&mut text, &head);
        for change in set.changes() {
            push_line(&mut text, &[change]);
        }
        Self {
            text,
            changes: set.len(),
        }
    }
}

/// Cuts off what an earlier mutation that failed, or a crash, has left.
fn cut(file: &File, bytes: u64) -> io::Result<()> {
    let there = file.metadata()?.len();
    if there < bytes {
        return Err(io::Error::other("the file is shorter than it was left"));
    }
    if there > bytes {
        file.set_len(bytes)?;
    }
    Ok(())
}

fn push_line<T: Serialize>(text: &mut Vec<u8>, content: &T) {
    let json = serde_json::to_vec(content).expect("invariant: plain data has a JSON form");
    text.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
    text.extend_from_slice(&json);
    text.push(b'\n');
}

/// What a file holds.
fn load(bytes: &[u8], key: &DerivingKey) -> Loaded {
    let mut loaded = Loaded::default();
    let mut bad = 0_usize;
    let mut lines = 0_usize;
    let mut head = None;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(whole) = line.strip_suffix(b"\n") else {
            break;
        };
        loaded.bytes += line.len() as u64;
        lines += 1;
        if lines == 1 {
            head = content::<Head>(whole).filter(|head| head.version == VERSION);
            continue;
        }
        match content::<Vec<Change>>(whole) {
            Some(changes) => {
                loaded.changes += changes.len();
                for change in changes {
                    loaded.set.apply(change, key);
                }
            }
            None => bad += 1,
        }
    }
    let snapshot = head.as_ref().map_or(0, |head| head.snapshot);
    let missing = (snapshot + 1).saturating_sub(lines);
    loaded.damage = if head.is_none() {
        Some("its first line makes no sense".to_owned())
    } else if bad + missing > 0 {
        Some(format!(
            "{} of its lines make no sense or are missing",
            bad + missing
        ))
    } else {
        None
    };
    loaded
}

/// The content of a line whose sum is right.
fn content<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    let (sum, json) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    if line[8] != b' ' || sum != crc32fast::hash(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
