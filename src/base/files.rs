//! Files that are whole or not there: written beside their place, synced, renamed, and the folder
//! synced. A reader never meets half a file, and a crash never leaves one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of the state folder and what it holds in folders: ours alone.
pub const PRIVATE_FOLDER: u32 = 0o700;
/// Mode of the files in it.
pub const PRIVATE_FILE: u32 = 0o600;

/// A file operation that failed, with the path it was about.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Names the operation (`"cannot write"`) and the path beside the system's reason.
    pub fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// The system's reason.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Creates a folder and what lacks above it; the last one gets `mode` if it is new.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let fail = |e| FileError::new("cannot create the folder", path, e);
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(fail)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(fail),
    }
}

/// Writes `content` as the whole of `path` with `mode`, atomically and durably.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let fail = |e| FileError::new("cannot write", path, e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_and_rename(&beside, path, folder, content, mode);
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.map_err(fail)
}

fn write_and_rename(
    beside: &Path,
    path: &Path,
    folder: &Path,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(beside)?;
    // The mode given to `open` is cut by the umask, and an old file keeps its own.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    File::open(folder)?.sync_all()
}

/// Like [`write_atomically`], but leaves a file alone that already has this content, so that its
/// modification time is the time of the last change. Tells whether it wrote.
pub fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
    if read_if_there(path)?.is_some_and(|old| old == content) {
        return Ok(false);
    }
    write_atomically(path, content, mode)?;
    Ok(true)
}

/// The file's bytes, or `None` when there is no such file.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(FileError::new("cannot read", path, e)),
    }
}

/// Moves a file that makes no sense out of the way, keeping it for a person to look at.
pub fn set_aside(path: &Path, stamp: i64) -> Result<PathBuf, FileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{stamp}"));
    let aside = PathBuf::from(name);
    fs::rename(path, &aside).map_err(|e| FileError::new("cannot set aside", path, e))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_without_leavings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"one", 0o640).unwrap();
        write_atomically(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unchanged_file_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(write_if_changed(&path, b"x", 0o600).unwrap());
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(!write_if_changed(&path, b"x", 0o600).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert!(write_if_changed(&path, b"y", 0o600).unwrap());
    }

    #[test]
    fn an_error_names_the_path() {
        let error = write_atomically(Path::new("/nowhere/at/all"), b"", 0o600).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
