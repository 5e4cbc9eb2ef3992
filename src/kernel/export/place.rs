//! Where an export may be written: within the folder that is configured for it, and nowhere else.
//!
//! Kept here: a document is whole or not there, its file is ours alone (0600), and what was there
//! before is replaced only where that was asked for, and only if it is a file.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::files::{self, PRIVATE_FILE};

/// Longest path that is taken, in bytes: what Linux takes.
const PATH_BYTES_MAX: usize = 4096;

/// Why nothing is written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The path leads elsewhere, or cannot be one.
    #[error("{0}")]
    Path(String),
    /// There is something already.
    #[error("{0}")]
    Taken(String),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] files::FileError),
    /// What is there cannot be looked at.
    #[error("cannot look at {}: {reason}", path.display())]
    Look {
        /// Where.
        path: PathBuf,
        /// The system's words.
        reason: io::Error,
    },
}

/// The folder of exports. Writes one at a time, so that two of the same name are not both new.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    writing: Mutex<()>,
}

impl Folder {
    /// This folder, which may not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            writing: Mutex::default(),
        }
    }

    /// Writes a document and says where it is. A relative path is one within the folder.
    pub fn write(
        &self,
        path: &str,
        document: &[u8],
        allow_overwrite: bool,
    ) -> Result<PathBuf, PlaceError> {
        let place = self.place(path)?;
        // What it guards is on the disk, whole whatever became of another writer.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::symlink_metadata(&place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => {
                return Err(PlaceError::Look {
                    path: place,
                    reason,
                });
            }
            Ok(there) if !there.is_file() => {
                let why = format!(
                    "{} is there and is no file; choose another name",
                    place.display()
                );
                return Err(PlaceError::Taken(why));
            }
            Ok(_) if !allow_overwrite => {
                let mend = "choose another name, or set allow_overwrite";
                let why = format!("{} is there already; {mend}", place.display());
                return Err(PlaceError::Taken(why));
            }
            Ok(_) => {}
        }
        files::write_atomically(&place, document, PRIVATE_FILE)?;
        Ok(place)
    }

    /// The place that a path means, without any link on the way to it.
    fn place(&self, path: &str) -> Result<PathBuf, PlaceError> {
        let refused = |why: &str| {
            let folder = self.path.display();
            let why = format!("path {why}; name a file under the export folder {folder}");
            Err(PlaceError::Path(why))
        };
        if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return refused("is empty, too long, or holds a zero byte");
        }
        let asked = Path::new(path);
        if asked.components().any(|it| it == Component::ParentDir) {
            return refused("holds «..»");
        }
        let place = self.path.join(asked);
        let (Some(above), Some(name)) = (place.parent(), place.file_name()) else {
            return refused("names no file");
        };
        if path.ends_with('/') || path.ends_with("/.") {
            return refused("names a folder");
        }
        let (Ok(folder), Ok(above)) = (self.path.canonicalize(), above.canonicalize()) else {
            return refused("leads to a folder that is not there, or cannot be entered");
        };
        if !above.starts_with(&folder) {
            return refused("leads elsewhere");
        }
        Ok(above.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn stage() -> (TempDir, Folder) {
        let above = tempfile::tempdir().unwrap();
        let exports = above.path().join("exports");
        fs::create_dir(&exports).unwrap();
        fs::create_dir(exports.join("sub")).unwrap();
        (above, Folder::new(exports))
    }

    #[test]
    fn a_document_is_written_within_the_folder_for_us_alone() {
        let (above, folder) = stage();
        let exports = above.path().join("exports").canonicalize().unwrap();
        let absolute = exports.join("b.json");
        let absolute = absolute.to_str().unwrap();
        for (path, at) in [
            ("a.json", "a.json"),
            ("sub/a.json", "sub/a.json"),
            ("./c.json", "c.json"),
            (absolute, "b.json"),
        ] {
            let place = folder.write(path, b"{}", false).unwrap();
            assert_eq!(place, exports.join(at));
            assert_eq!(fs::read(&place).unwrap(), b"{}");
            let mode = fs::metadata(&place).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        let (above, folder) = stage();
        let exports = above.path().join("exports");
        symlink(above.path(), exports.join("out")).unwrap();
        let outside = above.path().join("x.json");
        let outside = outside.to_str().unwrap();
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        let sly = format!("{}/../x.json", exports.display());
        let beside = format!("{}2/x.json", exports.display());
        for path in [
            "",
            "..",
            "../x.json",
            "sub/../../x.json",
            "/",
            "/x.json",
            ".",
            "./",
            "sub/",
            "sub/.",
            "out/x.json",
            "absent/x.json",
            "a\0b",
            outside,
            &long,
            &sly,
            &beside,
        ] {
            let refused = folder.write(path, b"canary", true);
            assert!(
                matches!(refused, Err(PlaceError::Path(_))),
                "{path}: {refused:?}"
            );
        }
        assert!(!Path::new(outside).exists());
        assert_eq!(
            fs::read_dir(exports).unwrap().count(),
            2,
            "nothing was left behind"
        );
    }

    #[test]
    fn what_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_file() {
        let (above, folder) = stage();
        let place = folder.write("a.json", b"one", false).unwrap();
        let taken = folder.write("a.json", b"two", false);
        assert!(matches!(taken, Err(PlaceError::Taken(_))));
        assert_eq!(fs::read(&place).unwrap(), b"one");
        folder.write("a.json", b"two", true).unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"two");
        let precious = above.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, above.path().join("exports/link.json")).unwrap();
        for path in ["link.json", "sub"] {
            let taken = folder.write(path, b"canary", true);
            assert!(matches!(taken, Err(PlaceError::Taken(_))), "{path}");
        }
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
}
