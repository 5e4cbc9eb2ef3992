//! Why a store did not do its work, and how failures of SQLite are told apart. Every message says
//! what failed, where, and what mends it.
//!
//! The classes follow <https://sqlite.org/rescode.html>. In doubt a failure is a [`Class::Bug`]:
//! the work is undone, and neither the file nor the handle is touched.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_DIR_FSYNC, SQLITE_IOERR_FSYNC};

/// Why the work within a transaction gives up. The transaction is rolled back.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// SQLite refused; its code decides what becomes of the store.
    #[error(transparent)]
    Sql(rusqlite::Error),
    /// The file holds what was never written: it is set aside, and the next work begins a new one.
    #[error("{0}")]
    Damaged(String),
}

impl From<rusqlite::Error> for WorkError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            // Tables are STRICT: what was written came out as it went in.
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => {
                Self::Damaged(format!("a value is not what was written: {error}"))
            }
            other => Self::Sql(other),
        }
    }
}

/// Work that was not done. Each but [`StoreError::Unavailable`] says that nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file was written by a newer version; it is left as it is, for as long as we run.
    #[error(
        "{} was written by a newer version of the agent (schema {found}, this one knows {known}) \
         and is left untouched; run that version again, or move the file away to begin anew",
        file.display()
    )]
    Newer {
        /// The file's schema.
        found: usize,
        /// The newest schema that this program knows.
        known: usize,
        /// The file.
        file: PathBuf,
    },
    /// No space is left on the file system. The handle stays: the same work can be tried again.
    #[error("{0}")]
    Full(String),
    /// The file cannot be used now: locked, read-only, no permission, an I/O error. It is opened
    /// anew by the next work. After an I/O error the outcome of a commit is not known: read back.
    #[error("{0}")]
    Unavailable(String),
    /// The file was damaged and set aside; the next work begins a new one.
    #[error(
        "{why}; the file is kept as {} and the next work begins a new one; look at the disk, and \
         report this if it is sound",
        kept_as.display()
    )]
    Damaged {
        /// What is wrong with it.
        why: String,
        /// Where it is now.
        kept_as: PathBuf,
    },
    /// The disk did not sync: what is on it is not known, and the process has to end.
    #[error("{0}")]
    Failed(String),
    /// An error of the program: SQL that is refused, or a panic.
    #[error("{0}")]
    Bug(String),
    /// The writer's thread is gone.
    #[error("the store is closed")]
    Closed,
}

/// What a failure of SQLite means for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No space; rolled back, the handle is good.
    Full,
    /// Not now; the handle is dropped, the file is opened anew.
    Unavailable,
    /// The file is not what SQLite wrote.
    Damaged,
    /// A sync failed; never to be tried again.
    Failed,
    /// Ours.
    Bug,
}

/// Tells failures apart.
pub(super) fn class_of(error: &rusqlite::Error) -> Class {
    let failure = match error {
        rusqlite::Error::SqliteFailure(failure, _) => failure,
        rusqlite::Error::SqlInputError { error, .. } => error,
        // Text goes in as a `str` only, so it comes out as one unless the file was changed.
        rusqlite::Error::Utf8Error(..) => return Class::Damaged,
        _ => return Class::Bug,
    };
    match (failure.code, failure.extended_code) {
        // The kernel tells a failed sync once and then takes the pages for clean, so a second
        // try would succeed without having written anything.
        (_, SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC) => Class::Failed,
        (ErrorCode::DiskFull, _) => Class::Full,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Class::Damaged,
        (
            ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::DatabaseBusy
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory,
            _,
        ) => Class::Unavailable,
        _ => Class::Bug,
    }
}

/// A failure before it is settled what becomes of the store.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite's, with its own class.
    Sql(rusqlite::Error),
    /// The file holds what cannot be.
    Damaged(String),
    /// The file has a newer schema.
    Newer(usize),
    /// The file cannot be used now.
    Unavailable(String),
    /// The work panicked, or did what it must not.
    Bug(String),
}

impl Trouble {
    /// Whether the work itself is at fault, and neither the file nor the disk.
    pub(super) fn is_of_the_work(&self) -> bool {
        match self {
            Self::Sql(error) => class_of(error) == Class::Bug,
            Self::Bug(_) => true,
            Self::Damaged(_) | Self::Newer(_) | Self::Unavailable(_) => false,
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<WorkError> for Trouble {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Sql(error) => Self::Sql(error),
            WorkError::Damaged(why) => Self::Damaged(why),
        }
    }
}

impl From<rusqlite_migration::Error> for Trouble {
    fn from(error: rusqlite_migration::Error) -> Self {
        match error {
            // Its own text repeats the whole SQL.
            rusqlite_migration::Error::RusqliteError { err, .. } => Self::Sql(err),
            other => Self::Bug(other.to_string()),
        }
    }
}

/// SQLite's words with its extended code, which says more than they do.
pub(super) fn reason_of(error: &rusqlite::Error) -> String {
    match error.sqlite_error() {
        Some(failure) => format!("{error}, code {}", failure.extended_code),
        None => error.to_string(),
    }
}

/// The message for a failure of SQLite while `doing` with `file`.
pub(super) fn describe(class: Class, doing: &str, file: &Path, reason: &str) -> String {
    let file = file.display();
    match class {
        Class::Full => format!(
            "{doing}: no space is left for {file} ({reason}); free space on that file system, and \
             it goes on by itself"
        ),
        Class::Unavailable => format!(
            "{doing}: {file} cannot be used ({reason}); check that its folder is there, writable \
             for the agent and not full, and that the disk is sound; it is tried again"
        ),
        Class::Damaged => format!("{doing}: {file} is damaged ({reason})"),
        Class::Failed => format!(
            "{doing}: the disk did not sync {file} ({reason}), so what it holds is not known; the \
             process ends and begins anew from the disk; check the disk with `dmesg`"
        ),
        Class::Bug => format!("{doing}: {reason}; this is a fault of the agent, please report it"),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn each_code_has_its_class() {
        for (code, class) in [
            (ffi::SQLITE_FULL, Class::Full),
            (ffi::SQLITE_IOERR_FSYNC, Class::Failed),
            (ffi::SQLITE_IOERR_DIR_FSYNC, Class::Failed),
            (ffi::SQLITE_IOERR_WRITE, Class::Unavailable),
            (ffi::SQLITE_IOERR_READ, Class::Unavailable),
            (ffi::SQLITE_READONLY_DIRECTORY, Class::Unavailable),
            (ffi::SQLITE_CANTOPEN, Class::Unavailable),
            (ffi::SQLITE_PERM, Class::Unavailable),
            (ffi::SQLITE_BUSY_SNAPSHOT, Class::Unavailable),
            (ffi::SQLITE_CORRUPT, Class::Damaged),
            (ffi::SQLITE_CORRUPT_INDEX, Class::Damaged),
            (ffi::SQLITE_NOTADB, Class::Damaged),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Class::Bug),
            (ffi::SQLITE_ERROR, Class::Bug),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(class_of(&error), class, "{code}");
        }
        assert_eq!(
            class_of(&rusqlite::Error::QueryReturnedNoRows),
            Class::Bug,
            "an empty answer is the caller's"
        );
    }
}
