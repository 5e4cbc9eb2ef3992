//! The witness against going back: beside the database, a small file with the number of commits
//! ever made, which the database holds too. A database with a smaller number than its witness is
//! older than what was committed: its write-ahead log was damaged (SQLite drops what follows the
//! damage and says nothing), or an old copy was put back.
//!
//! The number is written only after the commit is on the disk, so the witness is never ahead of a
//! sound database. Its number is not synced: after a power loss it may be behind or torn, which is
//! harmless, because only one that is whole and ahead says anything. A sync would double the price
//! of each commit.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::files::PRIVATE_FILE;

/// What the file begins with: whose it is, and its form.
const MAGIC: &[u8; 8] = b"xa-mark1";
/// Magic, number of commits (`u64`), CRC-32 of both (`u32`), little-endian.
const LENGTH: usize = 20;

/// The witness's own file.
#[derive(Debug)]
pub(super) struct Witness {
    file: fs::File,
}

/// Where the witness of a database stands.
pub(super) fn path_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".mark");
    PathBuf::from(name)
}

/// The number of commits that the witness of `database` tells; `None` without one, and when it
/// makes no sense.
pub(super) fn read(database: &Path) -> io::Result<Option<u64>> {
    match fs::read(path_of(database)) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Witness {
    /// Opens or creates the witness of `database`. That there is one outlives a power loss, whatever
    /// it says then.
    pub(super) fn open(database: &Path) -> io::Result<Self> {
        let path = path_of(database);
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)?;
        if is_new {
            file.write_all_at(&encode(0), 0)?;
            file.sync_all()?;
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { file })
    }

    /// Notes that this many commits are on the disk.
    pub(super) fn note(&self, commits: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(commits), 0)
    }
}

fn encode(commits: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&commits.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(8..16)?.try_into().ok()?;
    let commits = u64::from_le_bytes(number);
    (encode(commits) == bytes).then_some(commits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_mark_says_anything() {
        let whole = encode(77);
        assert_eq!(decode(&whole), Some(77));
        assert_eq!(decode(&whole[..19]), None);
        assert_eq!(decode(&[]), None);
        for bit in 0..LENGTH * 8 {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn the_last_note_stands_across_handles() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        assert_eq!(read(&database).unwrap(), None);
        Witness::open(&database).unwrap().note(1).unwrap();
        Witness::open(&database).unwrap().note(2).unwrap();
        assert_eq!(read(&database).unwrap(), Some(2));
    }
}
