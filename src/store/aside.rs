//! Setting a damaged store aside: the database with its log, its index and its witness are renamed
//! together, so that a person finds every byte of it. Never overwrites what was set aside before.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::base::files::{self, FileError};

use super::witness;

/// The log that SQLite keeps beside a database.
const LOG: &str = "-wal";
/// Its index, there while somebody has the database open.
const INDEX: &str = "-shm";
/// All that SQLite keeps there. The journal is used only until a new file has its log; one that
/// stayed behind would be played back into the next file.
const BESIDE: [&str; 3] = [LOG, INDEX, "-journal"];

/// The write-ahead log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    with_suffix(database, LOG)
}

/// The index of that log.
pub(super) fn index_of(database: &Path) -> PathBuf {
    with_suffix(database, INDEX)
}

/// Moves all files of a database out of the way; `now` in seconds since 1970. Tells where the
/// database is then (or, when it was already gone, the first of its files).
pub(super) fn set_aside(database: &Path, now: i64) -> Result<PathBuf, FileError> {
    let mut all = vec![database.to_owned()];
    all.extend(BESIDE.map(|suffix| with_suffix(database, suffix)));
    all.push(witness::path_of(database));
    let mut stamp = now;
    while all.iter().any(|path| taken(path, stamp)) {
        stamp += 1;
    }
    let mut kept_as = None;
    for path in all.iter().filter(|path| path.symlink_metadata().is_ok()) {
        let moved = files::set_aside(path, stamp)?;
        kept_as.get_or_insert(moved);
    }
    sync_folder_of(database)?;
    Ok(kept_as.unwrap_or_else(|| database.to_owned()))
}

/// Makes names in the file's folder durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| FileError::new("cannot sync the folder", folder, e))
}

fn taken(path: &Path, stamp: i64) -> bool {
    with_suffix(path, &format!(".corrupt-{stamp}"))
        .symlink_metadata()
        .is_ok()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_set_aside_before_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        for content in ["one", "two", "three"] {
            fs::write(&database, content).unwrap();
            fs::write(log_of(&database), content).unwrap();
            let kept_as = set_aside(&database, 1_000).unwrap();
            assert_eq!(fs::read_to_string(kept_as).unwrap(), content);
        }
        assert!(!database.exists() && !log_of(&database).exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }
}
